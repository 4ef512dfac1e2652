"""From the paths that people write in tables to the files that are there."""

from __future__ import annotations

import os
import posixpath
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tellapart.data.sources.tree import to_path, walk
from tellapart.data.unreadable import ImageError

# After so many questions about one folder, listing it costs less than asking on; a huge folder with few files named
# in the table is never listed. Where names are compared without case, only the system can answer.
_NUM_ASKED = 32
_CAN_LIST = sys.platform not in ("darwin", "win32")
_NUM_SAMPLED = 200


class Found(NamedTuple):
    """The file of each path, relative to the root with "/" between the names or absolute; if it is there; notes."""

    files: list[str]
    is_there: list[bool]
    notes: list[str]


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ImageError: it is gone, is a folder, or may not be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"the file cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def find_files(texts: Sequence[str], folder: Path, root: Path) -> Found:
    """Return the files that paths in a table mean.

    They are taken relative to the table's folder. Only where none of them is there, other readings are tried, and a
    note says so: relative to the root, to the current folder; without the first folders of the path, as for a table
    from another machine; as the names of files anywhere below the folder, with or without their endings.

    A path is found by `file://` address, with backslashes for slashes, in another Unicode form or as `to_text` wrote
    it, where no file has the plain name.

    Args:
        texts: the cells.
        folder: the table's own, below `root` or `root` itself.
        root: what the user named; absolute.
    """
    cleaned = [_clean(text) for text in texts]
    sample = cleaned[:: max(1, len(cleaned) // _NUM_SAMPLED)]
    for base, note in _bases(folder, root):
        if _Listing(base).count(sample):
            return _all_below(base, cleaned, root, [note] if note else [])
    found = _all_below(folder, cleaned, root, [])
    if any(found.is_there) or not texts:
        return found
    return _without_first_folders(cleaned, sample, folder, root) or _by_name(cleaned, folder, root) or found


def count_files(texts: Sequence[str], folder: Path, root: Path) -> int:
    """Return how many of some cells name files that are there, relative to the likeliest folder."""
    cleaned = [_clean(text) for text in texts]
    return max(_Listing(base).count(cleaned) for base, _ in _bases(folder, root))


def _bases(folder: Path, root: Path) -> Iterator[tuple[Path, str]]:
    yield folder, ""
    if root != folder:
        yield root, ""
    if (current := Path.cwd()) not in (folder, root):
        yield current, f"the paths were found from the current folder, {current}, and not from the table's."


def _all_below(base: Path, paths: Sequence[str], root: Path, notes: list[str]) -> Found:
    listing = _Listing(base)
    spelled = [listing.spelling(path) for path in paths]
    prefix = base.relative_to(root).as_posix() if base.is_relative_to(root) else str(base)
    prefix = "" if prefix == "." else f"{prefix}/"
    inside = f"{root.as_posix()}/"
    files = [name or path for name, path in zip(spelled, paths, strict=True)]
    files = [prefix + file if file[:1] != "/" else file.removeprefix(inside) for file in files]
    return Found(files, [name is not None for name in spelled], notes)


def _without_first_folders(paths: Sequence[str], sample: Sequence[str], folder: Path, root: Path) -> Found | None:
    listing = _Listing(folder)
    parts = [path.replace("\\", "/").split("/") for path in sample]
    for count in range(1, max(map(len, parts))):
        if listing.count(["/".join(part[count:]) for part in parts if len(part) > count]):
            shorter = ["/".join(path.replace("\\", "/").split("/")[count:]) or path for path in paths]
            first = posixpath.join(*parts[0][:count], "") or "/"
            note = f"no file is there under its full path; they were found without the first part, such as '{first}'."
            return _all_below(folder, shorter, root, [note])
    return None


def _by_name(paths: Sequence[str], folder: Path, root: Path) -> Found | None:
    """Find files anywhere below the folder by their names alone, where only one file has the name."""
    images = walk(folder).images
    names = [image.rpartition("/")[2] for image in images]
    stems = [name.rpartition(".")[0] for name in names]
    counts = Counter([*names, *stems])
    known = {key: image for keys in (stems, names) for key, image in zip(keys, images, strict=True) if counts[key] == 1}
    if not any(path in known for path in paths):
        return None
    note = f"the paths lead to no files; {folder.name} was searched for files of those names, with any ending."
    found = _all_below(folder, [known.get(path, path) for path in paths], root, [note])
    return found if any(found.is_there) else None


def _clean(text: str) -> str:
    if text.startswith("file:"):
        text = unquote(urlsplit(text).path)
    if "//" in text or "./" in text or text.endswith("/."):
        text = text if "://" in text else posixpath.normpath(text).replace("//", "/", 1)
    return text


class _Listing:
    """Which files are there below a folder, without a question to the system for each."""

    def __init__(self, base: Path) -> None:
        self._base, self._names, self._asked = base, dict[str, set[str]](), Counter[str]()

    def count(self, paths: Sequence[str]) -> int:
        return sum(self.spelling(path) is not None for path in paths)

    def spelling(self, path: str) -> str | None:
        """Return the path as the file system spells it, or None where there is no such file."""
        if self._has(path):
            return path
        return next((other for other in _other_spellings(path) if self._has(other)), None)

    def _has(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            self._asked[folder] += 1
            if self._asked[folder] <= _NUM_ASKED or not _CAN_LIST:
                return bool(name) and self._ask(path)
            names = self._names[folder] = self._list(f"{folder}/" if path[:1] == "/" else folder)
        return name in names

    def _ask(self, path: str) -> bool:
        try:
            return (self._base / path).is_file()
        except (OSError, ValueError):  # a name too long, or with a zero byte in it
            return False

    def _list(self, folder: str) -> set[str]:
        try:
            with os.scandir(self._base / folder) as entries:
                return {entry.name for entry in entries if not entry.is_dir()}
        except (OSError, ValueError):
            return set()


def _other_spellings(path: str) -> Iterator[str]:
    if (stripped := path.strip()) != path:
        yield stripped
    slashed = stripped.replace("\\", "/")
    if slashed != stripped:
        with suppress(ValueError, UnicodeError):  # other backslashes than those of `to_text`
            yield to_path(path)
        yield posixpath.normpath(slashed)
    if not path.isascii():
        yield unicodedata.normalize("NFC", slashed)
        yield unicodedata.normalize("NFD", slashed)

"""Everything below a folder, listed the same way on every file system, and file names as text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tellapart.errors import DataError

ENDINGS = frozenset(
    f".{ending}"
    for ending in "jpg jpeg jpe jfif mpo png webp bmp tif tiff gif avif ppm pgm pbm pnm".split()  # noqa: SIM905
)
# What file managers and archivers leave behind; names that start with a dot are passed over as well.
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})


class Tree(NamedTuple):
    """Everything below a folder, as relative paths with "/" between the names, sorted.

    `others` are files that are not images by their endings, and whatever is no file; `repeated_links` lead to folders
    that are listed elsewhere in the tree.
    """

    images: list[str]
    folders: list[str]
    others: list[str]
    broken_links: list[str]
    repeated_links: list[str]


def walk(root: Path) -> Tree:
    """List a folder, links followed; each folder is entered once, so a loop of links comes to an end.

    Folders reached without a link come first: of a folder and a link to it, the folder is the one that counts.

    Raises:
        DataError: a folder cannot be listed.
    """
    tree = Tree([], [], [], [], [])
    entered: set[tuple[int, int]] = set()
    waiting, links = [""], []
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            status = (root / folder).stat()
            if (status.st_dev, status.st_ino) in entered:
                tree.repeated_links.append(folder)
                continue
            entered.add((status.st_dev, status.st_ino))
            _list(root, folder, tree, waiting, links)
        except OSError as error:
            path = to_text(str(root / folder))
            raise DataError(f"{path}: the folder cannot be listed: {error.strerror or error}.") from error
        if folder:
            tree.folders.append(folder)
        links.sort()
    return Tree(*(sorted(paths) for paths in tree))


def _list(root: Path, folder: str, tree: Tree, waiting: list[str], links: list[str]) -> None:
    """Sort the entries of one folder into `tree`, and the folders still to be entered into the two lists."""
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _LITTER:
                continue
            kind = _kind(entry)
            if kind == "folder":
                place = links if entry.is_symlink() else waiting
            elif kind == "file":
                place = tree.images if ending(entry.name) in ENDINGS else tree.others
            else:
                place = tree.broken_links if entry.is_symlink() else tree.others
            place.append(f"{folder}/{entry.name}" if folder else entry.name)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself, or into a folder that may not be read
        return "other"


def ending(name: str) -> str:
    """Return the lower-case ending of a file name or path, with its dot, or "".

    >>> ending("photos/A.JPG"), ending("README")
    ('.jpg', '')
    """
    stem, dot, last = name.rpartition(".")
    return f".{last.lower()}" if dot and stem and "/" not in last else ""


def title(path: Path) -> str:
    """Return the name of a file or folder as text, also where the path ends in "." or ".."."""
    return to_text(path.name if path.name not in ("", "..") else path.resolve().name or str(path.resolve()))


def to_text(path: str) -> str:
    r"""Return a file name as text that UTF-8 can hold; `to_path` gives the name back.

    On Linux a file name is bytes. Those that are not UTF-8 become `\xNN`, and a backslash becomes two.

    >>> to_text("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    if "\\" not in path and (path.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in path)):
        return path
    return path.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_path(text: str) -> str:
    r"""Return the file name that `to_text` made into text.

    >>> to_path("caf\\xe9.jpg") == "caf\udce9.jpg"
    True
    """
    if "\\" not in text:
        return text
    raw, position = bytearray(), 0
    while position < len(text):
        if text.startswith("\\x", position):
            raw.append(int(text[position + 2 : position + 4], 16))
            position += 4
            continue
        raw += text[position].encode("utf-8")
        position += 2 if text[position] == "\\" else 1
    return raw.decode("utf-8", "surrogateescape")

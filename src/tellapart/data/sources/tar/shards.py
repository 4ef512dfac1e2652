"""Which tar shards an address, a pattern or a folder stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from tellapart.data.sources.shards import files_below, parts_of_shards
from tellapart.data.sources.tar.index import Shard
from tellapart.data.sources.tar.local import LocalFiles
from tellapart.data.sources.tar.remote import NotThereError, RemoteFiles
from tellapart.data.sources.tar.remote_system import shown
from tellapart.data.sources.tar.samples import unique
from tellapart.data.sources.tree import to_text
from tellapart.errors import DataError

# The last group of braces; those before it are expanded by the next call.
_BRACES = re.compile(r"(.*)\{([^{}]*)\}(.*)", re.DOTALL)
_RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
_MAX_SHARDS = 100_000
_ORDER = {"train": 0, "": 1, "val": 2, "test": 3}
# More at a time would look like an attack to some servers.
_NUM_REQUESTS = 16


def expand_braces(pattern: str) -> list[str]:
    """Return what a shell makes of a pattern with braces.

    Raises:
        DataError: braces that are neither a range of numbers nor a list, or too many shards.

    >>> expand_braces("{train,val}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    if (match := _BRACES.fullmatch(pattern)) is None:
        return [pattern]
    heads, choices = expand_braces(match[1]), _choices(match[2], pattern)
    if len(heads) * len(choices) > _MAX_SHARDS:
        raise DataError(f"{shown(pattern)}: stands for more than {_MAX_SHARDS:,} shards.")
    return [head + choice + match[3] for head in heads for choice in choices]


def _choices(text: str, pattern: str) -> list[str]:
    if (match := _RANGE.fullmatch(text)) is None:
        if "," not in text:
            raise DataError(
                f"{shown(pattern)}: expected braces such as {{0000..0127}} or {{train,val}}, found {{{text}}}."
            )
        return text.split(",")
    first, last, step = int(match[1]), int(match[2]), max(1, int(match[3] or 1))
    if abs(last - first) // step >= _MAX_SHARDS:
        raise DataError(f"{shown(pattern)}: stands for more than {_MAX_SHARDS:,} shards.")
    is_padded = any(len(number) > 1 and number.startswith("0") for number in (match[1], match[2]))
    width = max(len(match[1]), len(match[2])) if is_padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [f"{number:0{width}d}" for number in numbers]


def find_shards(given: str, files: LocalFiles | RemoteFiles) -> tuple[list[Shard], list[str]]:
    """Return the shards, each once, and their names: of a folder train before val before test, else as in the pattern.

    Names are relative to the folder that was given, or else to the one that the shards have in common.

    Raises:
        DataError: there are none, or some of those that the pattern names are not there.
    """
    is_remote = isinstance(files, RemoteFiles)
    root, addresses = _list_remote(given, files) if is_remote else _list_local(given)
    addresses = list(dict.fromkeys(addresses))
    with ThreadPoolExecutor(_NUM_REQUESTS if is_remote else 1) as pool:
        found = list(pool.map(lambda address: _look(address, files), addresses))
    missing = [shown(to_text(address)) for address, shard in zip(addresses, found, strict=True) if shard is None]
    if missing:
        named = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise DataError(
            f"{shown(to_text(given))}: {len(missing):,} of {len(addresses):,} shards are not there: {named}. Put them "
            "there, or name those that are."
        )
    if is_remote:
        # One question for each place that the shards come from.
        for address in {address.rpartition("/")[0]: address for address in addresses}.values():
            files.require_parts(address)
    return [shard for shard in found if shard is not None], unique(short_names(addresses, root))


def short_names(addresses: Sequence[str], root: str = "") -> list[str]:
    """Return the addresses as text, below a folder, or without the folders that they have in common.

    >>> short_names(["/data/train/0.tar", "/data/val/0.tar"]), short_names(["https://a.org/0.tar?key=1"])
    (['train/0.tar', 'val/0.tar'], ['0.tar'])
    >>> short_names(["/data/train/0.tar"], "/data")
    ['train/0.tar']
    """
    if root and all(address.startswith(f"{root}/") for address in addresses):
        return [to_text(shown(address).removeprefix(f"{shown(root)}/")) for address in addresses]
    steps = [shown(address).split("/") for address in addresses]
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == steps[0][shared] for path in steps):
        shared += 1
    return [to_text("/".join(path[shared:])) for path in steps]


def _look(address: str, files: LocalFiles | RemoteFiles) -> Shard | None:
    try:
        return Shard(address, *files.facts(address))
    except (NotThereError, FileNotFoundError):
        return None
    except OSError as error:
        raise DataError(f"{to_text(address)}: cannot be read: {error.strerror or error}.") from error


def _list_remote(given: str, files: RemoteFiles) -> tuple[str, list[str]]:
    """Return the folder that was given, "" if it was none, and the addresses of the shards."""
    expanded = expand_braces(given)
    if "*" in given:
        root, found = "", []
        for pattern in expanded:
            folder, _, star = pattern.partition("*")
            folder, _, start = folder.rpartition("/")
            found += files.find(folder, f"{start}*{star}")
    elif len(expanded) > 1 or shown(given).lower().endswith(".tar"):
        return "", expanded
    else:
        root = given.rstrip("/")
        found = files.find(root, "*.tar") or files.find(root, "*/*.tar")
    if not found:
        example = f", such as {shown(root)}/train-{{0000..0127}}.tar" if root else ""
        raise DataError(f"{shown(given)}: expected tar shards there{example}, found no .tar file.")
    return root, _in_order(found, root)


def _list_local(given: str) -> tuple[str, list[str]]:
    path = Path(given).expanduser()
    root = str(path.absolute())
    if path.is_dir():
        try:
            found = [f"{root.rstrip('/')}/{file}" for file in files_below(path, ".tar")]
        except OSError as error:
            raise DataError(f"{to_text(root)}: the folder cannot be listed: {error.strerror or error}.") from error
        if not found:
            raise DataError(f"{to_text(root)}: expected .tar files, found none.")
        return root.rstrip("/"), _in_order(found, root.rstrip("/"))
    if path.exists():
        return "", [root]
    found, is_pattern = [], False
    for pattern in (str(Path(text).expanduser().absolute()) for text in expand_braces(given)):
        matches = [pattern] if Path(pattern).exists() else sorted(glob(pattern))  # noqa: PTH207 - not of one folder
        is_pattern = is_pattern or matches not in ([], [pattern])
        found += matches or [pattern]
    return "", _in_order(found, "") if is_pattern else found


def _in_order(addresses: Sequence[str], root: str) -> list[str]:
    names = short_names(addresses, root)
    parts = parts_of_shards(names)
    pairs = sorted(zip(names, addresses, strict=True), key=lambda pair: (_ORDER[parts[pair[0]]], pair[0]))
    return [address for _, address in pairs]

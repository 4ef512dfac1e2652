"""A folder of images: one sub-folder a class, perhaps inside folders for train, val and test.

Which of the two it is, the names decide. `root/train/ants/1.jpg` is divided into parts when a folder named like train
is there and every sub-folder that holds images is named like a part ("train", "training", "val", "valid",
"validation", "dev", "eval", "evaluation", "test", "testing", also with "set" behind; case does not matter). Beside
another folder for val and none for test, "eval" is test. Otherwise every sub-folder is a class, so that a class may be
called "test" among others; only where folders named like different parts hold the same classes is that refused. Files
anywhere below a class folder belong to that class. A folder that holds one folder and no more, as archives are
unpacked to, is entered.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tellapart.data.sources.base import Source, part_of, require_two_classes
from tellapart.data.sources.parts import parts_of
from tellapart.data.sources.tables.files import read_file
from tellapart.data.sources.tree import ENDINGS, Tree, ending, title, to_text, walk
from tellapart.errors import DataError


class FolderSource(Source):
    """The images below a folder, labelled by the names of the folders; see the module for the layouts.

    Raises:
        DataError: the folder cannot be listed, holds no images with a class, or fewer than two classes.
    """

    def __init__(self, root: str | Path) -> None:
        path = Path(root).expanduser()
        self.root = self._folder = path.absolute()
        name = title(path)
        whole = walk(self._folder)
        wrapping = _wrapping(whole)
        tree = Tree(*([path.removeprefix(wrapping) for path in paths if path.startswith(wrapping)] for paths in whole))
        parts = _told_parts(tree, self._folder)
        depth = 2 if parts else 1
        samples = [(file, *_place(file, parts)) for file in tree.images if file.count("/") >= depth]
        classes = sorted({label for _, _, label in samples})
        if not samples:
            raise DataError(_no_images(name, self._folder, tree))
        require_two_classes(name, classes)
        number = {label: index for index, label in enumerate(classes)}
        self._files = [f"{wrapping}{file}" for file, _, _ in samples]
        super().__init__(
            name,
            classes=classes,
            paths=[to_text(file) for file in self._files],
            targets=np.array([number[label] for _, _, label in samples], dtype=np.int64),
            parts=[part for _, part, _ in samples],
            notes=[*_wrapping_notes(wrapping, whole), *_notes(tree, classes, bool(parts))],
        )

    def read(self, index: int) -> bytes:
        """Return the bytes of the file.

        Raises:
            ImageError: the file is gone, is a folder, or may not be read.
        """
        return read_file(self._folder / self._files[index])


def _wrapping(tree: Tree) -> str:
    """Return the path, with "/" behind it, of the folder in which the layout begins; mostly ""."""
    wrapping = ""
    while True:
        tops = {path.removeprefix(wrapping).split("/")[0] for path in tree.folders if path.startswith(wrapping)}
        if len(tops) != 1 or part_of(min(tops)):
            return wrapping
        inner = f"{wrapping}{min(tops)}/"
        inside = [path.removeprefix(inner) for path in tree.images if path.startswith(inner)]
        if not inside or any("/" not in path for path in inside):
            return wrapping
        wrapping = inner


def _wrapping_notes(wrapping: str, tree: Tree) -> list[str]:
    if not wrapping:
        return []
    notes = [f"the images were looked for in {to_text(wrapping)}, the only folder that is there."]
    if loose := [path for path in tree.images if not path.startswith(wrapping)]:
        notes.append(f"left out {_count(loose, 'image')} outside of it: {_some(loose)}.")
    return notes


def _told_parts(tree: Tree, root: Path) -> dict[str, str]:
    """Return the part of each sub-folder that holds images, or nothing where the sub-folders are classes.

    Raises:
        DataError: the parts are there, but beside other folders, or the images lie in them without a folder a class.
    """
    inner: dict[str, set[str]] = {}
    for path in tree.images:
        top, *rest = path.split("/")
        if rest:
            inner.setdefault(top, set()).update(rest[:-1][:1])
    parts = parts_of(inner)
    names = ", ".join(f"{to_text(top)}/" for top in sorted(inner))
    if "train" not in parts.values() or None in parts.values():
        if any(inner[a] & inner[b] for a in inner for b in inner if parts[a] and parts[b] and parts[a] != parts[b]):
            raise DataError(
                f"{root}: {names} look like parts (train, val, test) with a folder a class inside, but expected a "
                "train folder and no images in folders of other names. Rename or move what does not belong."
            )
        return {}
    if not any(inner[top] for top in inner if parts[top] == "train"):
        raise DataError(
            f"{root}: {names} hold images directly. Expected a folder a class inside, such as train/cats/1.jpg; "
            "the names of parts are no classes. Sort the images into a folder a class."
        )
    return {top: part for top, part in parts.items() if part}


def _place(file: str, parts: Mapping[str, str]) -> tuple[str, str]:
    """Return (part, class) of a file. Macs decompose accents in file names, so the class name is composed again."""
    names = file.split("/")
    label = unicodedata.normalize("NFC", to_text(names[1 if parts else 0]))
    return parts.get(names[0], ""), label


def _notes(tree: Tree, classes: Sequence[str], has_parts: bool) -> list[str]:
    depth = 2 if has_parts else 1
    holding = {"/".join(path.split("/")[:depth]) for path in tree.images}
    folded = Counter(label.casefold() for label in classes)
    alike = [label for label in classes if folded[label.casefold()] > 1]
    empty = [path for path in tree.folders if path.count("/") == depth - 1 and path not in holding]
    found = [
        ("left out", "image", "outside of any class folder", [path for path in tree.images if path.count("/") < depth]),
        ("left out", "folder", "without images", empty),
        ("left out", "file", f"whose endings are not of images ({_endings(tree.others)})", tree.others),
        ("left out", "link", "leading nowhere", tree.broken_links),
        ("left out", "link", "to folders read already", tree.repeated_links),
        ("found", "class name", "different in upper and lower case alone", alike),
        ("found", "class", "named like a part", [label for label in classes if not has_parts and part_of(label)]),
    ]
    return [f"{verb} {_count(paths, noun)} {what}: {_some(paths)}." for verb, noun, what, paths in found if paths]


def _count(paths: Sequence[str], noun: str) -> str:
    return f"{len(paths):,} {noun}{'' if len(paths) == 1 else 'es' if noun.endswith('s') else 's'}"


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(to_text(path) for path in paths[:3])
    return f"{shown}, ..." if len(paths) > 3 else shown


def _endings(paths: Sequence[str]) -> str:
    counts = Counter(to_text(ending(path)) or "none" for path in paths)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in ranked)


def _no_images(name: str, root: Path, tree: Tree) -> str:
    expected = f"{root}: expected images in a folder a class, such as {name}/cats/1.jpg"
    if tree.images:
        return f"{expected}; found {_count(tree.images, 'image')}, all outside of class folders: {_some(tree.images)}."
    found = f"{_count(tree.others, 'file')} of other kinds ({_endings(tree.others)})" if tree.others else "no files"
    return f"{expected}; found {found}. Endings that are read: {', '.join(sorted(ENDINGS))}."

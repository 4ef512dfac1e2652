"""A division that was stored before: of another run, or a table that somebody wrote or edited."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.data.sources import Source
from tellapart.data.splits.found import Say
from tellapart.data.splits.stored import SPLITS, UNUSED, read_columns
from tellapart.errors import DataError

_NUM_SHOWN = 3


@dataclass(frozen=True)
class GivenSplit:
    """What a file says: which image goes where, and, where it tells, what its pixels, class and group are."""

    file: Path
    paths: list[str]
    splits: list[str]
    pixel_hashes: list[str]
    classes: list[str] | None
    groups: list[str] | None


def read_given(name: str) -> GivenSplit:
    """Return the division in a file, or in the folder of a run.

    Raises:
        DataError: no such file, columns or values, or an image that is named twice.
    """
    file = _find(Path(name).expanduser())
    try:
        columns = read_columns(file)
    except (OSError, ValueError) as error:
        raise DataError(f"data.split: {file} cannot be read as a table: {error}") from None
    absent = [name for name in ("path", "split") if name not in columns]
    if absent:
        raise DataError(
            f"data.split: {file}: expected the columns path and split, found {', '.join(columns) or 'none'}."
        )
    paths = ["" if path is None else str(path) for path in columns["path"]]
    # What a spreadsheet shows: its first row holds the names.
    first_row = 0 if file.suffix.lower() == ".parquet" else 2
    splits = _read_splits(file, paths, columns["split"], first_row)
    _refuse_repeated(file, paths, first_row)
    return GivenSplit(
        file,
        paths,
        splits,
        _texts(columns.get("pixel_hash")) or [""] * len(paths),
        _texts(columns.get("class")),
        _texts(columns.get("group")),
    )


def _find(path: Path) -> Path:
    if path.is_dir():
        if (path / "split.parquet").is_file():
            return path / "split.parquet"
        folds = sorted(path.glob("fold-*/split.parquet"))
        hint = f" It is a run of folds; name one, such as {folds[0].parent}." if folds else ""
        raise DataError(f"data.split: {path}: expected a run with a split.parquet, or such a file.{hint}")
    if not path.is_file():
        raise DataError(f"data.split: {path}: there is no such file. Expected a run's split.parquet, a CSV or TSV.")
    return path


def _texts(column: Sequence[Any] | None) -> list[str] | None:
    return None if column is None else ["" if value is None else str(value) for value in column]


def _read_splits(file: Path, paths: list[str], values: Sequence[Any], first_row: int) -> list[str]:
    read = [str(value).strip().lower() for value in values]
    strange = [row for row, name in enumerate(read) if name not in (*SPLITS, UNUSED)]
    if strange:
        shown = "; ".join(f"row {row + first_row} ({paths[row]}): {values[row]!r}" for row in strange[:_NUM_SHOWN])
        raise DataError(
            f"data.split: {file}: expected {', '.join(SPLITS)} or {UNUSED} in the column split, found {shown}"
            + (f", and {len(strange) - _NUM_SHOWN:,} more such rows." if len(strange) > _NUM_SHOWN else ".")
        )
    return read


def _refuse_repeated(file: Path, paths: list[str], first_row: int) -> None:
    seen: dict[str, int] = {}
    for row, path in enumerate(paths):
        if path in seen:
            rows = f"rows {seen[path] + first_row} and {row + first_row}"
            raise DataError(f"data.split: {file}: {path!r} is named twice, in {rows}. Keep one of them.")
        seen[path] = row


def apply_given(
    given: GivenSplit, source: Source, pixel_hashes: Sequence[str], say: Say
) -> tuple[list[str], list[str] | None]:
    """Return the part of each image of the source, "unused" for those the file does not name, and their groups.

    An image is found by its path and pixels; or by its pixels alone, where it was moved; or by its path alone, where
    its pixels are others now or the file does not tell them.

    Raises:
        DataError: the file names images that the source does not have.
    """
    place_of = _match(given, source, pixel_hashes)
    missing = [path for row, path in enumerate(given.paths) if row not in place_of]
    if missing:
        raise DataError(
            f"data.split: {given.file}: {len(missing):,} of the {len(given.paths):,} images that it names are not in "
            f"{source.name} ({', '.join(missing[:_NUM_SHOWN])}), by path or by pixels. Put them back, or take their "
            "rows out of the file."
        )
    splits, groups = [UNUSED] * len(source), [""] * len(source)
    for row, place in place_of.items():
        splits[place] = given.splits[row]
        groups[place] = given.groups[row] if given.groups else ""
    _say_differences(given, source, pixel_hashes, place_of, say)
    return splits, groups if any(groups) else None


def _match(given: GivenSplit, source: Source, pixel_hashes: Sequence[str]) -> dict[int, int]:
    """Return the row of the source for each row of the file that can be found."""
    by_path = {path: place for place, path in enumerate(source.paths)}
    place_of: dict[int, int] = {}
    for row, (path, found) in enumerate(zip(given.paths, given.pixel_hashes, strict=True)):
        place = by_path.get(path)
        if place is not None and (not found or not pixel_hashes[place] or pixel_hashes[place] == found):
            place_of[row] = place
    _match_moved(given, source, pixel_hashes, place_of)
    taken = set(place_of.values())
    for row, path in enumerate(given.paths):
        if row not in place_of and by_path.get(path, -1) not in (taken | {-1}):
            place_of[row] = by_path[path]
    return place_of


def _match_moved(given: GivenSplit, source: Source, pixel_hashes: Sequence[str], place_of: dict[int, int]) -> None:
    """Add the rows whose pixels lie under another path; several of the same pixels in the order of their paths."""
    taken = set(place_of.values())
    places: dict[str, list[int]] = defaultdict(list)
    for place in sorted(range(len(source)), key=source.paths.__getitem__, reverse=True):
        if pixel_hashes[place] and place not in taken:
            places[pixel_hashes[place]].append(place)
    for row in sorted(range(len(given.paths)), key=given.paths.__getitem__):
        if row not in place_of and places.get(given.pixel_hashes[row]):
            place_of[row] = places[given.pixel_hashes[row]].pop()


def _say_differences(
    given: GivenSplit, source: Source, pixel_hashes: Sequence[str], place_of: dict[int, int], say: Say
) -> None:
    say(f"the division is that of {given.file}")
    unnamed = [path for place, path in enumerate(source.paths) if place not in set(place_of.values())]
    pairs = place_of.items()
    moved = [given.paths[row] for row, place in pairs if given.paths[row] != source.paths[place]]
    known = [(row, place) for row, place in pairs if given.pixel_hashes[row] and pixel_hashes[place]]
    changed = [given.paths[row] for row, place in known if given.pixel_hashes[row] != pixel_hashes[place]]
    classes = given.classes
    relabelled = [given.paths[r] for r, p in pairs if classes and classes[r] and classes[r] != source.label_name(p)]
    for what, names in (
        ("are not named in the file and not used", unnamed),
        ("lie under another path now and were found by their pixels", moved),
        ("have other pixels than when the division was stored", changed),
        ("have another label than in the file; the label of the data counts", relabelled),
    ):
        if names:
            say(f"note: {len(names):,} images {what} ({', '.join(names[:_NUM_SHOWN])}).")

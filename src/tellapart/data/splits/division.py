"""From a source and what the user wants to its division: own parts, drawn ones, by time, by fold, or as given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tellapart.config import DataConfig
from tellapart.data.sources import Source
from tellapart.data.splits.drawn import draw_parts, hold_out
from tellapart.data.splits.folds import deal
from tellapart.data.splits.found import Say, find_groups, find_times, rank_times
from tellapart.data.splits.given import apply_given, read_given
from tellapart.data.splits.settings import check_division
from tellapart.data.splits.stored import UNUSED, Split
from tellapart.data.splits.timed import draw_newest, say_cuts
from tellapart.data.splits.units import Units, make_units
from tellapart.errors import ConfigError, DataError

# A part of whole groups that strays from what was asked for by more than this is worth a word.
_NOTABLE_SHARE = 0.2


def make_split(
    source: Source,
    pixel_hashes: Sequence[str],
    config: DataConfig,
    seed: int,
    *,
    content_hashes: Sequence[str] = (),
    near_groups: np.ndarray | None = None,
    say: Say = lambda text: None,
) -> Split:
    """Return the division of a source: the given one, or its own parts where it has them, drawn ones where it has not.

    A part that is missing is drawn from the training images, stratified by class, at least one image a class left to
    train on. Which images go is a function of the seed and their pixels: images with the same pixels stay on one side
    and count as one, and adding images later moves few of the others. Where there are too few for both, val goes
    before test. Images of one group (`source.groups`, `data.group_pattern`) stay on one side, as near to the fractions
    as whole groups go. With times (`source.times`, `data.time_pattern`), the newest images become test, the next val.
    With `data.folds`, `data.fold` is test, val is drawn from the rest, and the source's own test part is not used.

    Args:
        source: what to divide.
        pixel_hashes: one per sample; "" for an unreadable one, which stays in the part it is in.
        config: how to divide.
        seed: the run's seed, by which it is drawn where `data.split_seed` names no other.
        content_hashes: one per sample, of the encoded bytes, to be stored with the division.
        near_groups: int64 `(N,)`; images of one number, -1 aside, stay on one side as those of one group do.
        say: called with each sentence for the user: what was found, assumed or cannot be as asked.

    Raises:
        ConfigError: settings that do not go together.
        DataError: a class without training images, no training images, or too few to hold any out.
    """
    check_division(source, config)
    seed = config.split_seed if config.split_seed >= 0 else seed
    groups = find_groups(source, config, say)
    if config.split:
        splits, stored_groups = apply_given(read_given(config.split), source, pixel_hashes, say)
        groups = groups or stored_groups
    else:
        splits = _own_parts(source, config, say)
        pool = np.array([row for row, part in enumerate(splits) if part == "train" and pixel_hashes[row]], np.int64)
        units = make_units(pool, _strata(source), pixel_hashes, groups, near_groups)
        _say_groups(groups, say)
        for name, chosen in _draw(source, config, seed, units, splits, bool(groups), say).items():
            for row in np.flatnonzero(np.isin(units.of_row, chosen)).tolist():
                splits[row] = name
        if (times := find_times(source, config)) is not None:
            say_cuts(splits, times, rank_times(source, times, pool, lambda text: None), say)
    names = tuple(source.label_name(row) for row in range(len(source)))
    split = Split(
        tuple(source.paths), names, tuple(splits), tuple(pixel_hashes), tuple(content_hashes), tuple(groups or ())
    )
    _check(split, source, config, say)
    return split


def _strata(source: Source) -> np.ndarray:
    """Return the class that each sample is stratified by; several labels or a number make no classes."""
    return source.targets if source.task == "multiclass" else np.zeros(len(source), dtype=np.int64)


def _own_parts(source: Source, config: DataConfig, say: Say) -> list[str]:
    """Return the part of each image as the source has it; of folds, all but its test part is to be dealt."""
    splits = [part or "train" for part in source.parts]
    if not config.folds:
        return splits
    counts = Counter(splits)
    if counts["test"]:
        say(f"note: {source.name} has a test part of its own; its {counts['test']:,} images are in no fold.")
    if counts["val"]:
        say(f"note: the {counts['val']:,} images of the val part of {source.name} are dealt into the folds as well.")
    return [UNUSED if part == "test" else "train" for part in splits]


def _say_groups(groups: Sequence[str] | None, say: Say) -> None:
    if groups:
        sizes = Counter(group for group in groups if group)
        say(f"groups: {len(sizes):,}, of up to {max(sizes.values()):,} images; none is divided.")


def _draw(
    source: Source, config: DataConfig, seed: int, units: Units, splits: Sequence[str], is_grouped: bool, say: Say
) -> dict[str, np.ndarray]:
    """Return the units of each part that is to be drawn, int64, by its name."""
    num_images = int(units.sizes.sum())
    if config.folds:
        return _draw_fold(source, config, seed, units, "groups" if is_grouped else "different images")
    fractions = {"test": config.test_fraction, "val": config.val_fraction}
    totals = {k: max(1, round(share * num_images)) for k, share in fractions.items() if share and k not in splits}
    if (times := find_times(source, config)) is not None:
        pool = np.flatnonzero(units.of_row >= 0)
        drawn = draw_newest(units, rank_times(source, times, pool, say), totals)
        if totals and not any(map(len, drawn.values())):
            raise DataError(f"{source.name}: expected images of at least two times to cut between, found one time.")
    else:
        drawn = draw_parts(units, totals, seed)
    what = "times" if times is not None else "groups" if is_grouped else "images"
    _say_sizes(units, drawn, totals, what, say)
    return drawn


def _draw_fold(source: Source, config: DataConfig, seed: int, units: Units, what: str) -> dict[str, np.ndarray]:
    if not config.fold:
        raise ConfigError([f"data.fold: which of the {config.folds} folds is to be the test part?"])
    names = dict(enumerate(source.classes)) if source.task == "multiclass" else {}
    fold_of = deal(units, config.folds, seed, names, what)
    is_free = fold_of != config.fold - 1
    total = max(1, round(config.val_fraction * int(units.sizes.sum())))
    val = hold_out(units, is_free, total, units.order(seed, "val"))
    return {"test": np.flatnonzero(~is_free), "val": val}


def _say_sizes(units: Units, drawn: Mapping[str, np.ndarray], totals: Mapping[str, int], what: str, say: Say) -> None:
    for name, chosen in drawn.items():
        found, wanted = int(units.sizes[chosen].sum()), totals[name]
        if not found and wanted:
            say(f"note: there are too few {what} to hold any out for {name}.")
        elif what == "groups" and abs(found - wanted) > max(1, _NOTABLE_SHARE * wanted):
            say(f"note: {name} has {found:,} different images where {wanted:,} were asked for: groups stay whole.")


def _check(split: Split, source: Source, config: DataConfig, say: Say) -> None:
    if not split.num_given("train"):
        raise DataError(f"{source.name}: expected training images, found none in its train part.")
    if source.task == "multiclass":
        _check_classes(split, source, say)
    if len(split.rows("val")):
        return
    if given := split.num_given("val"):
        raise DataError(f"{source.name}: none of the {given:,} images in its val part can be read.")
    if config.split:
        raise DataError(f"data.split: {config.split} names no image for val, by which the best weights are chosen.")
    raise DataError(
        f"{source.name}: too few images to hold any out for val: {len(split.rows('train'))} that can be read in "
        f"{max(1, len(source.classes))} classes. Expected at least one class with two images of different pixels"
        + (", in two groups." if any(split.groups) else ".")
    )


def _check_classes(split: Split, source: Source, say: Say) -> None:
    in_train = {split.classes[row] for row in split.rows("train")}
    for name in source.classes:
        if name in in_train or name not in split.classes:
            continue
        where = {s for s, c in zip(split.splits, split.classes, strict=True) if c == name} - {"train"}
        if where == {UNUSED}:
            say(f"note: no image of the class '{name}' is used; the model will not know it.")
            continue
        held = " and ".join(sorted(where - {UNUSED}))
        raise DataError(
            f"{source.name}: the class '{name}' has no training images that can be read"
            + (f" (it has some in {held})" if held else "")
            + ". Add some, or take the class out of every part."
        )

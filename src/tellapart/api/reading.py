"""Read all images of a source once, say what is wrong with them, and divide them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from tellapart.config import RunConfig
from tellapart.data.preprocess import Preprocess
from tellapart.data.scan import Scan, fits_in_memory, scan
from tellapart.data.sources import Source
from tellapart.data.splits import Split, leaked_rows, make_split
from tellapart.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from tellapart.errors import ConfigError, DataError, RunError
from tellapart.models import pretrained_normalization
from tellapart.training.progress import Progress

_NUM_SHOWN = 10


@dataclass(frozen=True)
class ReadData:
    """A source, read and divided; `images` are the reduced pixels where they fit in memory."""

    source: Source
    split: Split
    preprocess: Preprocess
    images: torch.Tensor | None


def read_data(
    source: Source, config: RunConfig, device: torch.device, progress: Progress, stored: Split | None
) -> ReadData:
    """Read every image, stop if any cannot be read, divide them or check them against the `stored` split.

    Raises:
        DataError: unreadable images (unless `data.bad_images` is "skip"), or data that cannot be divided.
        RunError: the images are not those of the stored split.
    """
    blank = Preprocess(
        config.preprocess.size_px,
        [0.0] * source.num_channels,
        [1.0] * source.num_channels,
        resize_px=config.preprocess.resize_px,
        fit=config.preprocess.fit,
    )
    keep = _keep_in_memory(config, len(source), blank, device)
    for note in source.notes:
        progress.say(note)
    if not len(source):
        raise DataError(f"{source.name}: expected images, found none.")
    with progress.task("reading images", len(source)) as advance:
        found = scan(source, blank, keep=keep, advance=advance)
    _report_unreadable(source, found, config, progress)
    if stored is not None:
        _check_unchanged(source, found, stored)
    split = stored or make_split(source, found.pixel_hashes, config.data, config.seed)
    _report_division(source, split, progress)
    mean, std = _mean_std(config, source, found, split)
    preprocess = Preprocess(blank.size_px, mean, std, resize_px=blank.resize_px, fit=blank.fit)
    return ReadData(source, split, preprocess, found.images)


def _keep_in_memory(config: RunConfig, num_images: int, preprocess: Preprocess, device: torch.device) -> bool:
    if config.data.in_memory != "auto":
        return config.data.in_memory == "yes"
    return fits_in_memory(num_images, preprocess, device)


def _report_unreadable(source: Source, found: Scan, config: RunConfig, progress: Progress) -> None:
    if not found.errors:
        return
    rows = sorted(found.errors)
    listed = [f"  {source.paths[row]}: {found.errors[row]}" for row in rows[:_NUM_SHOWN]]
    if len(rows) > _NUM_SHOWN:
        listed.append(f"  and {len(rows) - _NUM_SHOWN:,} more")
    count = f"{len(rows):,} of {len(source):,} images cannot be read:"
    if len(rows) == len(source):
        raise DataError("\n".join([f"{source.name}: none of the {len(rows):,} images can be read:", *listed]))
    if config.data.bad_images == "fail":
        ways = "Mend or remove them, or leave them out with --data.bad-images skip."
        raise DataError("\n".join([f"{source.name}: {count}", *listed, ways]))
    progress.say("\n".join([f"Left out: {count}", *listed]))


def _check_unchanged(source: Source, found: Scan, stored: Split) -> None:
    paths = source.paths
    before, now = set(stored.paths), set(paths)
    changed, relabelled = [], []
    if before == now and list(stored.paths) == paths:
        pairs = zip(paths, stored.pixel_hashes, found.pixel_hashes, strict=True)
        changed = [path for path, old, new in pairs if old != new]
        relabelled = [path for row, path in enumerate(paths) if source.label_name(row) != stored.classes[row]]
    for what, names in (
        ("no longer there", sorted(before - now)),
        ("new", sorted(now - before)),
        ("with other pixels than before", changed),
        ("with another label than before", relabelled),
    ):
        if names:
            raise RunError(
                f"{source.name}: the images changed since the run began: {len(names):,} {what} "
                f"({', '.join(names[:3])}). To resume, put them back as they were; or start a new run."
            )
    if list(stored.paths) != paths:
        raise RunError(f"{source.name}: the images come in another order than when the run began.")


def _report_division(source: Source, split: Split, progress: Progress) -> None:
    counts = "  ".join(f"{name} {len(split.rows(name)):,}" for name in ("train", "val", "test"))
    kind = f"{len(source.classes)} classes" if source.classes else "numbers"
    progress.say(f"{source.name}: {len(source):,} images, {kind}: {counts}")
    for name, rows in leaked_rows(split).items():
        if len(rows):
            progress.say(
                f"warning: {len(rows):,} of {split.num_given(name):,} {name} images have the very pixels of a training "
                f"image (such as {split.paths[rows[0]]}); the number on {name} flatters by up to "
                f"{len(rows) / split.num_given(name):.1%}."
            )
    if source.task == "multiclass":
        _report_classes(source, split, progress)


def _report_classes(source: Source, split: Split, progress: Progress) -> None:
    for name in ("val", "test"):
        present = {split.classes[row] for row in split.rows(name)}
        absent = [c for c in source.classes if c not in present]
        if absent and present:
            progress.say(
                f"note: {len(absent)} of {len(source.classes)} classes have no image in {name} "
                f"({', '.join(absent[:5])}): nothing is known of them there."
            )
    counts = Counter(split.classes[row] for row in split.rows("train"))
    (most, most_count), (least, least_count) = counts.most_common(1)[0], counts.most_common()[-1]
    if most_count >= 10 * least_count:
        progress.say(
            f"note: classes are uneven: '{most}' has {most_count:,} training images, '{least}' {least_count:,}. "
            "--loss.class-weights balanced weighs them alike."
        )


def _mean_std(config: RunConfig, source: Source, found: Scan, split: Split) -> tuple[list[float], list[float]]:
    channels, kind = source.num_channels, config.preprocess.normalize
    if kind == "train":
        return found.mean_std(split.rows("train"))
    if kind == "half":
        return [0.5] * channels, [0.5] * channels
    known = (IMAGENET_MEAN, IMAGENET_STD)
    if kind == "pretrained":
        known = pretrained_normalization(config.model.name)
        if known is None:
            raise ConfigError([f"preprocess.normalize: the weights of {config.model.name} do not say what they expect"])
    mean, std = known
    if channels == 1 and len(mean) == 3:
        return [float(np.mean(mean))], [float(np.mean(std))]
    return list(mean), list(std)

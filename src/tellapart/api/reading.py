"""Read all images of a source once, divide them, and say what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from tellapart.auditing.findings import Finding, Subject, as_plain, printable
from tellapart.auditing.quick import line, quick_findings, stopping
from tellapart.config import DataConfig, RunConfig
from tellapart.data.cache import ImageCache, image_caches
from tellapart.data.preprocess import Preprocess
from tellapart.data.reading import ReducedImages
from tellapart.data.scan import Scan, fits_in_memory, scan
from tellapart.data.sources import Source
from tellapart.data.splits import Split, make_split
from tellapart.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from tellapart.errors import ConfigError, DataError, RunError
from tellapart.models import pretrained_normalization
from tellapart.training.progress import Progress

_NUM_SHOWN, _NUM_NAMED, _NUM_STORED = 10, 100, 24


@dataclass(frozen=True)
class ReadData:
    """A source, read and divided.

    `images` are the reduced pixels where they fit in memory, else `reduced` reads them; `errors` has the reason of each
    path that cannot be read; `findings` are what the quick audit says, worst first, as `check --json` prints them.
    """

    source: Source
    split: Split
    preprocess: Preprocess
    images: torch.Tensor | None
    reduced: ReducedImages
    errors: dict[str, str]
    findings: list[dict[str, Any]] = field(default_factory=list)


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
        background=config.preprocess.background,
    )
    keep = _keep_in_memory(config, len(source), blank, device)
    for note in source.notes:
        progress.say(printable(note))
    if not len(source):
        raise DataError(f"{source.name}: expected images, found none.")
    if keep and (config.data.num_workers, config.data.worker_timeout_s) != (-1, DataConfig().worker_timeout_s):
        progress.say("note: the images fit in memory, so data.num_workers and data.worker_timeout_s have no effect.")
    cache = open_cache(source, config, blank)
    with progress.task("reading images", len(source)) as advance:
        found = scan(source, blank, keep=keep, cache=cache, advance=advance)
    if len(found.errors) == len(source):
        listed = "\n".join(f"  {source.paths[row]}: {found.errors[row]}" for row in sorted(found.errors)[:_NUM_SHOWN])
        raise DataError(f"{source.name}: none of the {len(source):,} images can be read:\n{listed}")
    if stored is not None:
        _check_unchanged(source, found, stored)
    split = stored or make_split(
        source,
        found.pixel_hashes,
        config.data,
        config.seed,
        content_hashes=found.content_hashes,
        say=progress.say,
    )
    findings = _report(source, split, found, config, progress, may_stop=stored is None)
    mean, std = _mean_std(config, source, found, split)
    preprocess = Preprocess(
        blank.size_px, mean, std, resize_px=blank.resize_px, fit=blank.fit, background=blank.background
    )
    places = None if cache is None else cache.find(found.content_hashes)
    reduced = ReducedImages(source, preprocess, cache, places)
    errors = {source.paths[row]: reason for row, reason in found.errors.items()}
    subject = Subject(source, split.splits, is_own=True, groups=split.groups)
    plain = [as_plain(finding, subject, _NUM_STORED) for finding in findings]
    return ReadData(source, split, preprocess, found.images, reduced, errors, plain)


def open_cache(source: Source, config: RunConfig, preprocess: Preprocess) -> ImageCache | None:
    """Return what keeps decoded images between runs, or None where nothing is to be decoded or kept."""
    if source.images is not None or not config.data.cache_gib:
        return None
    side, channels, background = preprocess.resize_px, preprocess.num_channels, preprocess.background.strip("#")
    return ImageCache(
        image_caches(config.data.cache_dir),
        f"{side}px-{channels}-{preprocess.fit}-{background}",
        (side, side, channels),
        int(config.data.cache_gib * 2**30),
    )


def _keep_in_memory(config: RunConfig, num_images: int, preprocess: Preprocess, device: torch.device) -> bool:
    if config.data.in_memory != "auto":
        return config.data.in_memory == "yes"
    return fits_in_memory(num_images, preprocess, device)


def _report(
    source: Source, split: Split, found: Scan, config: RunConfig, progress: Progress, *, may_stop: bool
) -> list[Finding]:
    """Say how the images are divided and what is wrong with them, a line each; return what is wrong.

    Raises:
        DataError: what is wrong would make the result wrong, and the config does not override it.
    """
    counts = "  ".join(f"{name} {len(split.rows(name)):,}" for name in ("train", "val", "test"))
    kind = f"{len(source.classes)} classes" if source.classes else "numbers"
    progress.say(f"{source.name}: {len(source):,} images, {kind}: {counts}")
    if found.animated:
        progress.say(
            f"note: files with several frames: {len(found.animated):,} (such as {source.paths[found.animated[0]]}); "
            "the first frame is the image."
        )
    findings = quick_findings(source, split, found.errors, found.pixel_hashes)
    stops = stopping(findings, config) if may_stop else []
    for finding in findings:
        if finding not in stops:
            # What the user chose to go on with is no error any more.
            weighed = replace(finding, severity="warning", advice="", override="") if finding.override else finding
            progress.say(_in_words(weighed, source, found))
    if stops:
        raise DataError("\n".join([source.name, *(_in_words(finding, source, found) for finding in stops)]))
    return findings


def _in_words(finding: Finding, source: Source, found: Scan) -> str:
    """Return a finding as a line; every image that cannot be read is named below it, with the reason."""
    if finding.kind not in ("unreadable", "truncated"):
        return line(finding, source)
    rows = finding.rows.tolist()
    named = [printable(f"  {source.paths[row]}: {found.errors[row]}") for row in rows[:_NUM_NAMED]]
    more = [f"  and {len(rows) - _NUM_NAMED:,} more"] if len(rows) > _NUM_NAMED else []
    return "\n".join([line(replace(finding, examples=()), source), *named, *more])


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

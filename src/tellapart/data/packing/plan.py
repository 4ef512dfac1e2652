"""Which sample belongs in which shard: fixed before the first shard is written, so that a stopped pack can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from tellapart.data.packing.encode import ENCODINGS, Encoded, Reduction
from tellapart.data.packing.formats import FORMATS
from tellapart.data.sources import Source
from tellapart.errors import ConfigError, unknown_name
from tellapart.seeding import permutation

# Enough to know the mean size of an image to a few percent, few enough to take seconds.
NUM_PROBES = 64
_PARTS = ("train", "val", "test", "")


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of the shards, apart from the source.

    Attributes:
        format: a key of `FORMATS`.
        max_size_px: images whose shorter side is larger are scaled down to it; 0: none.
        encode: an entry of `ENCODINGS`.
        quality: of JPEG and WebP, 1 to 100.
        shard_mib: about how large a shard becomes.
        shuffle: whether the samples of a part are put in a random order.
        seed: of that order.
    """

    format: str = "parquet"
    max_size_px: int = 256
    encode: str = "keep"
    quality: int = 90
    shard_mib: int = 256
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        for name, value, known in (("format", self.format, FORMATS), ("encode", self.encode, ENCODINGS)):
            if value not in known:
                problems.append(f"{name}: {unknown_name('name', value, known)}")
        limits = {"max_size_px": (0, 8192), "quality": (1, 100), "shard_mib": (1, 65536), "seed": (0, 2**63 - 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                problems.append(f"{name}: expected {low} to {high}, found {getattr(self, name)}")
        if problems:
            raise ConfigError(problems)

    @property
    def reduction(self) -> Reduction:
        """How images are stored."""
        return Reduction(self.max_size_px, self.encode, self.quality)


class Shard(NamedTuple):
    """One shard to write: its file name, its samples in order, and the order in which they are read; int64 both."""

    file: str
    rows: np.ndarray
    reading: np.ndarray


@dataclass(frozen=True)
class Plan:
    """The settings, what was packed, and how many shards each part has.

    `probes` holds a digest of each of some images as they are stored, "-" of one that cannot be read; with
    `listing_sha256`, which covers paths, labels, parts and groups, it tells whether a source is still the same.
    """

    settings: Settings
    source: str
    task: str
    classes: tuple[str, ...]
    num_images: int
    listing_sha256: str
    probes: tuple[str, ...]
    mean_bytes_before: float
    mean_bytes: float
    num_shards: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, equal to what JSON gives back."""
        return {**asdict(self), "classes": list(self.classes), "probes": " ".join(self.probes)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Plan:
        """Return the plan that `as_dict` made plain.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, ConfigError: it is none.
        """
        values = {field.name: stored[field.name] for field in fields(cls)}
        values["settings"] = Settings(**stored["settings"])
        return cls(**{**values, "classes": tuple(values["classes"]), "probes": tuple(values["probes"].split())})

    def shards(self, source: Source) -> list[Shard]:
        """Return the shards, train before val before test before what has no part, even in numbers of samples.

        A source that can only be read block by block is: its blocks in a random order, and the samples of a shard
        mixed once they are read, so that a shard holds the samples of several blocks in any order.
        """
        name_of, seed, found = FORMATS[self.settings.format].file, self.settings.seed, []
        for part, rows in _rows_of_parts(source).items():
            count, key = self.num_shards[part], _PARTS.index(part)
            shuffled = rows[permutation(len(rows), seed, "pack", key).numpy()] if self.settings.shuffle else rows
            is_by_blocks = self.settings.shuffle and has_slow_blocks(source)
            reading = _block_by_block(shuffled, source.blocks) if is_by_blocks else shuffled
            for number in range(count):
                first, last = (len(rows) * edge // count for edge in (number, number + 1))
                some = mixed = reading[first:last]
                if is_by_blocks:
                    mixed = some[permutation(len(some), seed, "pack-shard", key, number).numpy()]
                found.append(Shard(name_of(part, number, count), mixed, some))
        return found

    def differences(self, other: Plan) -> list[str]:
        """Return a sentence for each way in which `other`, asked for now, is not what this plan was made for."""
        mine, others = asdict(self.settings), asdict(other.settings)
        problems = [
            f"{name}: begun with {mine[name]}, this command asks for {others[name]}"
            for name in mine
            if mine[name] != others[name]
        ]
        for name, words in (("task", "task"), ("num_images", "number of images"), ("classes", "classes")):
            was, now = getattr(self, name), getattr(other, name)
            if was != now:
                shown = [len(value) if len(str(value)) > 200 else value for value in (was, now)]
                problems.append(f"the data's {words}: {shown[0]} then, {shown[1]} now")
        if not problems and self.listing_sha256 != other.listing_sha256:
            problems.append(f"the data ({other.source}): the paths, labels, parts or groups are others than then")
        pairs = zip(self.probes, other.probes, strict=False)
        if not problems and any("-" not in pair and pair[0] != pair[1] for pair in pairs):
            problems.append(f"the data ({other.source}): images with the same paths have other pixels than then")
        return problems


def probe_rows(source: Source) -> list[int]:
    """Return which samples are looked at before the plan is made: some, spread evenly over the source."""
    return np.unique(np.linspace(0, len(source) - 1, min(NUM_PROBES, len(source))).astype(int)).tolist()


def make_plan(source: Source, settings: Settings, probes: Sequence[Encoded]) -> Plan:
    """Return the plan for a source.

    Args:
        source: what to pack.
        settings: how to pack it.
        probes: the images of `probe_rows` as they would be stored.
    """
    readable = [probe for probe in probes if not probe.error]
    overhead = FORMATS[settings.format].overhead_bytes
    mean_bytes = overhead + sum(len(probe.data) for probe in readable) / max(1, len(readable))
    count_of: Callable[[int], int] = lambda n: max(1, min(n, round(n * mean_bytes / (settings.shard_mib * 2**20))))  # noqa: E731
    return Plan(
        settings=settings,
        source=source.name,
        task=source.task,
        classes=source.classes,
        num_images=len(source),
        listing_sha256=_listing_digest(source),
        probes=tuple("-" if probe.error else hashlib.sha256(probe.data).hexdigest()[:16] for probe in probes),
        mean_bytes_before=sum(probe.num_bytes_before for probe in readable) / max(1, len(readable)),
        mean_bytes=mean_bytes,
        num_shards={part: count_of(len(rows)) for part, rows in _rows_of_parts(source).items()},
    )


def _rows_of_parts(source: Source) -> dict[str, np.ndarray]:
    parts = np.array(source.parts)
    found = {part: np.flatnonzero(parts == part) for part in _PARTS}
    return {part: rows for part, rows in found.items() if len(rows)}


def has_slow_blocks(source: Source) -> bool:
    """Return whether reading one sample reads its whole block; where several can be asked for at once, it does not."""
    return source.blocks is not None and not source.seeks


def _block_by_block(rows: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    """Return shuffled rows with those of a block together, the blocks in the order in which they are first met."""
    assert blocks is not None
    _, first, inverse = np.unique(blocks[rows], return_index=True, return_inverse=True)
    return rows[np.argsort(first[inverse], kind="stable")]


def _listing_digest(source: Source) -> str:
    """Return SHA-256 over all that the source says of its samples."""
    digest = hashlib.sha256(json.dumps([source.task, source.classes, source.parts, source.paths]).encode())
    digest.update(json.dumps([source.groups, source.times]).encode())
    digest.update(np.ascontiguousarray(source.targets).tobytes())
    return digest.hexdigest()

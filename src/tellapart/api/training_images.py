"""The images that a run was trained on: read again, turned into features once, and compared with others."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tellapart.api.opening import open_data
from tellapart.api.run import Run
from tellapart.data.decode import ImageError, pixel_hash
from tellapart.data.preprocess import Preprocess, center_crop
from tellapart.data.scan import read_chunks
from tellapart.data.sources import Source
from tellapart.errors import DataError, TellapartError
from tellapart.evaluation.embeddings import Bank, Embedder, find_head, kept_dtype, nearest_rows, unit_rows
from tellapart.exporting.classifier import Classifier
from tellapart.reporting.explanation import Neighbour
from tellapart.training.progress import Progress

_BATCH_SIZE = 128
# A query that was trained on many times over is not to crowd out its neighbours.
_SPARE = 16


class TrainingImages:
    """The images of a run, by the rows of its stored division.

    Args:
        run: the run.
        classifier: what it ships.
        data: the data again, for a run that was trained on arrays.

    Attributes:
        problem: why the images are not to be had; "" where they are.

    Raises:
        TellapartError: the data that was given again cannot be opened.
    """

    def __init__(self, run: Run, classifier: Classifier, data: Any = None) -> None:
        self.run, self.classifier, self.split, self.problem = run, classifier, run.split, ""
        self.preprocess: Preprocess = classifier.module.preprocess
        self.source: Source | None = None
        self._made: Bank | None = None
        settings = run.config.data
        if data is None and settings.source == "<arrays>":
            self.problem = "this run was trained on arrays, which have to be given again as `data`"
            return
        try:
            self.source = open_data(settings.source if data is None else data, settings)
        except TellapartError as error:
            if data is not None:
                raise
            self.problem = str(error)

    @cached_property
    def rows_by_hash(self) -> dict[str, list[int]]:
        """The rows of each hash of pixels, in any part of the division."""
        found: dict[str, list[int]] = defaultdict(list)
        for row, text in enumerate(self.split.pixel_hashes):
            if text:
                found[text].append(row)
        return found

    @cached_property
    def _place(self) -> dict[str, int]:
        return {} if self.source is None else {path: row for row, path in enumerate(self.source.paths)}

    def read(self, row: int) -> bytes | np.ndarray:
        """Return the bytes or pixels of an image by its row in the division.

        Raises:
            ImageError: it is gone.
        """
        place = self._place.get(self.split.paths[row])
        if self.source is None or place is None:
            raise ImageError("the file is no longer there")
        return self.source.read(place)

    def picture(self, row: int) -> np.ndarray | None:
        """Return what the network sees of an image, uint8 `(C, S, S)`; None where it is gone or another one by now."""
        try:
            raw = self.read(row)
            pixels = self.preprocess.decode(raw)
            is_same = pixel_hash(self.preprocess.hashed_pixels(raw, pixels)) == self.split.pixel_hashes[row]
        except (ImageError, DataError, OSError):
            return None
        return seen(self.preprocess, self.preprocess.reduce(torch.from_numpy(pixels))) if is_same else None

    def trained_on(self, text: str) -> list[int]:
        """Return the rows of the training images with this hash of their pixels."""
        return [row for row in self.rows_by_hash.get(text, ()) if self.split.splits[row] == "train"]

    def neighbours(
        self, reduced: torch.Tensor, hashes: Sequence[str], num_neighbours: int, display: Progress, notes: list[str]
    ) -> list[tuple[Neighbour, ...]]:
        """Return the training images nearest to each of these, without those of the same pixels.

        Args:
            reduced: what `Preprocess.reduce` made, uint8 `(B, C, R, R)`.
            hashes: of their pixels.
            num_neighbours: how many for each.
            display: where the reading of the training images is shown.
            notes: gets sentences about training images that are missing.
        """
        bank = self._bank(display, notes)
        if bank is None or not len(bank.rows):
            return [()] * len(reduced)
        queries = np.concatenate([self._embed(part) for part in reduced.split(_BATCH_SIZE)])
        places, cosines = nearest_rows(queries, bank.features, num_neighbours + _SPARE)
        return [
            tuple(
                Neighbour(row, self.split.paths[row], self.split.classes[row], float(cosine))
                for row, cosine in zip(bank.rows[some].tolist(), values, strict=True)
                if self.split.pixel_hashes[row] != text
            )[:num_neighbours]
            for some, values, text in zip(places, cosines, hashes, strict=True)
        ]

    def without(self) -> str:
        """Return the sentence for images that cannot be read: what is said without them."""
        kept = " Those of an earlier look are named." if self._kept is not None else " So there are no neighbours."
        return f"The run's own images cannot be read: {self.problem.rstrip('.')}.{kept}"

    @cached_property
    def _place_and_key(self) -> tuple[Path, str]:
        return self.run.path / "embeddings" / "train.safetensors", self._key(self.split.rows("train"))

    @cached_property
    def _kept(self) -> Bank | None:
        return Bank.load(*self._place_and_key)

    def _bank(self, display: Progress, notes: list[str]) -> Bank | None:
        if self._made is None:
            self._made = self._kept or self._read_bank(display, notes)
        return self._made

    def _read_bank(self, display: Progress, notes: list[str]) -> Bank | None:
        rows = self.split.rows("train")
        if self.source is None:
            return None
        there = np.array([row for row in rows if self.split.paths[row] in self._place], dtype=np.int64)
        with display.task("looking at the training images", len(rows)) as advance:
            bank = self._embed_all(there, advance)
        if num_lost := len(rows) - len(bank.rows):
            notes.append(
                f"{num_lost:,} of {len(rows):,} training images are gone or changed since; they are left out of the "
                "neighbours."
            )
        else:
            with suppress(OSError):  # A run that may not be written to is explained all the same, each time anew.
                bank.save(*self._place_and_key)
        return bank

    def _embed_all(self, rows: np.ndarray, advance: Any) -> Bank:
        assert self.source is not None
        kept: list[int] = []
        features: list[np.ndarray] = []
        places = np.array([self._place[self.split.paths[row]] for row in rows], dtype=np.int64)
        row_at = dict(zip(places.tolist(), rows.tolist(), strict=True))
        for found in read_chunks(self.source, places, self.preprocess) if len(places) else ():
            wanted = [row_at[place] for place in found.rows.tolist()]
            sound = [n for n, row in enumerate(wanted) if found.pixel_hashes[n] == self.split.pixel_hashes[row]]
            if sound:
                some = unit_rows(self._embed(found.images[sound]))
                features.append(some.astype(kept_dtype(len(rows), some.shape[1]), copy=False))
                kept += [wanted[n] for n in sound]
            advance(len(wanted))
        return Bank(np.array(kept, np.int64), np.concatenate(features) if features else np.empty((0, 1), np.float32))

    def _embed(self, reduced: torch.Tensor) -> np.ndarray:
        return self._embedder(network_inputs(self.classifier, reduced))

    @cached_property
    def _embedder(self) -> Embedder:
        network, info = self.classifier.module.network, self.classifier.info["model"]
        return Embedder(network, find_head(network, info["num_classes"], info["in_channels"], info["size_px"]))

    def _key(self, rows: np.ndarray) -> str:
        """Return what the features are a function of: the weights, the preprocessing, the layer, the images."""
        info = self.classifier.info
        made_from = [
            info["files"]["model.safetensors"],
            info["model"],
            self.preprocess.settings(),
            self._embedder.head,
            [[int(row), self.split.pixel_hashes[row]] for row in rows],
        ]
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def network_inputs(classifier: Classifier, reduced: torch.Tensor) -> torch.Tensor:
    """Return the network's input for reduced images, as the classifier makes it."""
    normalized = classifier.module.preprocess.normalize(reduced.to(classifier.device))
    return normalized.contiguous(memory_format=torch.channels_last)


def seen(preprocess: Preprocess, reduced: torch.Tensor) -> np.ndarray:
    """Return the part of a reduced image that the network sees, uint8 `(C, S, S)`."""
    return np.ascontiguousarray(center_crop(reduced, preprocess.size_px).numpy())

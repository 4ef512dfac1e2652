"""Training images as the network saw them: the run's own augmentations, drawn again for its seed and its epochs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from tellapart.config import RunConfig
from tellapart.data.augment import MIXES, Augment
from tellapart.data.preprocess import Preprocess, center_crop
from tellapart.data.reading import ReducedImages
from tellapart.data.sources import Source
from tellapart.errors import DataError
from tellapart.reporting.pictures import Pictures

# Up to this side pictures are kept pixel by pixel; larger ones would take megabytes.
LOSSLESS_PX = 64


@dataclass(frozen=True)
class Views:
    """One image as the network sees it, as `data:` addresses: when it is judged, and in some epochs of training."""

    path: str
    label: str
    judged: str
    trained: tuple[str, ...]


def draws_any(config: RunConfig) -> bool:
    """Return whether training images are varied one by one (mixing two is another matter)."""
    return any(name not in ("none", *MIXES) for name in config.augment.transforms)


def mixes(config: RunConfig) -> list[str]:
    """Return the names of what blends images of a batch after they are augmented."""
    return [name for name in config.augment.transforms if name in MIXES]


def reduced_images(
    source: Source, preprocess: Preprocess, rows: Sequence[int]
) -> tuple[list[int], torch.Tensor | None]:
    """Return the places of the rows that can be read, and their reduced images uint8 `(n, C, R, R)`, if there are any.

    They are decoded and reduced as for training, so they are the bits that the run's loader had.
    """
    reader, places, images = ReducedImages(source, preprocess), [], []
    for place, row in enumerate(rows):
        try:
            images.append(reader.batch(np.array([row], dtype=np.int64)))
        except DataError:
            continue
        places.append(place)
    if not images:
        return [], None
    # One after another in memory as the loader has them: the channels of a pixel side by side.
    return places, torch.cat([image.permute(0, 2, 3, 1) for image in images]).permute(0, 3, 1, 2)


def augmented(images: torch.Tensor, indices: Sequence[int], config: RunConfig, epoch: int) -> torch.Tensor:
    """Return what the loader gives for reduced images in an epoch, from 0: uint8 `(B, C, h, w)`, before normalising.

    Args:
        images: reduced, uint8 `(B, C, R, R)`.
        indices: their rows in the run's division, by which everything is drawn.
        config: the run's.
        epoch: as the run counts, from 0.
    """
    augment = Augment(config.augment, config.preprocess.size_px, config.seed)
    return augment(images.clone(), torch.tensor(list(indices), dtype=torch.int64), epoch)


def seen(images: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Return the part of augmented or reduced images that the network is given, uint8 `(B, C, S, S)`."""
    return center_crop(images, preprocess.size_px)


def encoded(pixels: torch.Tensor, pictures: Pictures) -> str:
    """Return pixels, uint8 `(C, H, W)`, as a `data:` address, bit for bit where they are small."""
    table = pixels.numpy()
    if max(table.shape[1:]) > LOSSLESS_PX:
        return pictures.uri_of_pixels(table)
    rows = np.ascontiguousarray(table.transpose(1, 2, 0))
    file = io.BytesIO()
    Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def views(
    pictures: Pictures,
    preprocess: Preprocess,
    config: RunConfig,
    chosen: Sequence[tuple[int, str, str]],
    epochs: Sequence[int],
) -> list[Views]:
    """Return the views of some training images in some epochs (from 0); those that cannot be read are left out.

    Args:
        pictures: what encodes, and knows the source.
        preprocess: the run's.
        config: the run's.
        chosen: (row in the division, path, label) of each image.
        epochs: as the run counts, from 0.
    """
    placed = [(index, pictures.row_of(path), path, label) for index, path, label in chosen]
    # A picture that changed on disk since is not what the network was shown.
    found = [(index, row, path, label) for index, row, path, label in placed if row is not None and pictures.uri(row)]
    if pictures.source is None or not found:
        return []
    places, images = reduced_images(pictures.source, preprocess, [row for _, row, _, _ in found])
    if images is None:
        return []
    indices = [found[place][0] for place in places]
    judged = seen(images, preprocess)
    trained = [seen(augmented(images, indices, config, epoch), preprocess) for epoch in epochs]
    return [
        Views(
            found[place][2],
            found[place][3],
            encoded(judged[number], pictures),
            tuple(encoded(each[number], pictures) for each in trained),
        )
        for number, place in enumerate(places)
    ]

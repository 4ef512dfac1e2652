"""A trained classifier, ready to be asked: files, pictures, arrays or tensors in, names and probabilities out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tellapart import hardware
from tellapart.data.decode import ImageError, background_rgb, picture_pixels
from tellapart.errors import DataError
from tellapart.evaluation.predictions import THRESHOLD
from tellapart.evaluation.views import mean_over_views, views
from tellapart.exporting.module import ClassifierModule

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one image.

    `label` is the name of the class (several labels joined by "|"; for numbers, the value as text), `prob` its
    probability, `probs` every class's by name (for numbers: the values by their position, "0" first; `prob` is NaN).
    """

    label: str
    prob: float
    probs: dict[str, float] = field(repr=False)

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the `k` most probable classes, best first; equal ones in the classes' order."""
        return sorted(self.probs.items(), key=lambda item: -item[1])[:k]


@dataclass(frozen=True)
class Classifier:
    """A trained classifier with its classes' names.

    `module` turns decoded uint8 images into outputs, `info` is what the bundle's config.json says of it.
    """

    module: ClassifierModule
    classes: tuple[str, ...]
    info: dict[str, Any] = field(repr=False)
    device: torch.device

    @property
    def task(self) -> str:
        """What the outputs mean: "multiclass", "multilabel" or "regression"."""
        return self.module.task

    @property
    def temperature(self) -> float:
        """What the logits are divided by before they become probabilities."""
        return float(self.module.temperature)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Multilabel: above what probability each class is predicted; none: 0.5 for each."""
        return () if self.module.thresholds is None else tuple(self.module.thresholds.tolist())

    def predict(self, images: Any, *, batch_size: int = _BATCH_SIZE, tta: str = "none") -> list[Prediction]:
        """Return a prediction for each image.

        Args:
            images: one or several of: path, encoded bytes, PIL image, uint8 array `(H, W)` or `(H, W, C)`, uint8
                tensor `(C, H, W)`. An array `(N, H, W, C)`, a tensor `(N, C, H, W)`, and either as grey `(N, H, W)`
                where that cannot be a single image, is several.
            batch_size: images computed at a time.
            tta: "flip" or "flip-shift" look at several views of each image; see `evaluation.views`.

        Raises:
            DataError: an image cannot be read, with its place and the reason; or something is no image at all.
            ConfigError: `tta` is no name of views.
        """
        results = enumerate(self.predict_each(_listed(images), batch_size, tta=tta))
        return [_only_prediction(number, *result) for number, result in results]

    def predict_each(
        self, images: Iterable[Any], batch_size: int = _BATCH_SIZE, *, tta: str = "none"
    ) -> Iterator[tuple[Any, Prediction | ImageError]]:
        """Yield each image with its prediction, or with why it cannot be read; decodes ahead.

        Raises:
            DataError: something is no image at all, or `batch_size` is below 1.
            ConfigError: `tta` is no name of views.
        """
        views(tta)
        if batch_size < 1:
            raise DataError(f"batch_size: expected at least 1, found {batch_size}.")
        iterator = iter(images)
        with ThreadPoolExecutor(hardware.num_cpus(), thread_name_prefix="decode") as pool:
            waiting = list(islice(iterator, batch_size))
            decoded = pool.map(self._try_reduce, waiting)
            while waiting:
                results = list(decoded)
                following = list(islice(iterator, batch_size))
                decoded = pool.map(self._try_reduce, following)
                yield from zip(waiting, self._predict_reduced(results, tta), strict=True)
                waiting = following

    def _predict_reduced(self, images: Sequence[torch.Tensor | ImageError], tta: str) -> list[Prediction | ImageError]:
        readable = [image for image in images if isinstance(image, torch.Tensor)]
        outputs = iter(self.outputs(torch.stack(readable), tta).cpu().tolist() if readable else [])
        thresholds = self.thresholds or (THRESHOLD,) * len(self.classes)
        return [
            image if isinstance(image, ImageError) else self._prediction(next(outputs), thresholds) for image in images
        ]

    @torch.inference_mode()
    def outputs(self, reduced: torch.Tensor, tta: str = "none") -> torch.Tensor:
        """Return outputs float32 `(B, K)` for images that `module.preprocess.reduce` made: calibrated probabilities.

        With `tta` they are those of the mean of the logits over the views of each image.
        """
        return self.module.from_logits(self.logits(reduced, tta))

    @torch.inference_mode()
    def logits(self, reduced: torch.Tensor, tta: str = "none") -> torch.Tensor:
        """Return what the network says of reduced images before the temperature, float32 `(B, K)`."""
        return mean_over_views(self.module.logits, reduced.to(self.device), tta)

    def _prediction(self, outputs: list[float], thresholds: Sequence[float]) -> Prediction:
        names = self.classes or [str(number) for number in range(len(outputs))]
        probs = dict(zip(names, outputs, strict=True))
        if self.task == "regression":
            return Prediction(", ".join(f"{value:.6g}" for value in outputs), float("nan"), probs)
        if self.task == "multilabel":
            chosen = [name for (name, prob), least in zip(probs.items(), thresholds, strict=True) if prob > least]
            return Prediction("|".join(chosen), max(outputs), probs)
        best = max(range(len(outputs)), key=outputs.__getitem__)
        return Prediction(self.classes[best], outputs[best], probs)

    def _try_reduce(self, image: Any) -> torch.Tensor | ImageError:
        try:
            return self.reduce(image)
        except ImageError as error:
            return error
        except OSError as error:
            return ImageError(error.strerror or str(error))

    def reduce(self, image: Any) -> torch.Tensor:
        """Return one image of any accepted kind, decoded and reduced: uint8 `(C, R, R)`."""
        preprocess = self.module.preprocess
        return preprocess.reduce(torch.from_numpy(preprocess.decode(_raw(image, preprocess.background))))


def _only_prediction(number: int, image: Any, result: Prediction | ImageError) -> Prediction:
    if isinstance(result, ImageError):
        what = os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"
        raise DataError(f"{what}: {result}") from None
    return result


def _listed(images: Any) -> list[Any]:
    """Return several images as a list, and a single one in a list."""
    if isinstance(images, np.ndarray | torch.Tensor):
        channels = images.shape[0 if isinstance(images, torch.Tensor) else -1] if images.ndim == 3 else 1
        return [images] if images.ndim < 4 and channels in (1, 3, 4) else list(images)
    if isinstance(images, str | os.PathLike | bytes) or hasattr(images, "getexif"):
        return [images]
    if not isinstance(images, Iterable):
        raise DataError(_no_image(images))
    return list(images)


def _no_image(found: Any) -> str:
    return (
        "expected a path, the bytes of an image file, a Pillow image, an array or a tensor, or several of them, "
        f"found {type(found).__name__}."
    )


def _raw(image: Any, background: str) -> bytes | np.ndarray:
    if hasattr(image, "getexif"):
        return picture_pixels(image, background_rgb(background))
    if isinstance(image, str | os.PathLike):
        if "\0" in os.fspath(image):
            raise ImageError("no file can have this name")
        return Path(image).read_bytes()
    if isinstance(image, torch.Tensor):
        if image.ndim == 3:
            image = image.permute(1, 2, 0)
        return np.ascontiguousarray(image.cpu().numpy())
    if not isinstance(image, bytes | np.ndarray):
        raise DataError(_no_image(image))
    return image

"""Images and labels that are arrays already: numpy, torch, lists of pictures, and `.npz` files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tellapart.data.decode import picture_pixels
from tellapart.data.sources.base import Source, numbered, part_of, require_two_classes
from tellapart.data.sources.labels import understand
from tellapart.data.sources.tasks import change_task
from tellapart.errors import DataError

_CHANNELS = (1, 3, 4)


class ArraySource(Source):
    """Images and targets given as arrays. The pixels are not copied where they are uint8 already.

    Args:
        images: uint8, bool, or float in [0, 1], of shape `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with C 1, 3 or
            4, as numpy or torch; or a list of images of any sizes: arrays or tensors like those without N, Pillow
            images, or the bytes of image files. Where both the second and the last axis could be the channels, a
            tensor's second and an array's last axis is taken.
        targets: N whole numbers or strings (multiclass), 0/1 of shape `(N, K)` with K > 1 (multilabel), or floats of
            shape `(N,)` or `(N, K)` (regression).
        classes: the names, index = label. Left out, they are the sorted strings or numbers that occur.
        task: "auto" (or None) or a key of `TASKS`.
        parts: one per sample, "train", "val", "test" or "".
        name: for titles and paths.

    Raises:
        DataError: lengths, shapes, dtypes or values do not fit.
        ConfigError: the targets do not allow `task`.
    """

    def __init__(
        self,
        images: Any,
        targets: Any,
        classes: Sequence[str] | None = None,
        task: str | None = None,
        *,
        parts: Sequence[str] | None = None,
        name: str = "arrays",
    ) -> None:
        notes: list[str] = []
        if isinstance(images, (list, tuple)):
            self._list = [as_listed_image(image, f"{name}, image {index}", notes) for index, image in enumerate(images)]
        else:
            self.images, self._list = _image_table(images, name, notes), []
        count = len(self._list) if self.images is None else len(self.images)
        values = _as_array(targets)
        if values.ndim == 0 or count != len(values):
            found = "a single value" if values.ndim == 0 else f"{len(values)} targets"
            raise DataError(f"{name}: {count} images but {found}; expected one target an image.")
        if count == 0:
            raise DataError(f"{name}: expected images, found none.")
        labels = understand(values, classes, task or "auto", name)
        super().__init__(
            name,
            classes=labels.classes,
            paths=numbered(name, count),
            targets=labels.targets,
            parts=_checked_parts(parts, count, name),
            task=labels.task,
            num_channels=1 if self.images is not None and self.images.ndim == 3 else 3,
            notes=[*notes, *labels.notes],
        )
        change_task(self, task or "auto")
        if self.task == "multiclass":
            require_two_classes(name, self.classes)

    def read(self, index: int) -> bytes | np.ndarray:
        """Return the image as it was given: uint8 pixels `(H, W)` or `(H, W, C)`, or the bytes of a file."""
        return self._list[index] if self.images is None else self.images[index]


def open_npz(path: str | Path, task: str = "auto") -> ArraySource:
    """Return the images of an `.npz` file: `images`, `labels` or `targets`, and perhaps `classes` and `split`.

    Raises:
        DataError: the file is damaged, holds pickled objects, or lacks an array.
    """
    name = Path(path).name
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as an .npz file of plain arrays: {error}") from error
    targets = found.get("labels", found.get("targets"))
    if "images" not in found or targets is None:
        raise DataError(
            f"{path}: expected arrays named 'images' and 'labels' (or 'targets'), perhaps 'classes' and 'split'; "
            f"found {', '.join(sorted(found)) or 'none'}."
        )
    classes = [str(label) for label in found["classes"]] if "classes" in found else None
    parts = [str(part) for part in found["split"]] if "split" in found else None
    source = ArraySource(found["images"], targets, classes, task, parts=parts, name=name)
    if unused := sorted(set(found) - {"images", "labels", "targets", "classes", "split"}):
        source.notes.append(f"{name} also holds {', '.join(unused)}, which nothing reads.")
    return source


def _as_array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16, and half precision holds 0..255 exactly enough for what follows.
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _image_table(images: Any, name: str, notes: list[str]) -> np.ndarray:
    """Return uint8 `(N, H, W)` or `(N, H, W, C)` with C 3 or 4."""
    is_tensor, array = hasattr(images, "detach"), _as_array(images)
    axes = [axis for axis in (1, 3) if array.ndim == 4 and array.shape[axis] in _CHANNELS]
    if array.ndim not in (3, 4) or (array.ndim == 4 and not axes) or 0 in array.shape[1:]:
        raise DataError(
            f"{name}: images must have shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels, "
            f"found {array.shape}."
        )
    if len(axes) == 2:
        place = "second" if is_tensor else "last"
        _note(notes, f"images of shape {array.shape} were read with the channels on the {place} axis.")
    if array.ndim == 4 and (axes[0] if is_tensor or len(axes) == 1 else 3) == 1:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    return _as_uint8(array, name, notes)


def _as_uint8(array: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        _note(notes, "the pixels are bool: False became 0 and True 255.")
        return array * np.uint8(255)
    found = str(array.dtype)
    if array.size and array.dtype.kind in "iuf":
        low, high = array.min(), array.max()
        if array.dtype.kind == "f" and low >= 0 and high <= 1:
            _note(notes, "the pixels are floats in [0, 1]: they were multiplied by 255 and rounded.")
            return np.round(array * array.dtype.type(255)).astype(np.uint8)
        found += f" with values {low:g} to {high:g}"
    raise DataError(
        f"{name}: pixels must be uint8 (0 to 255), bool, or float in [0, 1], found {found}. "
        "Convert them first, so that it is plain which value is black and which is white."
    )


def as_listed_image(image: Any, name: str, notes: list[str]) -> bytes | np.ndarray:
    """Return one image of any accepted kind as bytes of a file or as uint8 pixels; a scaling is added to `notes`."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return np.array(picture_pixels(image))
    if not (isinstance(image, np.ndarray) or hasattr(image, "detach")):
        raise DataError(
            f"{name}: expected an array, a tensor, a Pillow image or the bytes of an image file, "
            f"found {type(image).__name__}. To read files, give the folder that holds them."
        )
    return _image_table(image[None], name, notes)[0]


def _checked_parts(parts: Sequence[str] | None, count: int, name: str) -> list[str] | None:
    if parts is None:
        return None
    if len(parts) != count:
        raise DataError(f"{name}: {count} images but {len(parts)} entries that say which part each is in.")
    known = {part: part_of(part) or "" for part in set(parts)}
    if strange := sorted(part for part in known if part and not known[part]):
        raise DataError(f"{name}: unknown part '{strange[0]}'. Known: train, val, test, or an empty string for none.")
    return [known[part] for part in parts]


def _note(notes: list[str], sentence: str) -> None:
    if sentence not in notes:
        notes.append(sentence)

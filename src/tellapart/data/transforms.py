"""torchvision v2 transforms by name, for a Dataset of one's own; the command's loop uses `augment` and `preprocess`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tellapart.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torchvision.transforms import v2

HALF = (0.5, 0.5, 0.5)
# Mean and standard deviation of ImageNet's training images, as torchvision's weights document them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _v2() -> Any:
    from torchvision.transforms import v2

    return v2


TRAIN_TRANSFORMS: dict[str, Callable[[int], list[Any]]] = {
    "none": lambda size_px: [],
    "flip": lambda size_px: [_v2().RandomHorizontalFlip()],
    "flip-crop": lambda size_px: [_v2().RandomHorizontalFlip(), _v2().RandomCrop(size_px, 4, pad_if_needed=True)],
    "random-resized-crop": lambda size_px: [_v2().RandomResizedCrop(size_px, antialias=True)],
    "rotation": lambda size_px: [_v2().RandomRotation(15)],
    "color-jitter": lambda size_px: [_v2().ColorJitter(0.4, 0.4, 0.4, 0.1)],
    "randaugment": lambda size_px: [_v2().RandAugment()],
    "trivialaugment": lambda size_px: [_v2().TrivialAugmentWide()],
    "random-erasing": lambda size_px: [_v2().RandomErasing(p=0.25)],
}


def train_transform(
    *names: str, size_px: int = 32, mean: Sequence[float] = HALF, std: Sequence[float] = HALF
) -> v2.Compose:
    """Return a v2 transform for training: resize to a square, the named augmentations, float, normalise.

    Args:
        names: keys of TRAIN_TRANSFORMS, applied in this order.
        size_px: side of the result in pixels.
        mean: per channel, of images in 0 to 1; its length says how many channels the images have.
        std: per channel.

    Returns:
        A transform of a PIL image or uint8 tensor to float32 `(C, size_px, size_px)`.

    Raises:
        ConfigError: a name that is not in the table.
    """
    unknown = [unknown_name("transform", name, TRAIN_TRANSFORMS) for name in names if name not in TRAIN_TRANSFORMS]
    if unknown:
        raise ConfigError(unknown)
    resize = [] if "random-resized-crop" in names else _square(size_px)
    chosen = [step for name in names for step in TRAIN_TRANSFORMS[name](size_px)]
    return _v2().Compose([_v2().ToImage(), *resize, *chosen, *_to_float(mean, std)])


def eval_transform(*, size_px: int = 32, mean: Sequence[float] = HALF, std: Sequence[float] = HALF) -> v2.Compose:
    """Return a v2 transform for evaluation: the middle square, resized, float, normalised."""
    return _v2().Compose([_v2().ToImage(), *_square(size_px), *_to_float(mean, std)])


def _square(size_px: int) -> list[Any]:
    return [middle_square, _v2().Resize((size_px, size_px), antialias=True)]


def middle_square(image: Any) -> Any:
    """Return the largest square in the middle of an image or tensor, as `Preprocess` takes it."""
    return _v2().functional.center_crop(image, min(image.shape[-2:]))


def _to_float(mean: Sequence[float], std: Sequence[float]) -> list[Any]:
    import torch

    return [_v2().ToDtype(torch.float32, scale=True), _v2().Normalize(list(mean), list(std))]

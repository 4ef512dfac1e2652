"""Models of timm and torchvision, by prefixed name: `timm:convnext_tiny`, `torchvision:resnet50`."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import nn

from tellapart.errors import ConfigError
from tellapart.models import from_timm, from_torchvision
from tellapart.models.external_errors import first_line
from tellapart.models.summary import left_untouched

_PACKAGES = {"timm": from_timm, "torchvision": from_torchvision}
# Square sizes that published models are made for; tried in turn to tell which one a model takes.
_USUAL_SIZES_PX = (8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 299, 320, 384)


def is_external(name: str) -> bool:
    """Return whether the name has the prefix of another package.

    >>> is_external("timm:convnext_tiny"), is_external("resnet18")
    (True, False)
    """
    return name.partition(":")[0] in _PACKAGES and ":" in name


def create_external(
    name: str, *, num_classes: int, in_channels: int = 3, size_px: int = 224, pretrained: bool = False
) -> nn.Module:
    """Return a model of timm or torchvision that makes `(B, num_classes)` of `(B, in_channels, size_px, size_px)`.

    With `pretrained`, the first convolution's filters are summed or repeated where `in_channels` is not 3, position
    embeddings are resampled to `size_px`, and the head is new unless the weights have exactly `num_classes` outputs.

    Raises:
        ConfigError: the package has no such model or no weights for it, or the model cannot take such images.
        MissingError: the package is not installed, or the weights are neither in the cache nor can be downloaded.
    """
    package, model_name = _split(name)
    model = package.create(
        model_name, num_classes=num_classes, in_channels=in_channels, size_px=size_px, pretrained=pretrained
    )
    problem = _forward_problem(model, num_classes, in_channels, size_px)
    if problem is None:
        return model
    larger = (size for size in _USUAL_SIZES_PX if size > size_px)
    fitting = next((size for size in larger if not _forward_problem(model, num_classes, in_channels, size)), None)
    hint = f" Of the usual larger sizes {fitting} px is the smallest that works." if fitting else ""
    made_for = package.made_for_px(model_name)
    origin = f" The model was made for {made_for} px." if made_for else ""
    raise ConfigError([f"'{name}' {problem}.{hint}{origin} Set size_px, or take another model."])


def pretrained_normalization(name: str, *, in_channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and standard deviation per channel, of pixels in [0, 1], that the pretrained weights expect.

    Args:
        name: name as for `create_model`.
        in_channels: channels of the images; where not 3, every channel gets the average over the weights' three.

    Returns:
        (mean, std), each `in_channels` long, or None where there are no pretrained weights.

    Raises:
        ConfigError: timm or torchvision has no such model.
        MissingError: the package is not installed.
    """
    if not is_external(name):
        return None
    package, model_name = _split(name)
    statistics = package.normalization(model_name)
    if statistics is None or in_channels == len(statistics[0]):
        return statistics
    mean, std = statistics
    return (sum(mean) / len(mean),) * in_channels, (sum(std) / len(std),) * in_channels


def pretrained_license(name: str) -> str | None:
    """Return the licence that the package states for the pretrained weights, or None where it states none.

    Raises:
        ConfigError: timm or torchvision has no such model.
        MissingError: the package is not installed.
    """
    if not is_external(name):
        return None
    package, model_name = _split(name)
    return package.weights_license(model_name)


def _split(name: str) -> tuple[ModuleType, str]:
    prefix, _, model_name = name.partition(":")
    return _PACKAGES[prefix], model_name


def _forward_problem(model: nn.Module, num_classes: int, in_channels: int, size_px: int) -> str | None:
    """Run the model on one black image and return what is wrong with the outcome, or None."""
    reference = next(model.parameters())
    image = torch.zeros(1, in_channels, size_px, size_px, device=reference.device, dtype=reference.dtype)
    # Not inference_mode: a model may keep a tensor that it makes here, and train with it later.
    with left_untouched(model), torch.no_grad():
        try:
            logits = model(image)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ZeroDivisionError) as error:
            return f"cannot take {in_channels} x {size_px} x {size_px} images ({first_line(error)})"
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        return f"puts out {found} for one image where logits of shape (1, {num_classes}) are needed"
    if not logits.is_meta and not logits.isfinite().all():
        return f"puts out {logits.flatten()[0].item()} for a black {size_px} x {size_px} image"
    return None

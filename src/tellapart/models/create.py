"""The table of models, and `create_model`, which makes one for given classes and images."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tellapart.errors import ConfigError, unknown_name
from tellapart.models.cnn import CIFAR10_CNN, CNN
from tellapart.models.external import create_external, is_external
from tellapart.models.mlp import MLP
from tellapart.models.resnet import cifar_resnet, imagenet_resnet

_MLP_HIDDEN_SIZE = 512
# Above this size the ImageNet stem sees enough: it leaves 17 px or more for the first stage.
_SMALL_INPUT_PX = 64


def _mlp(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """Three linear layers on the flattened image, hidden widths 512 and 256; a baseline."""
    return MLP(in_channels * size_px * size_px, _MLP_HIDDEN_SIZE, num_classes)


def _cnn(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """Three convolutions with pooling and a two-layer head; 0.62 M parameters at 32 px."""
    return CNN(num_classes, in_channels=in_channels, size_px=size_px)


def _cifar10_cnn(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """Six convolutions with pooling and dropout and a two-layer head; 0.82 M parameters at 32 px."""
    return CIFAR10_CNN(num_classes, in_channels=in_channels, size_px=size_px)


def _resnet20(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """CIFAR-style ResNet of 20 layers (He et al. 2015, section 4.2); 0.27 M parameters."""
    return cifar_resnet(20, num_classes=num_classes, in_channels=in_channels)


def _resnet32(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """CIFAR-style ResNet of 32 layers (He et al. 2015, section 4.2); 0.46 M parameters."""
    return cifar_resnet(32, num_classes=num_classes, in_channels=in_channels)


def _resnet44(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """CIFAR-style ResNet of 44 layers (He et al. 2015, section 4.2); 0.66 M parameters."""
    return cifar_resnet(44, num_classes=num_classes, in_channels=in_channels)


def _resnet56(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """CIFAR-style ResNet of 56 layers (He et al. 2015, section 4.2); 0.85 M parameters."""
    return cifar_resnet(56, num_classes=num_classes, in_channels=in_channels)


def _resnet110(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """CIFAR-style ResNet of 110 layers (He et al. 2015, section 4.2); 1.7 M parameters."""
    return cifar_resnet(110, num_classes=num_classes, in_channels=in_channels)


def _resnet18(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """ImageNet-style ResNet of 18 layers; 11 M parameters; a 3 x 3 stem without pool up to 64 px."""
    return _imagenet_resnet_for(18, num_classes, in_channels, size_px)


def _resnet34(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """ImageNet-style ResNet of 34 layers; 21 M parameters; a 3 x 3 stem without pool up to 64 px."""
    return _imagenet_resnet_for(34, num_classes, in_channels, size_px)


def _resnet50(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """ImageNet-style ResNet of 50 layers; 24 M parameters; a 3 x 3 stem without pool up to 64 px."""
    return _imagenet_resnet_for(50, num_classes, in_channels, size_px)


def _resnet101(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """ImageNet-style ResNet of 101 layers; 43 M parameters; a 3 x 3 stem without pool up to 64 px."""
    return _imagenet_resnet_for(101, num_classes, in_channels, size_px)


def _resnet152(*, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    """ImageNet-style ResNet of 152 layers; 58 M parameters; a 3 x 3 stem without pool up to 64 px."""
    return _imagenet_resnet_for(152, num_classes, in_channels, size_px)


def _imagenet_resnet_for(depth: int, num_classes: int, in_channels: int, size_px: int) -> nn.Module:
    small_input = size_px <= _SMALL_INPUT_PX
    return imagenet_resnet(depth, num_classes=num_classes, in_channels=in_channels, small_input=small_input)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "cifar10-cnn": _cifar10_cnn,
    "resnet20": _resnet20,
    "resnet32": _resnet32,
    "resnet44": _resnet44,
    "resnet56": _resnet56,
    "resnet110": _resnet110,
    "resnet18": _resnet18,
    "resnet34": _resnet34,
    "resnet50": _resnet50,
    "resnet101": _resnet101,
    "resnet152": _resnet152,
}
"""Built-in models: each entry takes `num_classes`, `in_channels` and `size_px` (of square images) by keyword."""


def create_model(
    name: str, *, num_classes: int, in_channels: int = 3, size_px: int = 32, pretrained: bool = False
) -> nn.Module:
    """Return a model that makes logits `(B, num_classes)` of float images `(B, in_channels, size_px, size_px)`.

    Initial weights come from torch's global random generator.

    Args:
        name: a key of `MODELS`, or `timm:<name>` or `torchvision:<name>`.
        num_classes: number of logits, at least 1.
        in_channels: channels of the images, at least 1.
        size_px: height and width of the images.
        pretrained: start from published weights, which only `timm:` and `torchvision:` have.

    Raises:
        ConfigError: the name is unknown, a number is out of range, there are no such weights, or the model cannot
            take images of this size.
        MissingError: timm or torchvision is not installed, or the weights can neither be found nor downloaded.
    """
    numbers = {"num_classes": num_classes, "in_channels": in_channels, "size_px": size_px}
    problems = [f"{key} must be at least 1, found {value}." for key, value in numbers.items() if value < 1]
    if is_external(name):
        if problems:
            raise ConfigError(problems)
        return create_external(name, **numbers, pretrained=pretrained)
    if name not in MODELS:
        problems.append(_unknown_model(name))
    elif pretrained:
        problems.append(
            f"there are no pretrained weights for the built-in model '{name}'; only names that start with 'timm:' or "
            f"'torchvision:' have some, for example '{_pretrained_relative(name)}'. Take one of those or set "
            "pretrained=False."
        )
    if problems:
        raise ConfigError(problems)
    return MODELS[name](**numbers)


def model_description(name: str) -> str:
    """Return one line that says what a built-in model is.

    Raises:
        ConfigError: there is no built-in model of that name.

    >>> model_description("resnet20")
    'CIFAR-style ResNet of 20 layers (He et al. 2015, section 4.2); 0.27 M parameters.'
    """
    if name not in MODELS:
        raise ConfigError([_unknown_model(name)])
    return (MODELS[name].__doc__ or "").splitlines()[0]


def _unknown_model(name: str) -> str:
    return (
        f"{unknown_name('model', name, MODELS)}. Models of other packages: 'timm:<name>', 'torchvision:<name>', "
        "for example 'timm:convnext_tiny'."
    )


def _pretrained_relative(name: str) -> str:
    imagenet_family = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    return f"torchvision:{name}" if name in imagenet_family else "torchvision:resnet18"

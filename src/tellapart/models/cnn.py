"""The two plain convolutional networks of the tutorial, for images of any size and number of channels."""

from __future__ import annotations

import torch
from torch import nn

from tellapart.errors import ConfigError
from tellapart.models.blocks import ConvBlock, Pair, conv_output_size

_WIDTHS = (32, 64, 128)
_HEAD_WIDTH = 256
_HEAD_DROPOUT = 0.5


class CNN(nn.Module):
    """Three `ConvBlock`s (32, 64, 128 channels), each with a 2 x 2 max pool, then a two-layer head.

    Every layer keeps PyTorch's initial weights, so that the network is the tutorial's.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        size_px: height and width of the images, one number for square ones; at least 8 px.

    Raises:
        ConfigError: the images are smaller than 8 px, so that pooling would leave nothing.
    """

    def __init__(self, num_classes: int = 10, *, in_channels: int = 3, size_px: int | Pair = 32) -> None:
        super().__init__()
        height, width = _size_after_pools("CNN", size_px)
        layers: list[nn.Module] = []
        for out_channels in _WIDTHS:
            layers += [ConvBlock(in_channels, out_channels), nn.MaxPool2d(2)]
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        self.head = _make_head(in_channels * height * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, num_classes)` for images, float `(B, in_channels, H, W)`."""
        return self.head(self.features(x))


class CIFAR10_CNN(nn.Module):  # noqa: N801 - the tutorial's name
    """Three blocks of two `ConvBlock`s (32, 64, 128 channels), max pool and dropout, then a two-layer head.

    With the defaults it has 815,018 parameters. Every layer keeps PyTorch's initial weights, so that the network is
    the tutorial's.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        size_px: height and width of the images, one number for square ones; at least 8 px.

    Raises:
        ConfigError: the images are smaller than 8 px, so that pooling would leave nothing.
    """

    def __init__(self, num_classes: int = 10, *, in_channels: int = 3, size_px: int | Pair = 32) -> None:
        super().__init__()
        height, width = _size_after_pools("CIFAR10_CNN", size_px)
        layers: list[nn.Module] = []
        for out_channels, dropout in zip(_WIDTHS, (0.2, 0.3, 0.4), strict=True):
            layers += [
                ConvBlock(in_channels, out_channels),
                ConvBlock(out_channels, out_channels),
                nn.MaxPool2d(2),
                nn.Dropout(dropout),
            ]
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        self.head = _make_head(in_channels * height * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, num_classes)` for images, float `(B, in_channels, H, W)`."""
        return self.head(self.features(x))


def _make_head(num_features: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(num_features, _HEAD_WIDTH),
        nn.ReLU(),
        nn.Dropout(_HEAD_DROPOUT),
        nn.Linear(_HEAD_WIDTH, num_classes),
    )


def _size_after_pools(model: str, size_px: int | Pair) -> Pair:
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    smallest = 2 ** len(_WIDTHS)
    if min(height, width) < smallest:
        raise ConfigError(
            [
                f"{model} halves its images {len(_WIDTHS)} times and needs at least {smallest} x {smallest} px, found "
                f"{height} x {width} px. Set size_px to {smallest} or more, or take a model without that limit "
                "('mlp', 'resnet20')."
            ]
        )
    size = (height, width)
    for _ in _WIDTHS:
        size = conv_output_size(size, kernel_size=2, stride=2)
    return size

"""The building blocks that several models share, and the arithmetic of their sizes."""

from __future__ import annotations

from typing import overload

import torch
from torch import nn

Pair = tuple[int, int]


class ConvBlock(nn.Module):
    """A 3 x 3 convolution with padding 1, batch norm and ReLU.

    It turns float `(B, in_channels, H, W)` into `(B, out_channels, H, W)`. The convolution keeps its bias, although
    the norm cancels it, and PyTorch's own initial weights.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output, float `(B, out_channels, H, W)`."""
        return self.relu(self.norm(self.conv(x)))


@overload
def conv_output_size(input: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int: ...
@overload
def conv_output_size(
    input: Pair,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> Pair: ...
@overload
def conv_output_size(
    input: int | Pair,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> int | Pair: ...
def conv_output_size(
    input: int | Pair,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> int | Pair:
    """Return the height and width that a convolution or pooling layer makes of an input of this size.

    Args:
        input: size of the input in pixels, one number or (height, width).
        kernel_size, stride, padding, dilation: as of `torch.nn.Conv2d`, each one number or a pair.

    Returns:
        One number if every argument is one number, otherwise (height, width).

    Raises:
        ValueError: an argument is out of range, or the kernel does not fit into the padded input.

    Source: torch.nn.Conv2d, "Shape": floor((input + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1).

    >>> conv_output_size(32, kernel_size=3, padding=1)
    32
    >>> conv_output_size((224, 160), kernel_size=7, stride=2, padding=3)
    (112, 80)
    """
    arguments = {
        "input": input,
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
    }
    pairs = {name: _as_pair(name, value) for name, value in arguments.items()}
    height = _output_size(**{name: pair[0] for name, pair in pairs.items()})
    width = _output_size(**{name: pair[1] for name, pair in pairs.items()})
    return (height, width) if any(isinstance(value, tuple | list) for value in arguments.values()) else height


def _as_pair(name: str, value: int | Pair) -> Pair:
    if not isinstance(value, tuple | list):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name} must be one number or a pair (height, width), found {value}.")
    return value[0], value[1]


def _output_size(*, input: int, kernel_size: int, stride: int, padding: int, dilation: int) -> int:
    at_least_one = {"input": input, "kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    for name, value in at_least_one.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}.")
    if padding < 0:
        raise ValueError(f"padding must be at least 0, found {padding}.")
    reach = dilation * (kernel_size - 1) + 1
    size = (input + 2 * padding - reach) // stride + 1
    if size < 1:
        raise ValueError(
            f"a kernel of size {kernel_size} (dilation {dilation}) spans {reach} px and does not fit into {input} px "
            f"with padding {padding} on each side. The smallest input that works is {reach - 2 * padding} px."
        )
    return size

"""The shared block, and the arithmetic of convolution sizes against PyTorch's own layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tellapart.models import ConvBlock, conv_output_size


def pair(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@settings(deadline=None, max_examples=150)
@given(pair(1, 24), pair(1, 7), pair(1, 4), pair(0, 4), pair(1, 3))
def test_size_is_that_of_a_real_convolution(
    input_: tuple[int, int],
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    conv = nn.Conv2d(1, 1, kernel_size, stride, padding, dilation)
    try:
        expected = tuple(conv(torch.zeros(1, 1, *input_)).shape[2:])
    except RuntimeError:
        with pytest.raises(ValueError, match="does not fit"):
            conv_output_size(input_, kernel_size, stride, padding, dilation)
        return
    assert conv_output_size(input_, kernel_size, stride, padding, dilation) == expected


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 24), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2))
def test_size_is_that_of_a_real_max_pool(input_: int, kernel_size: int, stride: int, padding: int) -> None:
    assume(kernel_size <= input_ + 2 * padding and padding <= kernel_size // 2)
    pool = nn.MaxPool2d(kernel_size, stride, padding)
    assert conv_output_size(input_, kernel_size, stride, padding) == pool(torch.zeros(1, 1, input_, input_)).shape[2]


def test_one_number_stays_one_number_and_any_pair_makes_a_pair() -> None:
    assert conv_output_size(32, 5) == 28
    assert conv_output_size(32, (5, 3)) == (28, 30)
    assert conv_output_size(32, 2, stride=(2, 1)) == (16, 31)
    assert conv_output_size((8, 6), 3, padding=1, dilation=2) == (6, 4)


def test_too_small_an_input_is_told_the_smallest_that_works() -> None:
    with pytest.raises(ValueError, match=r"spans 9 px and does not fit into 4 px .* smallest input that works is 7 px"):
        conv_output_size(4, kernel_size=5, padding=1, dilation=2)
    assert conv_output_size(7, kernel_size=5, padding=1, dilation=2) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": 0, "kernel_size": 1}, "input must be at least 1, found 0"),
        ({"input": 4, "kernel_size": 0}, "kernel_size must be at least 1, found 0"),
        ({"input": 4, "kernel_size": 1, "stride": 0}, "stride must be at least 1, found 0"),
        ({"input": 4, "kernel_size": 1, "dilation": (1, 0)}, "dilation must be at least 1, found 0"),
        ({"input": 4, "kernel_size": 1, "padding": -1}, "padding must be at least 0, found -1"),
        ({"input": (4, 4, 4), "kernel_size": 1}, "input must be one number or a pair"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv_output_size(**arguments)


def test_conv_block_is_convolution_then_norm_then_relu() -> None:
    torch.manual_seed(0)
    block = ConvBlock(3, 4)
    assert [type(child) for child in block.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert block.conv.kernel_size == (3, 3)
    assert block.conv.padding == (1, 1)
    x = torch.randn(2, 3, 5, 7)
    convolved = nn.functional.conv2d(x, block.conv.weight, block.conv.bias, padding=1)
    mean = convolved.mean(dim=(0, 2, 3), keepdim=True)
    variance = convolved.var(dim=(0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(block(x), ((convolved - mean) / (variance + 1e-5).sqrt()).clamp(min=0))

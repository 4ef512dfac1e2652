"""Residual networks: the CIFAR and the ImageNet family of He et al. 2015, "Deep Residual Learning" (1512.03385)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

Shortcut = Literal["A", "B"]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: float `(B, in_channels, H, W)` to `(B, width, H', W')`.

    H' and W' are H and W divided by the stride, rounded up.

    Source: He et al. 2015, figure 5 left.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _make_shortcut(in_channels, width, stride, shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float `(B, width, H', W')`."""
        branch = self.relu(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        return self.relu(branch + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut: float `(B, in_channels, H, W)` to `(B, 4 width, H', W')`.

    H' and W' are H and W divided by the stride, rounded up. The stride is on the 3 x 3 convolution.

    Source: He et al. 2015, figure 5 right; the stride's place as in torchvision's ResNet ("v1.5").
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _make_shortcut(in_channels, width * self.expansion, stride, shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float `(B, 4 width, H', W')`."""
        branch = self.relu(self.norm1(self.conv1(x)))
        branch = self.relu(self.norm2(self.conv2(branch)))
        branch = self.norm3(self.conv3(branch))
        return self.relu(branch + self.shortcut(x))


class PadShortcut(nn.Module):
    """Keep every `stride`-th pixel and append `num_new_channels` channels of zeros: the shortcut without parameters.

    Source: He et al. 2015, section 3.3, option A.
    """

    def __init__(self, stride: int, num_new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.num_new_channels = num_new_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float `(B, C + num_new_channels, H', W')` for `(B, C, H, W)`."""
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, 0, self.num_new_channels))


def _make_stem(in_channels: int, width: int, small_input: bool) -> nn.Sequential:
    if small_input:
        conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    conv = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True), pool)


def _make_shortcut(in_channels: int, out_channels: int, stride: int, kind: Shortcut) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "A":
        return PadShortcut(stride, out_channels - in_channels)
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """A residual network: a stem, stages of residual blocks that halve the size from the second on, a linear head.

    Convolutions start from He's normal distribution (fan out), norms from 1 and 0. With shortcuts of option B the
    last norm of each residual branch starts at 0, so that each block starts as its shortcut.

    Args:
        block: `BasicBlock`, or `Bottleneck` for the deeper networks.
        num_blocks: blocks of each stage.
        widths: channels of the 3 x 3 convolutions of each stage, as many as `num_blocks`.
        num_classes: number of logits.
        in_channels: channels of the images.
        small_input: take the CIFAR stem (3 x 3, stride 1) in place of the ImageNet one (7 x 7, stride 2, max pool).
        shortcut: where a block changes the shape, "B" projects by a 1 x 1 convolution with batch norm, and "A" keeps
            every second pixel and fills the new channels with zeros (no parameters).

    Source: He et al. 2015, section 3.3 (shortcuts A and B) and table 1, with the stride of a bottleneck on its 3 x 3
    convolution ("v1.5", as torchvision has it). Initial weights: He et al. 2015, "Delving Deep into Rectifiers",
    section 2.2; zero norms: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_blocks: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        num_classes: int,
        in_channels: int = 3,
        small_input: bool = False,
        shortcut: Shortcut = "B",
    ) -> None:
        super().__init__()
        self.stem = _make_stem(in_channels, widths[0], small_input)
        channels = widths[0]
        stages: list[nn.Module] = []
        for stage, (depth, width) in enumerate(zip(num_blocks, widths, strict=True)):
            blocks: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width, stride, shortcut))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        self._init_weights(shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, num_classes)` for images, float `(B, in_channels, H, W)` of any size."""
        return self.head(self.pool(self.stages(self.stem(x))).flatten(1))

    def _init_weights(self, shortcut: Shortcut) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if shortcut == "A":
            # A branch of zeros on top of option A's channels of zeros gives ReLU exactly 0, where it passes no
            # gradient: those channels would never start to learn.
            return
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.norm2.weight)
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.norm3.weight)


# Block and number of blocks a stage of the ImageNet family. Source: He et al. 2015, table 1.
_IMAGENET_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
_IMAGENET_WIDTHS = (64, 128, 256, 512)
_CIFAR_WIDTHS = (16, 32, 64)  # He et al. 2015, section 4.2


def cifar_resnet(depth: int, *, num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """Return the CIFAR-style ResNet of `depth` = 6n + 2 layers: n basic blocks at each of 16, 32 and 64 channels.

    Its shortcuts are of option A, as in the paper, so that it has as many parameters as its plain counterpart.

    Raises:
        ValueError: `depth` is not 6n + 2 with n of at least 1.

    Source: He et al. 2015, section 4.2.
    """
    n, remainder = divmod(depth - 2, 6)
    if n < 1 or remainder:
        raise ValueError(f"a CIFAR-style ResNet has 6n + 2 layers (8, 14, 20, ...), found depth {depth}.")
    return ResNet(
        BasicBlock,
        (n, n, n),
        _CIFAR_WIDTHS,
        num_classes=num_classes,
        in_channels=in_channels,
        small_input=True,
        shortcut="A",
    )


def imagenet_resnet(depth: int, *, num_classes: int = 1000, in_channels: int = 3, small_input: bool = False) -> ResNet:
    """Return the ImageNet-style ResNet of 18, 34, 50, 101 or 152 layers, equal to torchvision's but for its names.

    Args:
        depth: number of layers.
        num_classes: number of logits.
        in_channels: channels of the images.
        small_input: replace the 7 x 7 stem and its max pool by a 3 x 3 convolution of stride 1, for images of 64 px
            or less.

    Raises:
        ValueError: there is no such depth.

    Source: He et al. 2015, table 1, shortcuts of option B.
    """
    if depth not in _IMAGENET_DEPTHS:
        known = ", ".join(map(str, _IMAGENET_DEPTHS))
        raise ValueError(f"an ImageNet-style ResNet has {known} layers, found depth {depth}.")
    block, num_blocks = _IMAGENET_DEPTHS[depth]
    return ResNet(
        block,
        num_blocks,
        _IMAGENET_WIDTHS,
        num_classes=num_classes,
        in_channels=in_channels,
        small_input=small_input,
    )

"""Residual networks: parity with torchvision, published sizes, shortcuts and initial weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tellapart.models import cifar_resnet, imagenet_resnet
from tellapart.models.resnet import BasicBlock, Bottleneck, PadShortcut


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def our_name(theirs: str) -> str:
    """Return our name of a tensor of torchvision's ResNet."""
    renamed = {"conv1": "stem.0", "bn1": "stem.1", "fc": "head"}
    first, _, rest = theirs.partition(".")
    if first in renamed:
        return f"{renamed[first]}.{rest}"
    stage = int(first.removeprefix("layer")) - 1
    return f"stages.{stage}.{rest}".replace(".bn", ".norm").replace("downsample", "shortcut")


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_torchvision_with_its_weights(depth: int) -> None:
    from torchvision import models

    torch.manual_seed(0)
    theirs = models.get_model(f"resnet{depth}", weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = imagenet_resnet(depth).eval()
    ours.load_state_dict({our_name(name): tensor for name, tensor in theirs.state_dict().items()})
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_as_many_parameters_as_torchvision_publishes(depth: int) -> None:
    from torchvision import models

    with torch.device("meta"):
        model = imagenet_resnet(depth)
    assert count(model) == models.get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"].meta["num_params"]


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_family_has_the_published_size(depth: int, millions: float) -> None:
    """He et al. 2015, table 6."""
    digits = 1 if depth == 110 else 2
    assert round(count(cifar_resnet(depth)) / 1e6, digits) == millions


def test_cifar_resnet20_counted_by_hand() -> None:
    stem = 3 * 16 * 9 + 2 * 16
    stages = [(6 * 16 * 16 * 9), (16 * 32 + 5 * 32 * 32) * 9, (32 * 64 + 5 * 64 * 64) * 9]
    norms = 6 * 2 * (16 + 32 + 64)
    assert count(cifar_resnet(20)) == stem + sum(stages) + norms + 64 * 10 + 10


@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_depth_is_the_number_of_layers_with_weights(depth: int) -> None:
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in cifar_resnet(depth).modules()) == depth


@pytest.mark.parametrize("depth", [0, 2, 21, 48])
def test_impossible_cifar_depth(depth: int) -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        cifar_resnet(depth)


def test_impossible_imagenet_depth() -> None:
    with pytest.raises(ValueError, match="18, 34, 50, 101, 152 layers, found depth 20"):
        imagenet_resnet(20)


def test_stage_sizes() -> None:
    x = torch.zeros(1, 3, 32, 32)
    assert imagenet_resnet(18).stem(x).shape == (1, 64, 8, 8)
    assert imagenet_resnet(18, small_input=True).stem(x).shape == (1, 64, 32, 32)
    small = cifar_resnet(20)
    shapes = []
    x = small.stem(x)
    for stage in small.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_pad_shortcut_by_hand() -> None:
    x = torch.arange(1.0, 19.0).reshape(1, 2, 3, 3)
    expected = torch.zeros(1, 3, 2, 2)
    expected[0, 0] = torch.tensor([[1, 3], [7, 9]])
    expected[0, 1] = torch.tensor([[10, 12], [16, 18]])
    assert torch.equal(PadShortcut(stride=2, num_new_channels=1)(x), expected)


def test_option_a_has_no_parameters_in_its_shortcuts() -> None:
    for name, _ in cifar_resnet(20).named_parameters():
        assert "shortcut" not in name


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_projecting_blocks_start_as_their_shortcuts(block: type[BasicBlock] | type[Bottleneck]) -> None:
    model = imagenet_resnet(18 if block is BasicBlock else 50)
    x = torch.randn(2, 64, 8, 8)
    found = next(module for module in model.modules() if isinstance(module, block))
    assert torch.equal(found(x), found.shortcut(x).relu())


def gradients_of_norms(model: nn.Module, suffix: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    nn.functional.cross_entropy(model(torch.randn(8, 3, 16, 16)), torch.arange(8)).backward()
    found = {name: p.grad for name, p in model.named_parameters() if name.endswith(suffix) and p.grad is not None}
    assert found
    return found


def test_every_channel_of_the_cifar_family_can_learn() -> None:
    """Norms of 0 on option A's channels of zeros would give ReLU nothing to pass a gradient through, for ever."""
    for suffix in ("norm1.weight", "norm2.weight"):
        for name, gradient in gradients_of_norms(cifar_resnet(20), suffix).items():
            assert gradient.count_nonzero() == gradient.numel(), name


def test_norms_that_start_at_zero_can_learn() -> None:
    for name, gradient in gradients_of_norms(imagenet_resnet(18, small_input=True), "norm2.weight").items():
        assert gradient.count_nonzero() == gradient.numel(), name


def test_convolutions_start_with_he_spread() -> None:
    torch.manual_seed(0)
    conv = imagenet_resnet(18).get_submodule("stages.3.1.conv2")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)

"""The table and `create_model`: which network a name gives, and what is said about a wrong request."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from tellapart.errors import ConfigError
from tellapart.models import CIFAR10_CNN, CNN, MLP, MODELS, ResNet, create_model, model_description


def test_the_names() -> None:
    assert set(MODELS) == {
        *("mlp", "cnn", "cifar10-cnn"),
        *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    }


@pytest.mark.parametrize(
    ("name", "kind"), [("mlp", MLP), ("cnn", CNN), ("cifar10-cnn", CIFAR10_CNN), ("resnet20", ResNet)]
)
def test_a_name_gives_its_network(name: str, kind: type[nn.Module]) -> None:
    assert type(create_model(name, num_classes=3)) is kind


def test_defaults_are_the_tutorial_network() -> None:
    model = create_model("cifar10-cnn", num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 815_018


def test_stem_of_the_imagenet_family_follows_the_size() -> None:
    with torch.device("meta"):
        small = create_model("resnet18", num_classes=3, size_px=64)
        large = create_model("resnet18", num_classes=3, size_px=65)
    kernels = [next(m for m in model.modules() if isinstance(m, nn.Conv2d)).kernel_size for model in (small, large)]
    assert kernels == [(3, 3), (7, 7)]
    assert [any(isinstance(m, nn.MaxPool2d) for m in model.modules()) for model in (small, large)] == [False, True]


def test_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown model 'restnet18'. Did you mean 'resnet18'\? Known: cifar10-cnn"
    ) as e:
        create_model("restnet18", num_classes=3)
    assert "'timm:<name>'" in str(e.value)
    with pytest.raises(ConfigError, match="unknown model 'restnet18'"):
        model_description("restnet18")


def test_unknown_prefix_is_an_unknown_model() -> None:
    with pytest.raises(ConfigError, match="unknown model 'keras:resnet50'"):
        create_model("keras:resnet50", num_classes=3)


def test_built_in_models_have_no_pretrained_weights() -> None:
    with pytest.raises(
        ConfigError, match=r"only names that start with 'timm:' or 'torchvision:' .* 'torchvision:resnet34'"
    ):
        create_model("resnet34", num_classes=3, pretrained=True)


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError) as error:
        create_model("cnnn", num_classes=0, in_channels=0, size_px=-1)
    assert len(error.value.problems) == 4
    for word in ("num_classes must be at least 1, found 0", "in_channels", "size_px", "unknown model 'cnnn'"):
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["cnn", "cifar10-cnn"])
def test_too_small_an_image_is_told_the_smallest_that_works(name: str) -> None:
    with pytest.raises(ConfigError, match="at least 8 x 8 px, found 4 x 4 px"):
        create_model(name, num_classes=3, size_px=4)


@pytest.mark.parametrize("name", ["cifar10-cnn", "cnn", "mlp", "resnet20", "resnet18"])
def test_stated_sizes_are_true(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=10)
    stated = re.search(r"([\d.]+) M param", model_description(name))
    if stated:
        digits = len(stated[1].partition(".")[2])
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, digits) == float(stated[1])


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mlp"])
def test_these_take_a_single_pixel(name: str) -> None:
    model = create_model(name, num_classes=3, in_channels=1, size_px=1).eval()
    assert model(torch.zeros(2, 1, 1, 1)).shape == (2, 3)

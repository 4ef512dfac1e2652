"""What every entry of MODELS must do: shapes, gradients, independence of images, a state that travels."""

from __future__ import annotations

from functools import cache

import pytest
import safetensors.torch
import torch
from torch import nn

from tellapart.models import MODELS, create_model, model_description

NUM_CLASSES = 5
SIZE_PX = 12
# The same blocks as in a shallower network, only more of them: always built and run for shapes, run in full when asked.
DEEP = ("resnet32", "resnet44", "resnet56", "resnet110", "resnet34", "resnet101", "resnet152")
RUN = [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in MODELS]
IMAGES = [(8, 1), (28, 1), (30, 4), (64, 3), (65, 3)]


def make(name: str) -> nn.Module:
    """Return a model in which every part matters: norms that start at 0 or 1 would hide what lies behind them."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=NUM_CLASSES, in_channels=3, size_px=SIZE_PX)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@cache
def evaluated(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return the model in eval mode and float64 (so that tolerances are tight), images, and their logits."""
    model = make(name).eval().double()
    images = torch.randn(4, 3, SIZE_PX, SIZE_PX, dtype=torch.float64)
    with torch.no_grad():
        return model, images, model(images)


@pytest.mark.parametrize(
    ("name", "size_px", "in_channels"),
    [(name, *image) for name in MODELS for image in (IMAGES[2:3] if name in DEEP else IMAGES)],
)
def test_any_images_give_logits(name: str, size_px: int, in_channels: int) -> None:
    with torch.device("meta"):  # Shapes only, so that the largest are as quick as the smallest.
        model = create_model(name, num_classes=NUM_CLASSES, in_channels=in_channels, size_px=size_px)
        logits = model(torch.empty(2, in_channels, size_px, size_px))
    assert logits.shape == (2, NUM_CLASSES)


@pytest.mark.parametrize("name", RUN)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    model = make(name)
    logits = model(torch.randn(6, 3, SIZE_PX, SIZE_PX))
    assert logits.shape == (6, NUM_CLASSES)
    nn.functional.cross_entropy(logits, torch.arange(6) % NUM_CLASSES).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        if parameter.ndim > 1:  # A norm cancels the bias before it, whose gradient may be 0.
            assert parameter.grad.count_nonzero() > 0, parameter_name


@pytest.mark.parametrize("name", RUN)
def test_logits_tell_images_apart(name: str) -> None:
    _, _, logits = evaluated(name)
    # A hundred times the tolerance of the tests below, which would otherwise pass for a constant.
    assert (logits[0] - logits[1]).abs().max() > 1e-5


@pytest.mark.parametrize("name", RUN)
def test_order_of_the_batch_does_not_matter_in_eval(name: str) -> None:
    model, images, logits = evaluated(name)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        torch.testing.assert_close(model(images[order]), logits[order])


@pytest.mark.parametrize("name", RUN)
def test_an_image_alone_gives_what_it_gives_in_a_batch(name: str) -> None:
    model, images, logits = evaluated(name)
    with torch.no_grad():
        torch.testing.assert_close(model(images[1:2]), logits[1:2])


@pytest.mark.parametrize("name", RUN)
def test_channels_last_gives_the_same(name: str) -> None:
    _, images, logits = evaluated(name)
    model = make(name).eval().double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), logits)


@pytest.mark.parametrize("name", RUN)
def test_state_travels_through_safetensors(name: str) -> None:
    model, images, logits = evaluated(name)
    data = safetensors.torch.save(model.state_dict())
    torch.manual_seed(1)
    other = create_model(name, num_classes=NUM_CLASSES, in_channels=3, size_px=SIZE_PX).eval().double()
    other.load_state_dict(safetensors.torch.load(data))
    with torch.no_grad():
        assert torch.equal(other(images), logits)


@pytest.mark.parametrize("name", RUN)
def test_weights_are_a_function_of_the_seed(name: str) -> None:
    one, other = make(name), make(name)
    for (key, first), second in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(first, second), key


def test_descriptions_are_one_line_each_and_differ() -> None:
    descriptions = [model_description(name) for name in MODELS]
    assert len(set(descriptions)) == len(MODELS)
    assert all(20 < len(description) <= 100 and "\n" not in description for description in descriptions)

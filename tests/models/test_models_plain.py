"""The tutorial's networks: equal to a plain nn.Sequential written out by hand, for any image size and channel count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tellapart.errors import ConfigError
from tellapart.models import CIFAR10_CNN, CNN, MLP, SimpleModel


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def tutorial_mlp(input_size: int, hidden_size: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_size, hidden_size),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(hidden_size, hidden_size // 2),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(hidden_size // 2, num_classes),
    )


def tutorial_cnn() -> nn.Sequential:
    return nn.Sequential(
        *[nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2, 2)],
        *[nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2, 2)],
        *[nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2, 2)],
        *[nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)],
    )


def tutorial_cifar10_cnn() -> nn.Sequential:
    return nn.Sequential(
        *[nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()],
        *[nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()],
        *[nn.MaxPool2d(2, 2), nn.Dropout(0.2)],
        *[nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()],
        *[nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()],
        *[nn.MaxPool2d(2, 2), nn.Dropout(0.3)],
        *[nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU()],
        *[nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU()],
        *[nn.MaxPool2d(2, 2), nn.Dropout(0.4)],
        *[nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)],
    )


CASES = {
    "MLP": (lambda: MLP(3072, 64, 10), lambda: tutorial_mlp(3072, 64, 10)),
    "CNN": (CNN, tutorial_cnn),
    "CIFAR10_CNN": (CIFAR10_CNN, tutorial_cifar10_cnn),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_tutorial_network_with_its_weights(name: str) -> None:
    make_ours, make_theirs = CASES[name]
    torch.manual_seed(0)
    ours, theirs = make_ours(), make_theirs()
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if tensor.ndim == 1 else tensor.normal_(std=0.05)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(4, 3, 32, 32)
    as_input = x.flatten(1) if name == "MLP" else x
    torch.manual_seed(1)  # The same dropout masks, as the layers draw in the same order.
    trained = ours(x)
    torch.manual_seed(1)
    torch.testing.assert_close(trained, theirs(as_input))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(as_input))


@pytest.mark.parametrize("name", CASES)
def test_starts_from_the_weights_of_the_tutorial_network(name: str) -> None:
    make_ours, make_theirs = CASES[name]
    torch.manual_seed(3)
    ours = make_ours()
    torch.manual_seed(3)
    theirs = make_theirs()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_parameter_counts() -> None:
    assert count(CIFAR10_CNN()) == 815_018
    # 896 + 64 + 18,496 + 128 + 73,856 + 256 for the blocks, 524,544 + 2,570 for the head.
    assert count(CNN()) == 620_810
    assert count(SimpleModel()) == 241
    assert count(MLP(784, 128, 10)) == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10


def test_simple_model_is_linear_relu_linear() -> None:
    model = SimpleModel()
    x = torch.randn(5, 10)
    first, second = model.layers[0], model.layers[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert model(x).shape == (5, 1)
    torch.testing.assert_close(model(x), (x @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias)
    assert SimpleModel(4, 8, output_size=3)(torch.randn(2, 4)).shape == (2, 3)


def test_mlp_takes_images_and_vectors_alike() -> None:
    model = MLP(48, 16, 5).eval()
    images = torch.randn(6, 3, 4, 4)
    assert torch.equal(model(images), model(images.flatten(1)))


def test_mlp_dropout_is_a_keyword() -> None:
    layers = MLP(4, 4, 2, dropout=0.0).layers
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.0, 0.0]


def test_mlp_refuses_an_empty_layer() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        MLP(4, 1, 2)


@pytest.mark.parametrize("model", [CNN, CIFAR10_CNN])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (15, 4), (28, 1), (30, 3), (33, 2), ((16, 40), 3)])
def test_any_size_and_channel_count(
    model: type[CNN] | type[CIFAR10_CNN], size: int | tuple[int, int], channels: int
) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    network = model(7, in_channels=channels, size_px=size)
    assert network(torch.randn(2, channels, height, width)).shape == (2, 7)


@pytest.mark.parametrize("model", [CNN, CIFAR10_CNN])
@pytest.mark.parametrize("size", [1, 7, (32, 7)])
def test_too_small_an_image_is_told_the_smallest_that_works(
    model: type[CNN] | type[CIFAR10_CNN], size: int | tuple[int, int]
) -> None:
    with pytest.raises(ConfigError, match=f"{model.__name__} .* at least 8 x 8 px, found"):
        model(size_px=size)

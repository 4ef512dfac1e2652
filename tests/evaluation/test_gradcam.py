"""Grad-CAM: equal to one written by hand, on the thing that decides the class, and without a trace in the network."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from tellapart.errors import MissingError, RunError
from tellapart.evaluation import gradcam
from tellapart.evaluation.gradcam import SpatialLayer, choose_layer, grad_cam, heat, place_of
from tellapart.models import MODELS, create_model
from tests.tolerances import tolerance

pytest.importorskip("captum", reason="captum is not installed")

DEEP = ("resnet32", "resnet44", "resnet56", "resnet110", "resnet34", "resnet101", "resnet152")


def make(name: str, size_px: int = 32, num_classes: int = 5) -> nn.Module:
    """Return a model whose head is not zero, as those of fresh transformers are."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    model = create_model(name, num_classes=num_classes, size_px=size_px)
    head = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    nn.init.normal_(head.weight, std=0.1)
    return model.eval()


def images(count: int, size_px: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))


def by_hand(network: nn.Module, name: str, inputs: torch.Tensor, targets: list[int], to_maps: Callable) -> torch.Tensor:
    """Grad-CAM from hooks and autograd alone, an image at a time."""
    found = []
    for image, target in zip(inputs, targets, strict=True):
        kept: list[torch.Tensor] = []

        def keep(module: nn.Module, args: object, output: torch.Tensor, kept: list[torch.Tensor] = kept) -> object:
            kept.append(output)
            return output.clone()  # what follows may work in place

        handle = network.get_submodule(name).register_forward_hook(keep)
        score = network(image[None])[0, target]
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[-1])
        maps, slopes = to_maps(kept[-1])[0], to_maps(gradient)[0]
        weights = slopes.flatten(1).mean(1)
        found.append(torch.relu(torch.einsum("c,chw->hw", weights, maps)))
    return torch.stack(found).detach()


PARITY = [
    ("cnn", 32, "features.4", (8, 8), lambda output: output),
    ("cifar10-cnn", 32, "features.9", (8, 8), lambda output: output),
    ("resnet20", 32, "stages.2.2", (8, 8), lambda output: output),
    ("resnet18", 32, "stages.3.1", (4, 4), lambda output: output),
    ("torchvision:squeezenet1_1", 64, "classifier.2", (3, 3), lambda output: output),
    ("torchvision:swin_t", 64, "permute", (2, 2), lambda output: output),
    ("timm:swin_tiny_patch4_window7_224", 64, "norm", (2, 2), lambda output: output.permute(0, 3, 1, 2)),
    (
        "timm:vit_tiny_patch16_224",
        48,
        "blocks.11.norm1",
        (3, 3),
        lambda output: output[:, 1:].transpose(1, 2).unflatten(2, (3, 3)),
    ),
    (
        "timm:deit_tiny_distilled_patch16_224",
        32,
        "blocks.11.norm1",
        (2, 2),
        lambda output: output[:, 2:].transpose(1, 2).unflatten(2, (2, 2)),
    ),
]


@pytest.mark.parametrize(("name", "size_px", "layer", "grid", "to_maps"), PARITY, ids=[row[0] for row in PARITY])
def test_equal_to_one_written_by_hand(
    name: str, size_px: int, layer: str, grid: tuple[int, int], to_maps: Callable
) -> None:
    network = make(name, size_px)
    chosen = choose_layer(network, 3, size_px)
    assert (chosen.name, chosen.grid) == (layer, grid)
    inputs, targets = images(3, size_px), [4, 0, 4]
    found = grad_cam(network, inputs, torch.tensor(targets), chosen)
    expected = by_hand(network, layer, inputs, targets, to_maps)
    assert found.shape == (3, *grid)
    assert found.dtype == torch.float32
    assert expected.any()
    torch.testing.assert_close(found, expected, **tolerance(torch.float32, 10 * float(expected.max())))


@pytest.mark.parametrize("size_px", [8, 33])
@pytest.mark.parametrize("name", [n for n in MODELS if n != "mlp" and n not in DEEP])
def test_every_model_has_a_layer_to_look_at(name: str, size_px: int) -> None:
    network = make(name, size_px)
    layer = choose_layer(network, 3, size_px)
    assert min(layer.grid) > 1
    assert grad_cam(network, images(2, size_px), torch.tensor([0, 1]), layer).shape == (2, *layer.grid)


def test_a_network_without_maps_is_told_from_one_without_answer() -> None:
    with pytest.raises(RunError, match="MLP has no spatial map"):
        choose_layer(make("mlp"), 3, 32)
    deaf = make("cnn")
    for parameter in deaf.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(RunError, match="answers the same whatever the picture"):
        choose_layer(deaf, 3, 32)


def test_layers_by_name() -> None:
    network = make("resnet20")
    assert choose_layer(network, 3, 32, "stages.0").grid == (32, 32)
    assert choose_layer(network, 3, 32, "stem.0").name == "stem.0"
    with pytest.raises(RunError, match=r"no layer 'stages.2.22'.*Did you mean 'stages.2.2'"):
        choose_layer(network, 3, 32, "stages.2.22")
    with pytest.raises(RunError, match=r"'head' has no spatial map.*the last first: stages.2.2, "):
        choose_layer(network, 3, 32, "head")
    # Behind the last attention, only the class token of this transformer reaches the answer.
    transformer = make("timm:vit_tiny_patch16_224", 48)
    with pytest.raises(RunError, match=r"'blocks.11.mlp' has no spatial map that the answer depends on"):
        choose_layer(transformer, 3, 48, "blocks.11.mlp")


class _Twice(nn.Module):
    """Calls one convolution twice; its output before the pool is a map both times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.conv(self.act(self.conv(x)))).mean((2, 3)))


def test_of_a_layer_called_twice_the_last_call_counts() -> None:
    torch.manual_seed(0)
    network = _Twice().eval()
    layer = choose_layer(network, 3, 6)
    assert (layer.name, layer.call) == ("act", 1)
    inputs = images(2, 6)
    activated = network.act(network.conv(network.act(network.conv(inputs)))).detach()
    # Behind a mean and a linear layer, the gradient of a class is the same everywhere: its weights.
    expected = torch.relu(torch.einsum("c,bchw->bhw", network.head.weight[1].detach(), activated)) / 36
    found = grad_cam(network, inputs, torch.tensor([1, 1]), layer)
    torch.testing.assert_close(found, expected, **tolerance(torch.float32))


def test_the_network_is_left_as_it_was() -> None:
    network = make("resnet20").train()
    network.get_submodule("stages.1").eval()
    for parameter in network.get_submodule("stages.0").parameters():
        parameter.requires_grad_(False)
    network(images(4)).sum().backward()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    modes = [module.training for module in network.modules()]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    state = torch.random.get_rng_state()
    inputs = images(2)
    kept = inputs.clone()

    grad_cam(network, inputs, torch.tensor([0, 1]), choose_layer(network, 3, 32))

    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for parameter, grad in zip(network.parameters(), grads, strict=True):
        assert (parameter.grad is None) if grad is None else torch.equal(parameter.grad, grad)  # type: ignore[arg-type]
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(inputs, kept)
    assert not inputs.requires_grad


def test_hooks_are_gone_after_an_error() -> None:
    network = make("cnn")
    layer = choose_layer(network, 3, 32)
    with pytest.raises(RuntimeError):
        grad_cam(network, torch.zeros(1, 5, 32, 32), torch.tensor([0]), layer)
    assert not any(module._forward_hooks for module in network.modules())
    assert not torch.is_inference_mode_enabled()


def test_it_works_under_every_setting_of_inference() -> None:
    network, inputs, targets = make("cifar10-cnn"), images(2), torch.tensor([2, 3])
    layer = choose_layer(network, 3, 32)
    expected = grad_cam(network, inputs, targets, layer)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(grad_cam(network, inputs, targets, choose_layer(network, 3, 32)), expected)
    with torch.inference_mode():
        born_inside = images(2)
        assert torch.equal(grad_cam(network, born_inside, targets, choose_layer(network, 3, 32)), expected)
        twin = make("cifar10-cnn")
        assert next(twin.parameters()).is_inference()
        assert choose_layer(twin, 3, 32) == layer
        assert torch.equal(grad_cam(twin, inputs, targets, layer), expected)
    turned = network.to(memory_format=torch.channels_last)
    found = grad_cam(turned, inputs.contiguous(memory_format=torch.channels_last), targets, layer)
    torch.testing.assert_close(found, expected, **tolerance(torch.float32, float(expected.max())))


def test_eval_mode_whatever_the_mode() -> None:
    network = make("cifar10-cnn")  # with dropout and norms
    layer, inputs, targets = choose_layer(network, 3, 32), images(2), torch.tensor([0, 1])
    assert torch.equal(
        grad_cam(network.train(), inputs, targets, layer), grad_cam(network.eval(), inputs, targets, layer)
    )


def blobs(count: int, seed: int, side: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images with a bright blob, its class (its colour) and where it is, bool `(count, side, side)`."""
    draw = torch.Generator().manual_seed(seed)
    pictures = 0.3 * torch.randn(count, 3, side, side, generator=draw)
    labels = torch.randint(0, 2, (count,), generator=draw)
    tops, lefts = torch.randint(0, side - 6, (2, count), generator=draw)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for number, (top, left, label) in enumerate(zip(tops, lefts, labels, strict=True)):
        masks[number, top : top + 6, left : left + 6] = True
        pictures[number, 2 * int(label)][masks[number]] += 2.0
    return pictures, labels, masks


def test_the_heat_lies_on_what_decides_the_class() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(60):
        pictures, labels, _ = blobs(32, step)
        loss = nn.functional.cross_entropy(network(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures, labels, masks = blobs(64, 10_000)
    predicted = network(pictures).argmax(1)
    assert (predicted == labels).float().mean() > 0.95
    warmth = heat(grad_cam(network, pictures, predicted, choose_layer(network, 3, 24)), 24)
    # The map is coarse and enlarged, so the blob's edge is given two pixels.
    wide = nn.functional.max_pool2d(masks[:, None].float(), 5, stride=1, padding=2)[:, 0]
    share = ((warmth * wide).sum((1, 2)) / warmth.sum((1, 2)).clamp(min=1e-9)).mean()
    assert share > 0.65
    assert wide.mean() < 0.17
    assert float(share) > 4 * float(wide.mean())


def test_without_captum_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make("cnn")
    layer = choose_layer(network, 3, 32)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingError, match=r"pip install 'tellapart\[explain\]'"):
        grad_cam(network, images(1), torch.tensor([0]), layer)


@given(arrays(np.float32, (2, 3, 3), elements=st.floats(0, 2.0**100, width=32)), st.integers(1, 9))
def test_heat_is_between_0_and_1_and_has_a_1(maps: np.ndarray, size_px: int) -> None:
    found = heat(torch.from_numpy(maps), size_px)
    assert found.shape == (2, size_px, size_px)
    assert bool(((found >= 0) & (found <= 1)).all())
    large = nn.functional.interpolate(torch.from_numpy(maps)[:, None].double(), size_px, mode="bilinear")[:, 0]
    for each, source in zip(found, large, strict=True):
        assert float(each.max()) == (1.0 if source.any() else 0.0)


def test_heat_of_hard_numbers() -> None:
    assert not heat(torch.zeros(1, 4, 4), 8).any()
    assert not heat(torch.tensor([[[float("nan"), 1.0], [0.0, 0.0]]]), 4).any()
    assert not heat(torch.tensor([[[float("inf"), 1.0], [0.0, 0.0]]]), 4).any()
    tiny = heat(torch.tensor([[[1e-44, 0.0], [0.0, 0.0]]]), 2)
    assert tiny[0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert heat(torch.zeros(0, 2, 2), 4).shape == (0, 4, 4)
    maps = torch.rand(2, 3, 3)
    torch.testing.assert_close(heat(1000 * maps, 7), heat(maps, 7), **tolerance(torch.float32))


def test_places() -> None:
    assert place_of(np.zeros((6, 6))) is None
    spot = np.zeros((6, 6))
    spot[5, 2] = 1.0
    found = place_of(spot)
    assert found is not None
    assert (found.name, found.area_share) == ("bottom", 1 / 36)
    even = place_of(np.ones((10, 10)))
    assert even is not None
    assert (even.name, even.area_share) == ("centre", 0.8)
    assert str(even) == "centre, 80% of the picture holds 80% of the heat"
    names = []
    for row in (0, 2, 4):
        for column in (0, 2, 4):
            one = np.zeros((6, 6))
            one[row, column] = 1.0
            names.append(str(place_of(one)).partition(",")[0])
    assert names == list(gradcam._NINTHS)
    assert str(place_of(np.ones((1, 1)))).startswith("upper left, 100%")


def test_layouts_come_back() -> None:
    for layer, shape in [
        (SpatialLayer("", (2, 3), "channels-first"), (4, 5, 2, 3)),
        (SpatialLayer("", (2, 3), "channels-last"), (4, 2, 3, 5)),
        (SpatialLayer("", (2, 3), "tokens", 1), (4, 7, 5)),
        (SpatialLayer("", (2, 3), "tokens"), (4, 6, 5)),
    ]:
        output = torch.randn(shape)
        maps = layer.to_maps(output)
        assert maps.shape == (4, 5, 2, 3)
        assert torch.equal(layer.from_maps(maps, output), output)

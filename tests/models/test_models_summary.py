"""The summary: hand-counted rows, PyTorch's own operation counter, and a model that is left as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tellapart.errors import ConfigError
from tellapart.models import CIFAR10_CNN, SimpleModel, cifar_resnet, imagenet_resnet, summary


class Restless(nn.Module):
    """Changes a buffer and draws random numbers even in eval mode, and has layers in different modes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen_norm = nn.BatchNorm2d(4).eval()
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))
        self.num_calls: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        x = self.frozen_norm(self.norm(self.conv(x)))
        return self.dropout(x) + torch.rand(())


def state_of(model: nn.Module) -> tuple[list[bool], list[torch.Tensor], list[int]]:
    modules = list(model.modules())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    return [m.training for m in modules], [t.clone() for t in model.state_dict().values()], hooks


def assert_unchanged(model: nn.Module, before: tuple[list[bool], list[torch.Tensor], list[int]]) -> None:
    after = state_of(model)
    assert after[0] == before[0]
    assert all(torch.equal(one, other) for one, other in zip(after[1], before[1], strict=True))
    assert after[2] == before[2]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rows_by_hand() -> None:
    found = summary(SimpleModel(), (10,))
    rows = [(r.name, r.type, r.output_shape, r.num_params, r.multiply_adds) for r in found.rows]
    assert rows == [
        ("layers.0", "Linear", (20,), 220, 200),
        ("layers.1", "ReLU", (20,), 0, 0),
        ("layers.2", "Linear", (1,), 21, 20),
    ]
    assert (found.total_params, found.trainable_params, found.multiply_adds) == (241, 241, 220)


def test_text_by_hand() -> None:
    assert str(summary(SimpleModel(), (10,))).splitlines() == [
        "Layer     Type    Output shape  Parameters",
        "------------------------------------------",
        "layers.0  Linear  (20,)                220",
        "layers.1  ReLU    (20,)                  0",
        "layers.2  Linear  (1,)                  21",
        "------------------------------------------",
        "Parameters     241",
        "  trainable    241",
        "  frozen         0",
        "Multiply-adds  220",
        "For one 10 input; multiply-adds of convolutions and linear layers.",
    ]


def test_cifar10_cnn() -> None:
    found = summary(CIFAR10_CNN(), (3, 32, 32))
    assert found.total_params == 815_018
    assert sum(row.num_params for row in found.rows) == 815_018
    assert {row.name: row.output_shape for row in found.rows}["features.8.conv"] == (128, 8, 8)
    assert "815,018" in str(found)
    assert "3 x 32 x 32" in str(found)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (CIFAR10_CNN(), (3, 32, 32)),
        (cifar_resnet(20), (3, 32, 32)),
        (imagenet_resnet(18), (3, 40, 40)),
        (
            nn.Sequential(
                nn.Conv2d(4, 8, 3, stride=2, dilation=2, groups=4),
                nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2),
                nn.Flatten(2),
                nn.Conv1d(6, 2, 5, padding=2),
                nn.Linear(22 * 22, 7),
            ),
            (4, 23, 23),
        ),
    ],
    ids=["cifar10-cnn", "resnet20", "resnet18", "mixed"],
)
def test_multiply_adds_are_half_of_what_pytorch_counts(model: nn.Module, shape: tuple[int, ...]) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(torch.zeros(1, *shape))
    assert 2 * summary(model, shape).multiply_adds == counter.get_total_flops()


def test_four_numbers_bring_their_batch_and_change_nothing() -> None:
    model = CIFAR10_CNN()
    assert summary(model, (5, 3, 32, 32)) == summary(model, (3, 32, 32))


def test_model_is_left_as_it_was() -> None:
    model = Restless()
    before, random_before = state_of(model), torch.get_rng_state()
    summary(model, (3, 8, 8))
    assert_unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), random_before)


def test_model_is_left_as_it_was_after_a_failure() -> None:
    model = Restless()
    before, random_before = state_of(model), torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"Restless cannot take an input of shape \(1, 4, 8, 8\)"):
        summary(model, (4, 8, 8))
    assert_unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), random_before)


def test_a_pending_backward_pass_still_works() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    loss = model(torch.randn(2, 3, 8, 8)).square().sum()
    summary(model, (3, 8, 8))
    loss.backward()


def test_a_module_that_is_called_twice_is_counted_once() -> None:
    layer = nn.Linear(6, 6)
    found = summary(nn.Sequential(layer, nn.ReLU(), layer), (6,))
    assert [(row.name, row.num_params, row.is_reused) for row in found.rows] == [
        ("0", 42, False),
        ("1", 0, False),
        ("0", 0, True),
    ]
    assert (found.total_params, found.multiply_adds) == (42, 72)
    assert "reused" in str(found)


def test_shared_weights_are_counted_once() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
    second.weight = first.weight
    found = summary(nn.Sequential(first, second), (6,))
    assert [row.num_params for row in found.rows] == [42, 0]
    assert found.total_params == 42


def test_frozen_parameters_are_not_trainable() -> None:
    model = SimpleModel()
    model.layers[0].requires_grad_(False)
    assert (summary(model, (10,)).total_params, summary(model, (10,)).trainable_params) == (241, 21)


def test_parameters_of_layers_that_are_never_called_have_rows() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.used = nn.Linear(3, 3)
            self.unused = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x) * self.scale

    found = summary(Unused(), (3,))
    rows = {row.name: (row.output_shape, row.num_params) for row in found.rows}
    assert rows == {"used": ((3,), 12), "": ((3,), 3), "unused": (None, 8)}
    assert sum(row.num_params for row in found.rows) == found.total_params == 23
    assert "(model)" in str(found)


def test_runs_on_the_device_and_in_the_dtype_of_the_model() -> None:
    with torch.device("meta"):
        on_meta = imagenet_resnet(50)
    assert summary(on_meta, (3, 224, 224)).multiply_adds == 4_089_184_256  # torchvision publishes 4.09 G for it
    assert summary(SimpleModel().double(), (10,)).multiply_adds == 220


def test_a_model_without_parameters() -> None:
    found = summary(nn.Flatten(), (3, 4))
    assert [(row.name, row.output_shape) for row in found.rows] == [("", (12,))]
    assert "(model)" in str(found)


def test_fits_80_columns_whatever_the_names() -> None:
    class AnExceedinglyLongNameForAnIdentityLayer(nn.Identity):
        pass

    deep: nn.Module = AnExceedinglyLongNameForAnIdentityLayer()
    for _ in range(10):
        deep = nn.Sequential(nn.Identity(), nn.ModuleDict({"a_long_name": deep})["a_long_name"])
    with torch.device("meta"):
        large = imagenet_resnet(152)
    texts = [str(summary(deep, (3, 2000, 2000))), str(summary(large, (3, 1024, 1024)))]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 80
    wide = nn.Sequential()
    wide.add_module("an_extraordinarily_long_name_" * 3 + "end", AnExceedinglyLongNameForAnIdentityLayer())
    lines = str(summary(wide, (9,))).splitlines()
    assert max(map(len, lines)) <= 80
    assert "name_end" in lines[2]

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tellapart.errors import ConfigError
from tellapart.optim import OPTIMIZERS, align_layouts, create_optimizer

SETTINGS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "betas": (0.8, 0.95), "eps": 1e-6}


def small_cnn() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(128, 5)
        )
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def backward(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(6, 3, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last)
    F.cross_entropy(model(images), torch.tensor([0, 1, 2, 3, 4, 0])).backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def torch_reference(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """torch's own optimizer, one tensor at a time, over the groups that we promise."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    lr, momentum, plain = 0.02, 0.8, {"foreach": False, "fused": False}
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=(0.8, 0.95), eps=1e-6, **plain)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(0.8, 0.95), eps=1e-6, **plain)
    momentum = 0.0 if name == "sgd" else momentum
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=name == "sgd-nesterov", **plain)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "muon"])
def test_updates_equal_torch(name: str) -> None:
    model, reference = small_cnn(), small_cnn()
    optimizer, torch_optimizer = create_optimizer(name, model, **SETTINGS), torch_reference(name, reference)
    for step in range(6):
        # The same gradients for both, or the network would amplify the last bit.
        backward(model, step)
        for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            theirs.grad = None if mine.grad is None else mine.grad.clone()
        optimizer.step()
        torch_optimizer.step()
        optimizer.zero_grad()
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_optimizer_continues_with_the_same_bits(name: str) -> None:
    straight = small_cnn()
    optimizer = create_optimizer(name, straight, **SETTINGS)
    train(straight, optimizer, range(6))

    first = small_cnn()
    optimizer = create_optimizer(name, first, **SETTINGS)
    train(first, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        # A file does not keep the channels-last order that these tensors have in memory.
        state.update({key: value.contiguous() for key, value in state.items() if isinstance(value, torch.Tensor)})

    second = small_cnn()
    second.load_state_dict(first.state_dict())
    optimizer = create_optimizer(name, second, **{**SETTINGS, "lr": 123.0})
    optimizer.load_state_dict(saved)
    train(second, optimizer, range(3, 6))
    assert_same(second, straight)


@pytest.mark.parametrize("name", ["sgd-momentum", "adamw", "muon"])
def test_a_gradient_of_another_memory_layout_is_the_same_gradient(name: str) -> None:
    models = [small_cnn(), small_cnn()]
    for model, is_contiguous in zip(models, (False, True), strict=True):
        optimizer = create_optimizer(name, model, **SETTINGS)
        for step in range(3):
            backward(model, step)
            for parameter in model.parameters():
                if is_contiguous and parameter.grad is not None:
                    parameter.grad = parameter.grad.contiguous()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(*models)


def test_a_loaded_state_can_be_aligned_for_torchs_own_optimizers() -> None:
    model = small_cnn()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    train(model, optimizer, range(1))
    weight = model.get_parameter("3.weight")
    state = optimizer.state[weight]
    before = state["exp_avg"].clone()
    state["exp_avg"] = state["exp_avg"].contiguous()
    assert state["exp_avg"].stride() != weight.stride()
    align_layouts(optimizer)
    assert state["exp_avg"].stride() == weight.stride()
    assert torch.equal(state["exp_avg"], before)


def test_weight_decay_leaves_out_norms_biases_and_vectors() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.norm = nn.LayerNorm([2, 4])
            self.position_bias = nn.Parameter(torch.zeros(2, 4))
            self.scale = nn.Parameter(torch.ones(4))

    optimizer = create_optimizer("adamw", Scaled(), lr=1.0, weight_decay=0.5)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["decay"]["param_names"] == ["linear.weight"]
    assert groups["decay"]["weight_decay"] == 0.5
    assert set(groups["no_decay"]["param_names"]) == {
        "linear.bias", "norm.weight", "norm.bias", "position_bias", "scale",
    }  # fmt: skip
    assert groups["no_decay"]["weight_decay"] == 0.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_trainable_parameter_is_in_exactly_one_group(name: str) -> None:
    model = small_cnn()
    model.get_parameter("0.weight").requires_grad_(False)
    optimizer = create_optimizer(name, model, lr=0.1)
    found = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    decaying = create_optimizer(name, model, lr=0.1, weight_decay=0.3, decay_norm_and_bias=True)
    assert {group["weight_decay"] for group in decaying.param_groups} == {0.3}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_to_train_is_an_error(name: str) -> None:
    frozen = small_cnn().requires_grad_(False)
    with pytest.raises(ConfigError, match="Sequential has no trainable parameters"):
        create_optimizer(name, frozen, lr=0.1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "sgd_momentum"}, "Did you mean 'sgd-momentum'"),
        ({"lr": -0.1}, "lr: expected at least 0, found -0.1"),
        ({"lr": float("nan")}, "lr: expected"),
        ({"weight_decay": -1.0}, "weight_decay: expected"),
        ({"momentum": 1.0}, "momentum: expected at least 0 and less than 1"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]: expected"),
        ({"eps": 0.0}, "eps: expected more than 0"),
        ({"name": "sgd-nesterov", "momentum": 0.0}, "without momentum use 'sgd'"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        create_optimizer(**{"name": "sgd", "model": small_cnn(), "lr": 0.1, **changes})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_runs_hooks_once_and_returns_the_closures_loss(name: str) -> None:
    model = small_cnn()
    # A torch optimizer of the same class has its step wrapped on construction, which must not run our hooks again.
    torch.optim.SGD(model.parameters())
    torch.optim.AdamW(model.parameters())
    optimizer = create_optimizer(name, model, lr=0.1)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        assert torch.is_grad_enabled()
        backward(model, 0)
        return 1.5

    weight = model.get_parameter("3.weight")
    before = weight.detach().clone()
    assert optimizer.step(closure) == 1.5
    assert calls == ["before", "after"]
    assert not torch.equal(before, weight)
    assert torch.is_grad_enabled()


def test_names_say_what_they_are() -> None:
    kinds = {name: type(create_optimizer(name, small_cnn(), lr=0.1)).__name__ for name in OPTIMIZERS}
    assert kinds == {
        "sgd": "SGD", "sgd-momentum": "SGD", "sgd-nesterov": "SGD", "adam": "Adam", "adamw": "AdamW", "muon": "Muon",
    }  # fmt: skip

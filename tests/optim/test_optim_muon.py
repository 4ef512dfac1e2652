from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tellapart.errors import ConfigError
from tellapart.optim import Muon, create_optimizer, muon_parameter_groups, newton_schulz
from tellapart.optim import muon as muon_module


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (5, 5), (1, 7)])
def test_newton_schulz_applies_its_polynomial_to_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = randn(*shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(newton_schulz(matrix[None])[0], u @ torch.diag(s) @ vh, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_newton_schulz_does_not_depend_on_the_size_of_its_input(
    rows: int, columns: int, scale: float, seed: int
) -> None:
    matrices = randn(2, rows, columns, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(newton_schulz(matrices), newton_schulz(matrices * scale), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(newton_schulz(matrices), newton_schulz(matrices.mT).mT, rtol=1e-6, atol=1e-8)


def test_newton_schulz_of_zeros_is_zero() -> None:
    assert torch.equal(newton_schulz(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


SHAPES = [(8, 20), (20, 8), (16, 16), (8, 20), (20, 8)]


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_move_as_with_torch(scale: Any, nesterov: bool) -> None:
    mine = [nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    theirs = [nn.Parameter(p.detach().clone()) for p in mine]
    optimizer = Muon(mine, lr=0.02, weight_decay=0.1, nesterov=nesterov, scale=scale, precision="bfloat16")
    reference = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=nesterov, adjust_lr_fn=scale
    )
    for step in range(6):
        for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            one.grad = randn(*one.shape, seed=100 * step + index)
            other.grad = one.grad.clone()
        optimizer.step()
        reference.step()
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        moved = (other - randn(*other.shape, seed=index)).abs().max()
        # Both compute in bfloat16, with sums in another order: 1% of the way.
        assert (one - other).abs().max().item() < 0.01 * moved.item()
        torch.testing.assert_close(optimizer.state[one]["momentum_buffer"], reference.state[other]["momentum_buffer"])


def test_a_filter_moves_like_its_flattened_matrix() -> None:
    filters, matrix = nn.Parameter(randn(6, 4, 3, 3)), nn.Parameter(randn(6, 4, 3, 3).flatten(1))
    filters.data = filters.data.contiguous(memory_format=torch.channels_last)
    for parameter in (filters, matrix):
        optimizer = Muon([parameter], lr=0.1)
        for step in range(3):
            parameter.grad = randn(6, 4, 3, 3, seed=step + 1).reshape(parameter.shape)
            optimizer.step()
    torch.testing.assert_close(filters.flatten(1), matrix)


def test_matrices_computed_together_move_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[Tensor]:
        parameters = [nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
        optimizer = Muon(parameters, lr=0.1)
        for step in range(3):
            for index, parameter in enumerate(parameters):
                parameter.grad = randn(*parameter.shape, seed=50 * step + index)
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    together = run()
    monkeypatch.setattr(muon_module, "_STACK_NUMEL", 1)
    for one, other in zip(together, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [True, None])
def test_everything_else_moves_as_with_adamw(fused: bool | None) -> None:
    mine = [nn.Parameter(randn(7)), nn.Parameter(randn(4, 3))]
    theirs = [nn.Parameter(p.detach().clone()) for p in mine]
    group = {"params": mine, "algorithm": "adamw"}
    optimizer = Muon([group], lr=0.02, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, fused=fused)
    reference = torch.optim.AdamW(theirs, lr=0.02, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6)
    for step in range(6):
        for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            one.grad = randn(*one.shape, seed=10 * step + index)
            other.grad = one.grad.clone()
        optimizer.step()
        reference.step()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_updates_have_the_size_of_adamws() -> None:
    # What "match_rms_adamw" promises: root mean square about 0.2 times the learning rate, whatever the shape.
    for shape in ((64, 64), (32, 256), (256, 32), (16, 8, 3, 3)):
        parameter = nn.Parameter(torch.zeros(shape))
        optimizer = Muon([parameter], lr=1.0)
        parameter.grad = randn(*shape)
        optimizer.step()
        assert float(parameter.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)


def test_a_parameter_without_a_gradient_stays() -> None:
    parameters = [nn.Parameter(randn(3, 3)), nn.Parameter(randn(3, 3))]
    optimizer = Muon(parameters, lr=0.1, weight_decay=0.1)
    parameters[0].grad = randn(3, 3, seed=1)
    optimizer.step()
    assert torch.equal(parameters[1], randn(3, 3))
    assert not torch.equal(parameters[0], randn(3, 3))


def names(model: nn.Module, **options: Any) -> dict[str, list[str]]:
    groups = muon_parameter_groups(model, weight_decay=0.1, **options)
    return {group["name"]: [name for name, _ in group["params"]] for group in groups}


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 2)
    )


def test_the_first_convolution_the_head_and_depthwise_filters_are_adamws() -> None:
    found = names(cnn())
    assert found["muon"] == ["2.weight"]
    assert found["decay"] == ["0.weight", "3.weight", "4.weight"]
    assert found["no_decay"] == ["0.bias", "1.weight", "1.bias", "2.bias", "3.bias", "4.bias"]
    assert names(cnn(), first_conv=True, head=True)["muon"] == ["0.weight", "2.weight", "4.weight"]
    assert "no_decay" not in names(cnn(), decay_norm_and_bias=True)


def test_a_first_linear_layer_is_a_hidden_matrix() -> None:
    assert names(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))["muon"] == ["0.weight"]


def test_a_frozen_first_layer_does_not_make_the_second_the_first() -> None:
    model = cnn()
    model[0].requires_grad_(False)
    found = names(model)
    assert found["muon"] == ["2.weight"]
    assert "0.weight" not in found["decay"]


def test_attention_is_muons_and_embeddings_are_not() -> None:
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4)
            self.position = nn.Parameter(torch.zeros(1, 5, 8))
            self.classes = nn.Embedding(3, 8)
            self.attention = nn.MultiheadAttention(8, 2)
            self.head = nn.Linear(8, 2)

    found = names(Transformer())
    assert found["muon"] == ["attention.in_proj_weight", "attention.out_proj.weight"]
    assert found["decay"] == ["position", "patches.weight", "classes.weight", "head.weight"]


def test_a_model_without_hidden_matrices_is_an_error() -> None:
    with pytest.raises(ConfigError, match="use 'adamw'"):
        create_optimizer("muon", nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), lr=0.1)


def test_a_vector_in_a_muon_group_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_wrong_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="scale: expected match_rms_adamw or original, found 'rms'"):
        Muon([nn.Parameter(torch.zeros(3, 3))], lr=0.1, scale="rms")  # type: ignore[arg-type]


def test_muon_learns() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    inputs = randn(64, 10)
    targets = inputs[:, :1] * inputs[:, 1:2]
    optimizer = create_optimizer("muon", model, lr=0.02, momentum=0.95)
    losses = []
    for _ in range(60):
        loss = (model(inputs) - targets).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.05 * losses[0]

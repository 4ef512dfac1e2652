"""Features are what enters the last layer; neighbours are exact; what is kept is used only where it still holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tellapart.errors import RunError
from tellapart.evaluation import embeddings
from tellapart.evaluation.embeddings import Bank, Embedder, find_head, kept_dtype, nearest_rows, unit_rows
from tellapart.models import MODELS, create_model
from tests.tolerances import tolerance

RNG = np.random.default_rng(0)
DEEP = ("resnet32", "resnet44", "resnet56", "resnet110", "resnet34", "resnet101", "resnet152")


def make(name: str, size_px: int = 16, num_classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes, size_px=size_px).eval()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in DEEP])
def test_the_last_layer_makes_the_logits_of_the_features(name: str) -> None:
    network, inputs = make(name), torch.randn(3, 3, 16, 16)
    head = find_head(network, 5, 3, 16)
    features = Embedder(network, head)(inputs)
    layer = network.get_submodule(head)
    assert isinstance(layer, nn.Linear)
    assert features.shape == (3, layer.in_features)
    assert features.dtype == np.float32
    with torch.no_grad():
        torch.testing.assert_close(layer(torch.from_numpy(features)), network(inputs), **tolerance(torch.float32, 10.0))


def test_a_convolution_as_last_layer_is_averaged_over_places() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs = torch.randn(2, 3, 8, 8)
    assert find_head(network, 5, 3, 8) == "2"
    expected = network[1](network[0](inputs)).mean((2, 3)).detach().numpy()
    np.testing.assert_allclose(Embedder(network, "2")(inputs), expected, rtol=1e-6)


def test_tokens_are_averaged_and_a_layer_of_another_width_is_a_last_resort() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.patch(x).flatten(2).transpose(1, 2)).mean(1)

    network, inputs = Tokens(), torch.randn(2, 3, 8, 8)
    expected = network.patch(inputs).flatten(2).mean(2).detach().numpy()
    np.testing.assert_allclose(Embedder(network, "head")(inputs), expected, rtol=1e-5, atol=1e-7)
    assert find_head(network, 99, 3, 8) == "head"
    with pytest.raises(RunError, match="expected a last layer"):
        find_head(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)).eval(), 5, 3, 8)


def test_the_network_is_left_as_it_was() -> None:
    network = make("cifar10-cnn").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    head = find_head(network, 5, 3, 16)
    inputs = torch.randn(4, 3, 16, 16)
    found = Embedder(network, head)(inputs)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    np.testing.assert_array_equal(found, Embedder(network.eval(), head)(inputs))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("chunk", [7, 8192])
def test_neighbours_are_those_of_scikit_learn(dtype: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.neighbors import NearestNeighbors

    monkeypatch.setattr(embeddings, "_CHUNK", chunk)
    bank, queries = RNG.normal(size=(100, 12)).astype(dtype), RNG.normal(size=(9, 12))
    distances, expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank.astype(float)).kneighbors(queries)
    rows, cosines = nearest_rows(queries, bank, 5)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(cosines, 1 - distances, atol=1e-6)
    assert rows.dtype == np.int64
    assert cosines.dtype == np.float32


@given(st.integers(0, 12), st.integers(0, 6), st.integers(0, 4), st.integers(1, 5))
def test_any_sizes(num_bank: int, num_neighbours: int, num_queries: int, chunk: int) -> None:
    bank = np.random.default_rng(num_bank).normal(size=(num_bank, 3))
    queries = np.random.default_rng(num_queries).normal(size=(num_queries, 3))
    before, embeddings._CHUNK = embeddings._CHUNK, chunk
    try:
        rows, cosines = nearest_rows(queries, bank, num_neighbours)
    finally:
        embeddings._CHUNK = before
    assert rows.shape == cosines.shape == (num_queries, min(num_bank, num_neighbours))
    assert bool((np.diff(cosines, axis=1) <= 0).all())
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_equals_come_in_their_order_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_CHUNK", 3)
    bank = np.ones((10, 4)) * np.arange(1, 11)[:, None]
    rows, cosines = nearest_rows(np.ones((1, 4)), bank, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]
    np.testing.assert_allclose(cosines, 1.0, rtol=1e-6)


def test_rows_of_nothing_and_of_no_number_are_like_nothing() -> None:
    bank = np.array([[0.0, 0.0], [np.nan, 1.0], [1e30, 0.0], [0.0, 1e-30]])
    rows, cosines = nearest_rows(np.array([[1e30, 0.0]]), bank, 4)
    assert rows[0, 0] == 2
    assert cosines[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert nearest_rows(np.zeros((1, 2)), bank, 1)[1].tolist() == [[0.0]]


def bank() -> Bank:
    return Bank(np.arange(20) * 3, unit_rows(RNG.normal(size=(20, 8))).astype(np.float16))


def test_what_is_kept_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    made, path = bank(), tmp_path / "deep" / "train.safetensors"
    made.save(path, "a key")
    found = Bank.load(path, "a key")
    assert found is not None
    np.testing.assert_array_equal(found.rows, made.rows)
    assert found.features.tobytes() == made.features.tobytes()
    assert [each.name for each in path.parent.iterdir()] == ["train.safetensors"]
    assert Bank.load(path, "another key") is None
    assert Bank.load(tmp_path / "none", "a key") is None


def test_every_flipped_or_missing_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    bank().save(path, "k")
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = Bank.load(path, "k")
        assert found is None, place
    path.write_bytes(whole[: len(whole) // 2])
    assert Bank.load(path, "k") is None
    path.write_bytes(b"")
    assert Bank.load(path, "k") is None


def test_a_foreign_table_is_not_taken(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "train.safetensors"
    tables = [{"rows": np.zeros(3), "other": np.zeros(2)}, {"rows": np.zeros(3), "features": np.zeros((2, 2))}]
    for table in tables:
        for about in (None, {"other": "k"}, {"tellapart.embeddings": '{"key": "k"}'}, {"tellapart.embeddings": "[]"}):
            save_file(table, path, about)
            assert Bank.load(path, "k") is None


def test_the_same_features_make_the_same_file(tmp_path: Path) -> None:
    made = bank()
    for name in "ab":
        made.save(tmp_path / name, "k")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_only_large_tables_are_kept_in_half_precision() -> None:
    assert kept_dtype(50_000, 512) is np.float32
    assert kept_dtype(1_280_000, 2048) is np.float16

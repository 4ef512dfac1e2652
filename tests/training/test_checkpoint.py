"""Checkpoints are whole or absent, damage is named, and the one before serves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tellapart.errors import RunError
from tellapart.optim import EMA, create_optimizer
from tellapart.training import checkpoint
from tellapart.training.checkpoint import checkpoints, load_newest, read_checkpoint, save_checkpoint
from tellapart.training.state import TrainState


def make_state(seed: int = 0, width: int = 4, optimizer: str = "adamw", ema: bool = False) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    return TrainState(model, create_optimizer(optimizer, model, lr=0.1), ema=EMA(model, 0.9) if ema else None)


def advance(state: TrainState, epochs: int = 0, steps: int = 0, value: float = 0.5) -> TrainState:
    for _ in range(epochs + steps):
        state.optimizer.zero_grad()
        state.model(torch.randn(5, 3)).sum().backward()
        state.optimizer.step()
        state.count(torch.tensor(0.25), 5)
        if state.epoch < epochs:
            state.end_epoch(value + state.epoch / 10, higher_is_better=True, val_loss=1.0)
    return state


Weights = dict[tuple[str, str], torch.Tensor]


def weights(state: TrainState) -> Weights:
    return {(name, key): tensor.clone() for name, file in state.tensors().items() for key, tensor in file.items()}


def assert_same(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    assert [place for place, tensor in a.items() if not torch.equal(tensor, b[place])] == []


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_comes_back_as_it_was_saved(tmp_path: Path, optimizer: str) -> None:
    state = advance(make_state(optimizer=optimizer, ema=True, width=6), epochs=2, steps=1)
    path = save_checkpoint(tmp_path / "c", state, {"history_bytes": 17})
    assert path.name == "epoch-0002-batch-00001"
    assert sorted(file.suffix for file in path.iterdir()) == [".json", ".safetensors", ".safetensors", ".safetensors"]
    other = make_state(seed=5, optimizer=optimizer, ema=True, width=6)
    extra, warnings = load_newest(tmp_path / "c", other)
    assert extra == {"history_bytes": 17}
    assert warnings == []
    assert_same(weights(state), weights(other))
    assert state.position() == other.position()
    assert other.best_epoch == 2


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    def make() -> TrainState:
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        second.weight = first.weight
        model = nn.Sequential(first, second)
        return TrainState(model, create_optimizer("adamw", model, lr=0.1))

    state, other = make(), make()
    save_checkpoint(tmp_path, state, {})
    load_newest(tmp_path, other)
    assert torch.equal(other.model.state_dict()["1.weight"], state.model.state_dict()["0.weight"])


def test_no_checkpoint_is_said(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "nothing") == []
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_newest(tmp_path / "nothing", make_state())


def save_two(folder: Path) -> tuple[Weights, Weights]:
    """Save after epoch 1 and in epoch 2; return the weights of both. Each has best weights of its own."""
    state = advance(make_state(), epochs=1)
    save_checkpoint(folder, state, {"number": 1})
    first = weights(state)
    advance(state, epochs=2)
    save_checkpoint(folder, state, {"number": 2})
    return first, weights(state)


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "gone":
        path.unlink()
        return
    if kind == "bit":
        content[len(content) // 2] ^= 4
    elif kind == "header bit":
        content[12] ^= 1
    elif kind == "last bit":
        content[-2] ^= 1
    path.write_bytes(content[: len(content) // 2] if kind == "torn" else b"" if kind == "empty" else content)


@pytest.mark.parametrize("kind", ["bit", "header bit", "last bit", "torn", "empty", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "best"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, kind: str) -> None:
    first, _ = save_two(tmp_path)
    newest = checkpoints(tmp_path)[-1]
    file = tmp_path / "best-epoch-0002.safetensors" if name == "best" else newest / name
    damage(file, kind)
    state = make_state(seed=3)
    extra, warnings = load_newest(tmp_path, state)
    assert extra == {"number": 1}
    assert len(warnings) == 1
    assert newest.name in warnings[0]
    assert file.name in warnings[0]
    assert "one before" in warnings[0]
    assert_same(weights(state), first)


def test_every_bit_of_the_description_is_guarded(tmp_path: Path) -> None:
    """A digit of the loss, the step or the learning rate that is another one would change the run without a word."""
    path = save_checkpoint(tmp_path, advance(make_state(), epochs=1), {"history_bytes": 1234})
    whole, _ = read_checkpoint(path)
    content = (path / "state.json").read_bytes()
    num_found = 0
    positions = range(0, len(content), 3)
    for position in positions:
        altered = bytearray(content)
        altered[position] ^= 1 << (position % 7)
        (path / "state.json").write_bytes(altered)
        try:
            found, _ = read_checkpoint(path)
        except RunError:
            num_found += 1
        else:
            assert found == whole, f"byte {position} was altered and nobody noticed"
    # White space may differ: it says nothing.
    assert num_found > 0.7 * len(positions)


def test_nothing_whole_lists_what_was_found(tmp_path: Path) -> None:
    save_two(tmp_path)
    for path in checkpoints(tmp_path):
        damage(path / "model.safetensors", "bit")
    with pytest.raises(RunError, match="no checkpoint is whole") as caught:
        load_newest(tmp_path, make_state())
    assert str(caught.value).count("model.safetensors") == 2
    assert f"remove {tmp_path} and resume" in str(caught.value)
    assert "one before" not in str(caught.value)


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing in the code under test may catch it."""


def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = ["os.fsync", "os.rename", "os.unlink", "os.mkdir", "os.rmdir", "shutil.rmtree"]
    originals = {
        name: getattr({"os": os, "shutil": shutil}[name.split(".")[0]], name.split(".")[1]) for name in moments
    }
    alive = [0, 0]

    def dying(name: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            alive[0] += 1
            if alive[0] == alive[1]:
                raise KilledError
            return originals[name](*arguments, **keywords)

        return call

    def save(folder: Path, state: TrainState, number: int, dies_at: int) -> bool:
        alive[:] = [0, dies_at]
        with monkeypatch.context() as patch:
            for name in moments:
                patch.setattr(name, dying(name))
            try:
                save_checkpoint(folder, state, {"number": number})
            except KilledError:
                return False
        return True

    dies_at, died = 0, True
    while died:
        dies_at += 1
        folder = tmp_path / str(dies_at)
        kept = {}
        for number in (1, 2, 3):
            state = advance(make_state(), epochs=number)
            kept[number] = weights(state)
            if number < 3:
                save_checkpoint(folder, state, {"number": number})
        died = not save(folder, state, 3, dies_at)
        other = make_state(seed=4)
        extra, warnings = load_newest(folder, other)
        assert warnings == []
        assert extra["number"] in ((2, 3) if died else (3,))
        assert_same(weights(other), kept[extra["number"]])
        # What the dead one left is in nobody's way, and the next save clears it up.
        advance(state, epochs=4)
        save_checkpoint(folder, state, {"number": 4})
        names = {path.name for path in folder.iterdir()}
        assert not [name for name in names if name.startswith(".tmp-")]
        assert load_newest(folder, other)[0] == {"number": 4}
    assert dies_at > 8


def test_the_last_two_are_kept_with_the_best_weights_that_they_name(tmp_path: Path) -> None:
    state, named = make_state(), set()
    for number in range(1, 6):
        # The best is that of epoch 2 until the end.
        state.count(torch.tensor(0.5), 5)
        state.end_epoch(0.9 if number == 2 else 0.1 + number / 100, higher_is_better=True, val_loss=1.0)
        save_checkpoint(tmp_path, state, {})
        found = {path.name for path in tmp_path.iterdir()}
        named = {json.loads((path / "state.json").read_text())["best"]["file"] for path in checkpoints(tmp_path)}
        assert {name for name in found if name.startswith("best")} == named
        assert len(checkpoints(tmp_path)) == min(number, 2)
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch-0004-batch-00000", "epoch-0005-batch-00000"]
    assert named == {"best-epoch-0002.safetensors"}


def test_the_best_weights_are_written_once(tmp_path: Path) -> None:
    state = advance(make_state(), epochs=1)
    save_checkpoint(tmp_path, state, {})
    before = (tmp_path / "best-epoch-0001.safetensors").stat()
    advance(state, epochs=1, steps=1)
    save_checkpoint(tmp_path, state, {})
    after = (tmp_path / "best-epoch-0001.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_order_is_by_number_not_by_name(tmp_path: Path) -> None:
    state = make_state()
    places = [(999, 99_999), (999, 100_000), (9_999, 3), (10_000, 0), (10_000, 7)]
    for state.epoch, state.batch_in_epoch in places:
        path = save_checkpoint(tmp_path, state, {"place": [state.epoch, state.batch_in_epoch]})
        assert checkpoints(tmp_path)[-1] == path
        assert load_newest(tmp_path, make_state())[0] == {"place": [state.epoch, state.batch_in_epoch]}
        assert len(checkpoints(tmp_path)) == min(2, places.index((state.epoch, state.batch_in_epoch)) + 1)


def test_other_folders_are_no_checkpoints(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_state(), {})
    shutil.copytree(path, tmp_path / "epoch-0009-batch-00000 (copy)")
    (tmp_path / ".tmp-epoch-0009-batch-00000").mkdir()
    (tmp_path / "epoch-0009-batch-00001").write_text("a file")
    assert checkpoints(tmp_path) == [path]


def test_a_damaged_one_ahead_is_replaced_by_the_resumed_run(tmp_path: Path) -> None:
    """Else it would stand in for the newest at the next start, or take the place of the one before it."""
    save_two(tmp_path)
    damage(checkpoints(tmp_path)[-1] / "model.safetensors", "bit")
    state = make_state()
    load_newest(tmp_path, state)
    state.count(torch.tensor(0.5), 5)
    path = save_checkpoint(tmp_path, state, {"number": 3})
    assert [found.name for found in checkpoints(tmp_path)] == ["epoch-0001-batch-00000", "epoch-0001-batch-00001"]
    assert checkpoints(tmp_path)[-1] == path
    assert load_newest(tmp_path, make_state()) == ({"number": 3}, [])


def test_another_models_checkpoint_is_refused_by_the_weights_name(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_state(width=5), {})
    with pytest.raises(RunError, match=r"weight '0.weight': expected shape \(4, 3\)") as caught:
        load_newest(tmp_path, make_state(width=4))
    assert str(path) in str(caught.value)


def test_a_later_version_is_refused_and_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_state()
    save_checkpoint(tmp_path, state, {})
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    state.epoch = 1
    save_checkpoint(tmp_path, state, {})
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"later Tellapart \(checkpoint version 2, this one reads 1\); upgrade"):
        load_newest(tmp_path, make_state())


def test_nothing_but_safetensors_and_json(tmp_path: Path) -> None:
    save_two(tmp_path)
    endings = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert endings == {".safetensors", ".json"}

"""The tutorial's three functions against the loop that one would write by hand in plain PyTorch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, TensorDataset

import tellapart
from tellapart.errors import DataError, NonFiniteLossError
from tellapart.training.plain import train_model, train_one_epoch, validate
from tellapart.training.step import TrainStep

CPU = torch.device("cpu")
LINE = re.compile(r"Epoch (\d+)/(\d+) \| Train Loss: (\d+\.\d{4}) \| Val Loss: (\d+\.\d{4}) \| Val Acc: (\d+\.\d{2})%")


def make_loader(count: int = 88, batch_size: int = 41, seed: int = 0, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    # A rule to learn, so that accuracy moves.
    labels = (images.mean((1, 2, 3)) * 12).long().clamp(-1, 1) + 1
    order = torch.Generator().manual_seed(7)
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=shuffle, generator=order)


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, 3),
    )


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def note_rates(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    optimizer.register_step_pre_hook(lambda optimizer, *arguments: rates.append(optimizer.param_groups[0]["lr"]))


def by_hand_epoch(model: nn.Module, loader: Any, criterion: nn.Module, optimizer: Any, scheduler: Any = None) -> float:
    model.train()
    total, count = 0.0, 0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        total += loss.item() * len(targets)
        count += len(targets)
    return total / count


def by_hand_validate(model: nn.Module, loader: Any, criterion: nn.Module) -> tuple[float, float]:
    model.eval()
    total, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in loader:
            outputs = model(inputs)
            total += criterion(outputs, targets).item() * len(targets)
            correct += int((outputs.argmax(1) == targets).sum())
            count += len(targets)
    return total / count, 100.0 * correct / count


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


CRITERIA = {
    "plain": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([0.3, 1.0, 2.7])),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_an_epoch_is_bit_equal_to_the_loop_by_hand(name: str) -> None:
    losses, models = [], [make_model(), make_model()]
    for model, run in zip(models, ("hand", "ours"), strict=True):
        optimizer, loader = adamw(model), make_loader()
        torch.manual_seed(3)
        for _ in range(2):
            if run == "hand":
                losses.append(by_hand_epoch(model, loader, CRITERIA[name], optimizer))
            else:
                losses.append(train_one_epoch(model, loader, CRITERIA[name], optimizer, CPU))
    assert losses[:2] == losses[2:]
    assert same_weights(*models)


@pytest.mark.parametrize("name", CRITERIA)
def test_validate_is_bit_equal_to_the_loop_by_hand(name: str) -> None:
    model, loader = make_model(), make_loader(shuffle=False)
    train_one_epoch(model, loader, CRITERIA[name], adamw(model), "cpu")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = validate(model, loader, CRITERIA[name], "cpu")
    assert found == by_hand_validate(model, loader, CRITERIA[name])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def by_hand_training(epochs: int, scheduler_of: Any) -> tuple[nn.Module, dict[str, list[float]], list[float]]:
    model, train, val = make_model(), make_loader(), make_loader(30, seed=1, shuffle=False)
    optimizer = adamw(model)
    scheduler = scheduler_of(optimizer)
    per_step = isinstance(scheduler, lr_scheduler.OneCycleLR)
    history: dict[str, list[float]] = {"train_loss": [], "val_loss": [], "val_acc": []}
    rates, best, kept = [], -1.0, {}
    torch.manual_seed(3)
    note_rates(optimizer, rates)
    for _ in range(epochs):
        history["train_loss"].append(
            by_hand_epoch(model, train, nn.CrossEntropyLoss(), optimizer, scheduler if per_step else None)
        )
        loss, accuracy = by_hand_validate(model, val, nn.CrossEntropyLoss())
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss)
        elif not per_step:
            scheduler.step()
        history["val_loss"].append(loss)
        history["val_acc"].append(accuracy)
        if accuracy > best:
            best, kept = accuracy, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(kept)
    return model, history, rates


SCHEDULERS = {
    "one-cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.02, epochs=4, steps_per_epoch=3),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.2),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 4),
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 1, 0.5),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_train_model_is_bit_equal_to_the_loop_by_hand(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected_model, expected, expected_rates = by_hand_training(4, SCHEDULERS[name])

    model = make_model()
    optimizer = adamw(model)
    rates: list[float] = []
    scheduler = SCHEDULERS[name](optimizer)
    note_rates(optimizer, rates)
    torch.manual_seed(3)
    history = train_model(
        model,
        make_loader(),
        make_loader(30, seed=1, shuffle=False),
        4,
        criterion=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        scheduler=scheduler,
        device="cpu",
        save_to=tmp_path / "best.safetensors",
    )
    assert history == expected
    assert rates == expected_rates
    assert len(set(rates)) > 1
    assert same_weights(model, expected_model)


@pytest.fixture
def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, list[float]], str, Path, nn.Module]:
    model, path = make_model(), tmp_path / "inner" / "best_model.safetensors"
    torch.manual_seed(0)
    history = tellapart.train_model(model, make_loader(), make_loader(30, seed=1), 3, device="cpu", save_to=path)
    return history, capsys.readouterr().out, path, model


def test_the_printed_lines_are_the_tutorials(trained: tuple[dict[str, list[float]], str, Path, nn.Module]) -> None:
    history, out, _, _ = trained
    lines = out.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines, start=1):
        train_loss, val_loss, val_acc = (history[key][number - 1] for key in ("train_loss", "val_loss", "val_acc"))
        assert LINE.fullmatch(line)
        assert line == (
            f"Epoch {number}/3 | Train Loss: {train_loss:.4f} | Val Loss: {val_loss:.4f} | Val Acc: {val_acc:.2f}%"
        )


def test_the_history_has_the_tutorials_keys(trained: tuple[dict[str, list[float]], str, Path, nn.Module]) -> None:
    history, _, _, _ = trained
    assert list(history) == ["train_loss", "val_loss", "val_acc"]
    assert all(len(values) == 3 and all(isinstance(v, float) for v in values) for values in history.values())
    # Of 30 images, so that a percentage is a multiple of a thirtieth.
    assert all(math.isclose(v * 30 / 100, round(v * 30 / 100), abs_tol=1e-9) for v in history["val_acc"])


def test_the_best_weights_are_saved_and_loadable(
    trained: tuple[dict[str, list[float]], str, Path, nn.Module],
) -> None:
    from safetensors.torch import load_file

    history, _, path, model = trained
    other = make_model(5)
    other.load_state_dict(load_file(path))
    assert same_weights(other, model)
    assert validate(other, make_loader(30, seed=1), nn.CrossEntropyLoss(), "cpu")[1] == max(history["val_acc"])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_nothing_is_saved_if_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_model(make_model(), make_loader(), make_loader(), 1, device="cpu", save_to=None)
    assert list(tmp_path.iterdir()) == []


def test_the_default_schedule_is_a_cosine_over_all_steps() -> None:
    rates: list[float] = []
    model = make_model()
    optimizer = adamw(model)
    note_rates(optimizer, rates)
    train_model(model, make_loader(), make_loader(), 2, optimizer=optimizer, device="cpu", save_to=None)
    expected = [0.01 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_torchs_global_seed_governs_dropout() -> None:
    def run(seed: int) -> dict[str, list[float]]:
        model = make_model()
        torch.manual_seed(seed)
        return train_model(model, make_loader(shuffle=False), make_loader(), 2, device="cpu", save_to=None)

    assert run(1) == run(1)
    assert run(1)["train_loss"] != run(2)["train_loss"]


class OwnDataset(Dataset[tuple[torch.Tensor, int]]):
    """A user's Dataset: items made on demand, labels as Python ints, a tensor kept from the first time."""

    def __init__(self, count: int) -> None:
        self.count, self.kept = count, {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index not in self.kept:
            self.kept[index] = nn.Parameter(torch.full((3, 8, 8), index / self.count), requires_grad=False) * 1.0
        return self.kept[index], index % 3


def test_a_dataset_of_ones_own_works_for_training_and_validation_alike() -> None:
    """It keeps what it made in validation; made in inference mode, training on it would fail afterwards."""
    dataset, model = OwnDataset(10), make_model()
    validate(model, DataLoader(dataset, 4), nn.CrossEntropyLoss(), "cpu")
    history = train_model(model, DataLoader(dataset, 4), DataLoader(dataset, 4), 2, device="cpu", save_to=None)
    assert len(history["train_loss"]) == 2


class CachingModel(nn.Module):
    """A model that makes a table when it first sees a size, as position embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(192, 3)
        self.table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.ones(3)
        return self.inner(x.flatten(1)) * self.table


def test_a_model_that_keeps_what_it_made_in_validation_can_still_be_trained() -> None:
    model, loader = CachingModel(), make_loader()
    validate(model, loader, nn.CrossEntropyLoss(), "cpu")
    assert train_one_epoch(model, loader, nn.CrossEntropyLoss(), adamw(model), "cpu") > 0


def test_validate_puts_the_mode_of_every_part_back() -> None:
    model = make_model()
    model.train()
    model[1].eval()  # type: ignore[index]  # A frozen batch norm, as in fine-tuning.
    validate(model, make_loader(), nn.CrossEntropyLoss(), "cpu")
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True, True, True]


def test_leftover_gradients_do_not_leak_into_the_first_step() -> None:
    models = [make_model(), make_model()]
    for parameter in models[0].parameters():
        parameter.grad = torch.ones_like(parameter)
    for model in models:
        torch.manual_seed(0)
        train_one_epoch(model, make_loader(), nn.CrossEntropyLoss(), adamw(model), "cpu")
    assert same_weights(*models)


def test_an_empty_loader_is_named() -> None:
    model, loader = make_model(), make_loader()
    empty = make_loader(0, shuffle=False)
    dropped = DataLoader(loader.dataset, batch_size=100, drop_last=True)
    optimizer = adamw(model)
    for bad in (empty, dropped):
        with pytest.raises(DataError, match="training loader yields no batch"):
            train_one_epoch(model, bad, nn.CrossEntropyLoss(), optimizer, "cpu")
        with pytest.raises(DataError, match="training loader yields no batch"):
            train_model(model, bad, loader, 1, device="cpu", save_to=None)
        with pytest.raises(DataError, match="validation loader yields no batch"):
            validate(model, bad, nn.CrossEntropyLoss(), "cpu")


def test_an_empty_validation_loader_is_found_before_training() -> None:
    model = make_model()
    before = make_model()
    with pytest.raises(DataError, match="validation loader yields no batch"):
        train_model(model, make_loader(), make_loader(0, shuffle=False), 1, device="cpu", save_to=None)
    assert same_weights(model, before)


class OnceOnly:
    """A loader that is used up after one pass."""

    def __init__(self) -> None:
        self.batches = iter(list(make_loader()))

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        return self.batches


def test_a_loader_that_is_used_up_is_no_epoch_of_loss_zero() -> None:
    with pytest.raises(DataError, match="epoch 2"):
        train_model(make_model(), OnceOnly(), make_loader(), 2, device="cpu", save_to=None)


@pytest.mark.parametrize("looks_at_each_step", [True, False], ids=["as on a CPU", "as on a GPU"])
def test_a_loss_that_is_no_number_is_an_error(looks_at_each_step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not looks_at_each_step:
        monkeypatch.setattr(TrainStep, "_stop_if_not_finite", lambda *arguments: None)
    images = torch.randn(8, 3, 8, 8)
    images[5, 0, 0, 0] = math.nan
    loader = DataLoader(TensorDataset(images, torch.zeros(8, dtype=torch.int64)), 4)
    model = make_model()
    with pytest.raises(NonFiniteLossError):
        train_one_epoch(model, loader, nn.CrossEntropyLoss(), adamw(model), "cpu")
    with pytest.raises(NonFiniteLossError):
        train_model(make_model(), loader, make_loader(), 1, device="cpu", save_to=None)

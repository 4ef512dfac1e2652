"""One update: the gradient, the clipping, the randomness, and what happens when the loss is not a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tellapart.data.loader import Batch
from tellapart.errors import DataError, NonFiniteLossError
from tellapart.optim import EMA, create_loss
from tellapart.training.state import TrainState
from tellapart.training.step import TrainStep, check_finite

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Binary fractions: their sum in float32 is exact, so that the comparison below can be tight.
CLASS_WEIGHTS = torch.tensor([0.25, 1.0, 4.0])


def make_batch(count: int = 10, dtype: torch.dtype = torch.float32, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 5, generator=generator, dtype=dtype)
    labels = torch.randint(3, (count,), generator=generator)
    return Batch(images, labels, torch.arange(count))


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)).to(dtype)


def make_state(model: nn.Module, lr: float = 1.0) -> TrainState:
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=lr))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().clone().flatten() for parameter in model.parameters()])


CRITERIA: dict[str, Criterion] = {
    "torch's cross-entropy": nn.CrossEntropyLoss(),
    "cross-entropy": create_loss("cross-entropy"),
    "cross-entropy, class weights": create_loss("cross-entropy", class_weights=CLASS_WEIGHTS),
    "cross-entropy, both": create_loss("cross-entropy", class_weights=CLASS_WEIGHTS, label_smoothing=0.1),
    "mean-squared-error": create_loss("mean-squared-error"),
}


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("name", CRITERIA)
def test_accumulated_gradient_is_that_of_the_whole_batch(name: str, parts: int) -> None:
    criterion, batch = CRITERIA[name], make_batch(11, torch.float64)
    model = make_model(dtype=torch.float64)
    loss = criterion(model(batch.images), batch.targets)
    loss.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])

    model = make_model(dtype=torch.float64)
    before = flat(model)
    found = TrainStep(criterion, accumulation_steps=parts)(make_state(model), batch)
    torch.testing.assert_close(before - flat(model), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(float(found), float(loss.detach()), rtol=1e-12, atol=0)


def test_a_mean_of_means_would_be_another_gradient() -> None:
    """What the test above guards against: with class weights, parts are not worth the same."""
    batch = make_batch(10, torch.float64)
    criterion = CRITERIA["cross-entropy, class weights"]
    outputs = make_model(dtype=torch.float64)(batch.images).detach()
    halves = zip(outputs.tensor_split(2), batch.targets.tensor_split(2), strict=True)
    mean_of_means = sum(float(criterion(*half)) for half in halves) / 2
    assert not math.isclose(mean_of_means, float(criterion(outputs, batch.targets)), rel_tol=1e-3)


@pytest.mark.parametrize(("images", "wanted", "parts"), [(1, 4, 1), (3, 4, 1), (4, 4, 2), (9, 4, 4), (9, 1, 1)])
def test_every_part_has_two_images_for_batch_norm(images: int, wanted: int, parts: int) -> None:
    step = TrainStep(nn.CrossEntropyLoss(), accumulation_steps=wanted)
    inputs = torch.zeros(images, 5)
    assert step.num_parts(inputs) == parts
    assert all(len(part) >= min(2, images) for part in inputs.tensor_split(step.num_parts(inputs)))


@pytest.mark.parametrize("name", CRITERIA)
def test_one_part_is_bit_equal_to_plain_pytorch(name: str) -> None:
    criterion = CRITERIA[name]
    plain, ours = make_model(), make_model()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    state = make_state(ours, 0.1)
    # 41 and 47: in float32, x * 41 / 41 is not always x.
    for number, count in enumerate((41, 47, 10)):
        batch = make_batch(count, seed=number)
        optimizer.zero_grad()
        expected = criterion(plain(batch.images), batch.targets)
        expected.backward()
        optimizer.step()
        found = TrainStep(criterion)(state, batch)
        assert torch.equal(found, expected.detach())
        state.count(found, count)
    assert torch.equal(flat(plain), flat(ours))


def test_clip_norm_clips_the_norm_of_all_gradients_together() -> None:
    model = make_model(dtype=torch.float64)
    before = flat(model)
    TrainStep(nn.CrossEntropyLoss())(make_state(model), make_batch(dtype=torch.float64))
    free = before - flat(model)
    assert float(free.norm()) > 0.05

    model = make_model(dtype=torch.float64)
    TrainStep(nn.CrossEntropyLoss(), clip_norm=0.05)(make_state(model), make_batch(dtype=torch.float64))
    clipped = before - flat(model)
    # torch's clip divides by the norm plus 1e-6.
    torch.testing.assert_close(float(clipped.norm()), 0.05, rtol=1e-4, atol=0)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-9, atol=1e-12)


def test_clipping_acts_on_the_accumulated_gradient() -> None:
    models = [make_model(dtype=torch.float64), make_model(dtype=torch.float64)]
    for model, parts in zip(models, (1, 3), strict=True):
        step = TrainStep(nn.CrossEntropyLoss(), clip_norm=0.05, accumulation_steps=parts)
        step(make_state(model), make_batch(dtype=torch.float64))
    torch.testing.assert_close(flat(models[0]), flat(models[1]), rtol=1e-12, atol=1e-13)


def test_a_large_clip_norm_changes_no_bit() -> None:
    models = [make_model(), make_model()]
    for model, clip in zip(models, (0.0, 1e6), strict=True):
        TrainStep(nn.CrossEntropyLoss(), clip_norm=clip)(make_state(model), make_batch())
    assert torch.equal(flat(models[0]), flat(models[1]))


def after_one_step(step: TrainStep, number: int = 0, global_seed: int = 1) -> torch.Tensor:
    model = make_model(dropout=0.5)
    state = make_state(model)
    state.step = number
    torch.manual_seed(global_seed)
    step(state, make_batch())
    return flat(model)


def test_with_a_seed_dropout_is_a_function_of_seed_step_and_part() -> None:
    step = TrainStep(nn.CrossEntropyLoss(), seed=3)
    assert torch.equal(after_one_step(step, global_seed=1), after_one_step(step, global_seed=2))
    assert not torch.equal(after_one_step(step, number=0), after_one_step(step, number=1))
    assert not torch.equal(after_one_step(step), after_one_step(TrainStep(nn.CrossEntropyLoss(), seed=4)))


def test_the_parts_of_a_batch_draw_different_masks() -> None:
    masks: list[torch.Tensor] = []
    model = make_model(dropout=0.5)
    model[2].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))  # type: ignore[index]
    TrainStep(nn.CrossEntropyLoss(), seed=0, accumulation_steps=2)(make_state(model), make_batch(8))
    assert len(masks) == 2
    assert not torch.equal(*masks)


def test_without_a_seed_the_callers_generator_decides() -> None:
    step = TrainStep(nn.CrossEntropyLoss())
    assert torch.equal(after_one_step(step, global_seed=1), after_one_step(step, global_seed=1))
    assert not torch.equal(after_one_step(step, global_seed=1), after_one_step(step, global_seed=2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_is_no_number_stops_before_the_update(bad: float, parts: int) -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = TrainState(model, optimizer, ema=EMA(model, 0.5))
    assert state.ema is not None
    extra = 0.0

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets) + extra * outputs[0, 0]

    step = TrainStep(criterion, accumulation_steps=parts)
    batch = make_batch()
    for _ in range(2):
        state.count(step(state, batch), len(batch))
    before, averages = flat(model), {name: value.clone() for name, value in state.ema.state_dict().items()}
    moments = {key: value.clone() for key, value in state.tensors()["optimizer"].items()}
    state.epoch = 4

    extra = bad
    with pytest.raises(NonFiniteLossError) as caught:
        step(state, batch)
    # Two steps are done, so it is the third that failed; epochs are counted from 1 on screen.
    assert "at step 3 (epoch 5, batch 3)" in str(caught.value)
    assert "--optim.lr" in str(caught.value)
    assert torch.equal(flat(model), before)
    assert all(torch.equal(value, averages[name]) for name, value in state.ema.state_dict().items())
    assert all(torch.equal(value, moments[key]) for key, value in state.tensors()["optimizer"].items())
    assert state.step == 2


def test_check_finite_looks_at_the_epochs_sum() -> None:
    state = make_state(make_model())
    state.count(torch.tensor(1.0), 4)
    check_finite(state)
    state.count(torch.tensor(math.nan), 4)
    state.count(torch.tensor(1.0), 4)
    with pytest.raises(NonFiniteLossError, match=r"nan in epoch 1, at step 3 or before"):
        check_finite(state)


class Calls(list[Any]):
    """A schedule and an EMA in one that write down when they are called."""

    def before_step(self, step: int) -> None:
        self.append(("before", step))

    def after_step(self, step: int) -> None:
        self.append(("after", step))

    def update(self, step: int) -> None:
        self.append(("ema", step))


def test_schedule_and_average_are_called_around_the_update() -> None:
    model, calls = make_model(), Calls()
    fake: Any = calls
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule=fake, ema=fake)
    state.step = 5
    original = state.optimizer.step
    state.optimizer.step = lambda *args: (calls.append("update"), original())[1]  # type: ignore[method-assign]
    TrainStep(nn.CrossEntropyLoss())(state, make_batch())
    assert calls == [("before", 5), "update", ("after", 5), ("ema", 5)]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_prepare_is_told_epoch_and_batch() -> None:
    told: list[tuple[int, int]] = []

    def prepare(batch: Batch, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        told.append((epoch, number))
        return batch.images * 0, batch.targets

    state = make_state(make_model())
    state.epoch, state.batch_in_epoch = 3, 7
    TrainStep(nn.CrossEntropyLoss(), prepare)(state, make_batch())
    assert told == [(3, 7)]


def test_batch_norm_over_one_image_is_explained() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(DataError, match=r"batch of one image.*--train\.batch-size"):
        TrainStep(nn.CrossEntropyLoss())(make_state(model), make_batch(1))


def test_other_errors_of_a_model_come_through() -> None:
    class Broken(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        TrainStep(nn.CrossEntropyLoss())(make_state(Broken(5, 3)), make_batch())

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tellapart.errors import ConfigError, RunError
from tellapart.optim import EMA


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


def move(model: nn.Module, step: int) -> None:
    """Stand in for an update: every weight and running statistic changes."""
    generator = torch.Generator().manual_seed(step)
    for value in [*model.parameters(), *model.buffers()]:
        if value.is_floating_point():
            value.data.add_(torch.randn(value.shape, generator=generator))
        else:
            value.data.add_(1)


def bits(value: torch.Tensor) -> bytes:
    """What is in memory, so that NaN equals NaN."""
    return value.contiguous().numpy().tobytes()


def test_averages_equal_torchs() -> None:
    model = net()
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    reference.update_parameters(model)  # The first call copies.
    ema = EMA(model, 0.9, warm_up=False)
    for step in range(10):
        move(model, step)
        ema.update(step)
        reference.update_parameters(model)
    theirs = reference.module.state_dict()
    for name, average in ema.state_dict().items():
        if average.is_floating_point():
            torch.testing.assert_close(average, theirs[name])
    assert int(ema.state_dict()["1.num_batches_tracked"]) == 10


def test_the_decay_warms_up_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = EMA(model, 0.5)
    expected = 1.0
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5]):
        value = float(step * step)
        model.weight.data.fill_(value)
        ema.update(step)
        expected = decay * expected + (1 - decay) * value
        assert ema.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_decay_0_copies() -> None:
    model = net()
    ema = EMA(model, 0.0)
    move(model, 0)
    ema.update(0)
    for name, value in model.state_dict().items():
        assert torch.equal(ema.state_dict()[name], value), name


@pytest.mark.parametrize("fails", [False, True])
def test_swapped_in_gives_the_very_bits_back(fails: bool) -> None:
    model = net().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    ema = EMA(model, 0.9)
    move(model, 0)
    ema.update(0)
    move(model, 1)
    model.get_parameter("0.weight").data[0, 0, 0, 0] = float("nan")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    averages = {name: value.clone() for name, value in ema.state_dict().items()}
    pointers = [p.data_ptr() for p in model.parameters()]
    try:
        with ema.swapped_in() as averaged:
            assert averaged is model
            assert torch.is_grad_enabled()
            for name, value in model.state_dict().items():
                assert torch.equal(value, averages[name]), name
            model.train()(torch.randn(2, 3, 8, 8))  # Moves the running statistics, which must not stay.
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for name, value in model.state_dict().items():
        assert bits(value) == bits(before[name]), name
    for name, value in ema.state_dict().items():
        assert torch.equal(value, averages[name]), name
    assert pointers == [p.data_ptr() for p in model.parameters()]


def test_swapped_in_works_in_inference_mode() -> None:
    model = net()
    ema = EMA(model, 0.9)
    with torch.inference_mode(), ema.swapped_in():
        model.eval()(torch.randn(2, 3, 8, 8))
    model.train()(torch.randn(2, 3, 8, 8)).sum().backward()
    ema.update(0)


def test_averages_of_a_bfloat16_model_are_float32() -> None:
    model = nn.Linear(2, 2).to(torch.bfloat16)
    ema = EMA(model, 0.999, warm_up=False)
    start = model.weight.detach().float()
    model.weight.data.add_(1)
    for step in range(3):
        ema.update(step)
    # In bfloat16 a step of 0.001 of the way would round to nothing.
    expected = start + (model.weight.detach().float() - start) * (1 - 0.999**3)
    torch.testing.assert_close(ema.state_dict()["weight"], expected)
    with ema.swapped_in():
        assert model.weight.dtype == torch.bfloat16


def test_shared_weights_stay_shared() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    ema = EMA(model, 0.5)
    model.get_parameter("0.weight").data.add_(1)
    ema.update(100)
    assert torch.equal(ema.state_dict()["0.weight"], ema.state_dict()["1.weight"])
    with ema.swapped_in():
        assert model[1].weight is model[0].weight


def test_a_model_moved_later_is_still_the_one_averaged() -> None:
    model = net()
    ema = EMA(model, 0.0)
    model.double().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    move(model, 0)
    ema.update(0)
    torch.testing.assert_close(ema.state_dict()["1.running_mean"], model[1].running_mean.float())


def test_a_stored_average_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    straight, stopped = net(), net()
    ema = EMA(straight, 0.99)
    for step in range(8):
        move(straight, step)
        ema.update(step)

    first = EMA(stopped, 0.99)
    for step in range(4):
        move(stopped, step)
        first.update(step)
    save_file(first.state_dict(), tmp_path / "ema.safetensors")
    second = EMA(stopped, 0.99)
    second.load_state_dict(load_file(tmp_path / "ema.safetensors"))
    for step in range(4, 8):
        move(stopped, step)
        second.update(step)
    for name, value in ema.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_averages_load_into_a_model() -> None:
    model = net()
    ema = EMA(model, 0.9)
    other = net(seed=1)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.get_parameter("0.weight"), model.get_parameter("0.weight"))


def test_averages_of_another_model_are_an_error() -> None:
    ema = EMA(net(), 0.9)
    with pytest.raises(RunError, match=r"1 missing \['0.weight'\], 0 unexpected"):
        ema.load_state_dict({name: value for name, value in ema.state_dict().items() if name != "0.weight"})
    with pytest.raises(RunError, match=r"'3.bias' has shape \(3,\) in the checkpoint, expected \(2,\)"):
        ema.load_state_dict({**ema.state_dict(), "3.bias": torch.zeros(3)})


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_an_error(decay: float) -> None:
    with pytest.raises(ConfigError, match="ema_decay"):
        EMA(net(), decay)


def test_update_inside_swapped_in_is_our_own_mistake() -> None:
    ema = EMA(net(), 0.9)
    with ema.swapped_in(), pytest.raises(AssertionError):
        ema.update(0)

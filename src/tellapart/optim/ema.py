"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tellapart.errors import ConfigError, RunError


class EMA:
    """Averaged copies of a model's parameters and float buffers (running statistics); other buffers are copied.

    average <- d * average + (1 - d) * weights after each update, with d = min(decay, (1 + step) / (10 + step)): the
    first steps are forgotten fast, where a fixed decay would still hold the random start after thousands of updates.

    Averages are float32 (float64 where the model is), on the model's device. They cover what the model's state dict
    holds. Give the bare model, not one wrapped for DDP or by torch.compile, or the names will be those of the wrapper.

    Args:
        model: the model in training; kept, and read at each update.
        decay: in [0, 1); 0 copies the weights.
        warm_up: False for d = decay from the first update on.

    Raises:
        ConfigError: the decay is out of range.

    Source: Polyak and Juditsky 1992; the decay's warmup is that of tf.train.ExponentialMovingAverage(num_updates).
    """

    def __init__(self, model: nn.Module, decay: float, *, warm_up: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError([f"ema_decay: expected at least 0 and less than 1, found {decay:g}"])
        self.model = model
        self.decay = decay
        self.warm_up = warm_up
        self._is_swapped = False
        self._averages = {name: _shadow(value) for name, value in _live(model).items()}

    def decay_at(self, step: int) -> float:
        """Return the decay of the 0-based update `step`.

        >>> ema = EMA(nn.Linear(1, 1), 0.9)
        >>> [ema.decay_at(step) for step in (0, 10, 1000)]
        [0.1, 0.55, 0.9]
        """
        return min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights after the 0-based update `step`."""
        assert not self._is_swapped, "the model holds the averages now"
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        for name, value in _live(self.model).items():
            average = self._averages[name]
            if average.device != value.device:
                average = self._averages[name] = average.to(value.device)
            if average.is_floating_point():
                averages.append(average)
                weights.append(value.to(average.dtype))
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, weights, 1 - self.decay_at(step))  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped_in(self) -> Iterator[nn.Module]:
        """Let the model hold the averages inside the `with`, and after it the very bits that it held before."""
        live = _live(self.model)
        before = {name: value.detach().clone() for name, value in live.items()}
        self._is_swapped = True
        try:
            _assign(live, self._averages)
            yield self.model
        finally:
            _assign(live, before)
            self._is_swapped = False

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by the names of the model's state dict; no copies, and no two share memory."""
        return dict(self._averages)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned.

        Raises:
            RunError: names or shapes are not those of the model; the first that differ are named.
        """
        missing, unexpected = self._averages.keys() - state.keys(), state.keys() - self._averages.keys()
        if missing or unexpected:
            raise RunError(
                f"the averaged weights are those of another model: {len(missing)} missing {sorted(missing)[:3]}, "
                f"{len(unexpected)} unexpected {sorted(unexpected)[:3]}."
            )
        for name, average in self._averages.items():
            if state[name].shape != average.shape:
                raise RunError(
                    f"the averaged weight '{name}' has shape {tuple(state[name].shape)} in the checkpoint, expected "
                    f"{tuple(average.shape)}."
                )
        _assign(self._averages, state)


def _live(model: nn.Module) -> dict[str, Tensor]:
    # Asked anew each time: moving a model to a device or a memory format replaces its buffers.
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def _shadow(value: Tensor) -> Tensor:
    is_low_precision = value.is_floating_point() and value.element_size() < 4
    return value.detach().to(torch.float32 if is_low_precision else value.dtype, copy=True)


@torch.no_grad()
def _assign(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        target.copy_(values[name])

"""A table of a model's layers: what each puts out, how many parameters it holds, how much it computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from tellapart.errors import ConfigError

_LINE_WIDTH = 80
_TYPE_WIDTH = 20
_SHAPE_WIDTH = 18


@dataclass(frozen=True)
class LayerRow:
    """One call of one layer, or a layer that holds parameters and was never called."""

    name: str
    """Dotted name inside the model; empty for the model itself."""
    type: str
    """Name of the layer's class."""
    output_shape: tuple[int, ...] | None
    """Shape put out for one image, without the batch dimension; None if the layer was not called or puts out no tensor.

    A layer that folds other dimensions into the batch (windows of a Swin transformer) shows its whole shape.
    """
    num_params: int
    """Parameters that the layer itself holds and that no row above holds."""
    multiply_adds: int
    """Multiply-adds for one image if the layer is a convolution or linear, otherwise 0."""
    is_reused: bool
    """Whether a row above shows an earlier call of the same layer."""


@dataclass(frozen=True)
class ModelSummary:
    """What `summary` found out. Its text is a table of at most 80 columns."""

    rows: tuple[LayerRow, ...]
    """In the order of the calls, then the layers that were not called. Their parameters sum up to `total_params`."""
    total_params: int
    """Number of parameters, each counted once, however many layers share it."""
    trainable_params: int
    """Number of parameters that require a gradient."""
    multiply_adds: int
    """Multiply-adds of convolutions and linear layers for one image; attention's products are not among them."""
    input_shape: tuple[int, ...]
    """Shape of the input without the batch dimension."""

    def __str__(self) -> str:
        """Return the table."""
        return "\n".join([*_table(self.rows), *self._totals()])

    def _totals(self) -> list[str]:
        totals = {
            "Parameters": self.total_params,
            "  trainable": self.trainable_params,
            "  frozen": self.total_params - self.trainable_params,
            "Multiply-adds": self.multiply_adds,
        }
        width = max(len(f"{value:,}") for value in totals.values())
        shape = " x ".join(map(str, self.input_shape))
        lines = [f"{name:<15}{value:>{width},}" for name, value in totals.items()]
        return [*lines, f"For one {shape} input; multiply-adds of convolutions and linear layers."]


def summary(model: nn.Module, input_shape: Sequence[int]) -> ModelSummary:
    """Run the model once on zeros, without gradients, and return what its layers are and put out.

    The model is left as it was: modes, buffers, gradients, hooks and the state of the random generators. It runs in
    eval mode on the device of its parameters.

    Args:
        model: any module that takes one tensor.
        input_shape: shape of one input, such as `(3, 32, 32)` or `(10,)`; four numbers are `(B, C, H, W)`.

    Raises:
        ConfigError: the model cannot take such an input.

    >>> from tellapart.models import MLP
    >>> found = summary(MLP(64, 32, 10), (1, 8, 8))
    >>> found.total_params, found.rows[0].output_shape
    (2778, (32,))
    """
    shape = tuple(input_shape)
    batch_shape = shape if len(shape) == 4 else (1, *shape)
    reference = next((p for p in model.parameters() if p.is_floating_point()), None)
    device = reference.device if reference is not None else torch.device("cpu")
    dtype = reference.dtype if reference is not None else torch.float32
    with left_untouched(model), torch.no_grad():
        calls = _record_calls(model, torch.zeros(batch_shape, device=device, dtype=dtype))
    rows = _make_rows(model, calls, batch_size=batch_shape[0])
    parameters = list(model.parameters())
    return ModelSummary(
        rows=rows,
        total_params=sum(p.numel() for p in parameters),
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=sum(row.multiply_adds for row in rows),
        input_shape=batch_shape[1:],
    )


@contextmanager
def left_untouched(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode; afterwards restore its modes, buffers and the states of the random generators."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with ExitStack() as stack:
        stack.enter_context(_fork_rng(model))
        # Not model.eval(): a module may override train() and change more than the flag.
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for buffer, before in buffers:
                    # Writing marks a tensor as changed, which would break a backward pass that still needs it.
                    if buffer.device.type != "meta" and not torch.equal(buffer, before):
                        buffer.copy_(before)


@contextmanager
def _fork_rng(model: nn.Module) -> Iterator[None]:
    devices = {tensor.device for tensor in [*model.parameters(), *model.buffers()]}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device in devices:
            if device.type == "mps":  # its functions take no device, which fork_rng does not know
                stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
            elif device.type not in ("cpu", "meta"):
                stack.enter_context(torch.random.fork_rng(devices=[device], device_type=device.type))
        yield


def _record_calls(model: nn.Module, x: torch.Tensor) -> list[tuple[nn.Module, tuple[int, ...] | None, int]]:
    """Return (layer, output shape with batch dimension, multiply-adds of the whole batch) for every call of a layer."""
    calls: list[tuple[nn.Module, tuple[int, ...] | None, int]] = []

    def record(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
        calls.append((module, shape, _multiply_adds(module, inputs, output)))

    handles = [module.register_forward_hook(record) for module in model.modules() if _is_layer(module)]
    try:
        model(x)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise ConfigError(
            [f"{type(model).__name__} cannot take an input of shape {tuple(x.shape)} (batch first): {error}"]
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _is_layer(module: nn.Module) -> bool:
    return not any(True for _ in module.children()) or any(True for _ in module.parameters(recurse=False))


def _multiply_adds(module: nn.Module, inputs: tuple[object, ...], output: object) -> int:
    if not isinstance(output, torch.Tensor) or not inputs or not isinstance(inputs[0], torch.Tensor):
        return 0
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return output.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return inputs[0].numel() * module.out_channels // module.groups * math.prod(module.kernel_size)
    return 0


def _make_rows(
    model: nn.Module, calls: list[tuple[nn.Module, tuple[int, ...] | None, int]], *, batch_size: int
) -> tuple[LayerRow, ...]:
    names = {module: name for name, module in model.named_modules()}
    seen_modules: set[nn.Module] = set()
    seen_parameters: set[nn.Parameter] = set()
    rows: list[LayerRow] = []

    def add(module: nn.Module, shape: tuple[int, ...] | None, multiply_adds: int) -> None:
        own = set(module.parameters(recurse=False)) - seen_parameters
        if shape is not None and shape[:1] == (batch_size,):
            shape = shape[1:]
        rows.append(
            LayerRow(
                name=names[module],
                type=type(module).__name__,
                output_shape=shape,
                num_params=sum(p.numel() for p in own),
                multiply_adds=multiply_adds // batch_size,
                is_reused=module in seen_modules,
            )
        )
        seen_modules.add(module)
        seen_parameters.update(own)

    for module, shape, multiply_adds in calls:
        add(module, shape, multiply_adds)
    for module in model.modules():
        if module not in seen_modules and set(module.parameters(recurse=False)) - seen_parameters:
            add(module, None, 0)
    return tuple(rows)


def _table(rows: Sequence[LayerRow]) -> list[str]:
    header = ("Layer", "Type", "Output shape", "Parameters")
    cells = [
        (
            row.name or "(model)",
            _shorten_end(row.type, _TYPE_WIDTH),
            "-" if row.output_shape is None else _shorten_end(str(row.output_shape), _SHAPE_WIDTH),
            "reused" if row.is_reused else f"{row.num_params:,}",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(4)]
    gaps = 2 * 3
    widths[0] = min(widths[0], _LINE_WIDTH - gaps - sum(widths[1:]))
    rule = "-" * (sum(widths) + gaps)
    lines = [_line(header, widths), rule]
    lines += [_line((_shorten_start(name, widths[0]), *rest), widths) for name, *rest in cells]
    return [*lines, rule]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = [f"{cell:<{width}}" for cell, width in zip(cells[:3], widths[:3], strict=True)]
    return "  ".join([*left, f"{cells[3]:>{widths[3]}}"])


def _shorten_end(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _shorten_start(text: str, width: int) -> str:
    """Cut the start, as the end of a dotted name is what tells layers apart."""
    return text if len(text) <= width else "..." + text[len(text) - width + 3 :]

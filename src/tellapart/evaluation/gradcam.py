"""Where in a picture a class's score comes from: Grad-CAM at the last layer that still has a map of the picture."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tellapart.errors import MissingError, RunError, nearest
from tellapart.models.summary import left_untouched
from tellapart.seeding import generator

# What these put out alone is no map to look at: a mixture of tokens, or what the module before them made already.
_PASSED_OVER = (nn.Linear, nn.Identity, nn.Softmax, nn.modules.dropout._DropoutNd)
_NAMES_SHOWN = 12
# How much of the heat a part of the picture has to hold to be where the network looks.
_HELD_SHARE = 0.8
_NINTHS = ("upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom", "lower right")


@dataclass(frozen=True)
class SpatialLayer:
    """A layer whose output is a map of the picture, and how that output is laid out.

    Attributes:
        name: dotted, inside the network.
        grid: height and width of the map.
        layout: "channels-first" `(B, C, h, w)`, "channels-last" `(B, h, w, C)` or "tokens" `(B, prefix + h w, C)`.
        num_prefix: tokens before those of the picture, such as a class token.
        call: which call of the layer, from 0, where the network calls it several times.
    """

    name: str
    grid: tuple[int, int]
    layout: str = "channels-first"
    num_prefix: int = 0
    call: int = 0

    def to_maps(self, output: torch.Tensor) -> torch.Tensor:
        """Return the layer's output as maps `(B, C, h, w)`."""
        if self.layout == "channels-first":
            return output
        if self.layout == "tokens":
            output = output[:, self.num_prefix :].unflatten(1, self.grid)
        return output.permute(0, 3, 1, 2)

    def from_maps(self, maps: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return `output` with these maps in the place of its own."""
        if self.layout == "channels-first":
            return maps
        rows = maps.permute(0, 2, 3, 1)
        return (
            rows if self.layout == "channels-last" else torch.cat([output[:, : self.num_prefix], rows.flatten(1, 2)], 1)
        )


@dataclass(frozen=True)
class Place:
    """Where a heat map's weight lies: the ninth of the picture with most of it, and how small a part holds 80%."""

    name: str
    area_share: float

    def __str__(self) -> str:
        return f"{self.name}, {self.area_share:.0%} of the picture holds {_HELD_SHARE:.0%} of the heat"


def choose_layer(network: nn.Module, in_channels: int, size_px: int, name: str | None = None) -> SpatialLayer:
    """Return the layer to look at: the named one, or the last with a map of the picture that the answer depends on.

    Maps behind the last convolution that a pool made coarser are passed over. Of a vision transformer that answers
    from its class token, the layers behind the last attention are passed over too: no patch reaches the answer there.

    Args:
        network: images `(B, in_channels, size_px, size_px)` to logits `(B, K)`; it is left as it was.
        in_channels: channels of the images.
        size_px: their side.
        name: dotted name of a layer.

    Raises:
        RunError: no layer has a spatial map, or the named one is not there, has none, or has no say in the answer; or
            the answer does not depend on the picture.
    """
    called = _trace(network, in_channels, size_px)
    usable = [layer for layer, is_shown in called if is_shown]
    if name is None:
        if not usable:
            raise RunError(
                f"{type(network).__name__} has no spatial map: no layer of it keeps track of where in the picture its "
                "numbers come from, so there is no heat map to draw."
            )
        return usable[-1]
    named = [layer for layer, _ in called if layer.name == name]
    if named:
        return named[-1]
    raise RunError(_no_layer(network, name, [layer.name for layer, _ in called], [layer.name for layer in usable]))


def _no_layer(network: nn.Module, name: str, known: Sequence[str], usable: Sequence[str]) -> str:
    shown = list(dict.fromkeys(reversed(usable)))
    listed = ", ".join(shown[:_NAMES_SHOWN]) + (f" and {len(shown) - _NAMES_SHOWN} more" * (len(shown) > _NAMES_SHOWN))
    choice = f"Those that do, the last first: {listed}." if shown else "None of this network does."
    if name in dict(network.named_modules()):
        return f"--layer: '{name}' has no spatial map that the answer depends on. {choice}"
    guess = nearest(name, known)
    hint = f" Did you mean '{guess}'?" if guess else ""
    return f"--layer: there is no layer '{name}' with a spatial map.{hint} {choice}"


def _trace(network: nn.Module, in_channels: int, size_px: int) -> list[tuple[SpatialLayer, bool]]:
    """Return the layers with a map that the answer depends on, in the order of the calls, and which to choose from."""
    with _differentiable(network) as twin, left_untouched(twin), _recorded(twin) as calls:
        reference = next(twin.parameters())
        image = torch.randn(1, in_channels, size_px, size_px, generator=generator(0, "gradcam-probe"))
        image = image.to(reference.device, reference.dtype).requires_grad_()
        logits = twin(image)
        # Different weights, as the logits of some networks always sum to the same.
        weights = torch.linspace(1.0, 2.0, logits.numel(), device=logits.device, dtype=logits.dtype)
        score, outputs = (logits.flatten() * weights).sum(), [output for *_, output, _ in calls]
        of_image, *gradients = torch.autograd.grad(score, [image, *outputs], allow_unused=True)
        if of_image is None or not bool(of_image.any()):
            raise RunError(
                f"{type(network).__name__} answers the same whatever the picture, so no part of it counts for more: "
                "there is no heat map to draw."
            )
        return _spatial(network, calls, gradients)


@contextmanager
def _recorded(network: nn.Module) -> Iterator[list[tuple[str, nn.Module, torch.Tensor, int]]]:
    """Collect (name, module, output, which call of the module) of each call that has one tensor as its output."""
    calls: list[tuple[str, nn.Module, torch.Tensor, int]] = []
    handles = [module.register_forward_hook(_recorder(name, calls)) for name, module in network.named_modules() if name]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _recorder(name: str, calls: list[tuple[str, nn.Module, torch.Tensor, int]]) -> Any:
    numbers = count()

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        number = next(numbers)
        if isinstance(output, torch.Tensor) and output.requires_grad:
            calls.append((name, module, output, number))

    return record


def _spatial(
    network: nn.Module,
    calls: Sequence[tuple[str, nn.Module, torch.Tensor, int]],
    gradients: Sequence[torch.Tensor | None],
) -> list[tuple[SpatialLayer, bool]]:
    prefix = getattr(network, "num_prefix_tokens", None)
    prefixes = (prefix,) if isinstance(prefix, int) else (0, 1, 2)
    makers: dict[tuple[Any, ...], nn.Module] = {}
    best: dict[tuple[Any, ...], int] = {}
    layers: list[SpatialLayer] = []
    for (name, module, output, number), gradient in zip(calls, gradients, strict=True):
        # A block and its last layer put out the same memory, and an in-place function changes what the one before made.
        memory = (output.data_ptr(), *output.shape)
        maker = makers.setdefault(memory, module)
        layer = _layout(output.shape, prefixes)
        if layer is None or gradient is None or not bool(layer.to_maps(gradient).any()):
            continue
        layers.append(replace(layer, name=name, call=number))
        is_pooled = "pool" in type(maker).__name__.lower()
        # The outermost module that is one thing: a block says more than its last activation, a stage says less.
        if not is_pooled and not isinstance(module, _PASSED_OVER) and type(module) is not nn.Sequential:
            best[memory] = len(layers) - 1
    chosen = set(best.values())
    return [(layer, place in chosen) for place, layer in enumerate(layers)]


def _layout(shape: torch.Size, prefixes: Sequence[int]) -> SpatialLayer | None:
    """Return how a map lies in an output of this shape, for one square picture; None where there is none."""
    if len(shape) == 4 and shape[0] == 1:
        if shape[2] == shape[3] > 1:
            return SpatialLayer("", (shape[2], shape[3]))
        if shape[1] == shape[2] > 1:
            return SpatialLayer("", (shape[1], shape[2]), "channels-last")
    if len(shape) == 3 and shape[0] == 1:
        for prefix in prefixes:
            side = round(max(0, shape[1] - prefix) ** 0.5)
            if side > 1 and side * side == shape[1] - prefix:
                return SpatialLayer("", (side, side), "tokens", prefix)
    return None


@contextmanager
def _differentiable(network: nn.Module) -> Iterator[nn.Module]:
    """Switch gradients on, whatever the caller switched off; of weights that can have none, give a copy that can."""
    with torch.inference_mode(False), torch.enable_grad():
        tensors = (*network.parameters(), *network.buffers())
        yield copy.deepcopy(network) if any(tensor.is_inference() for tensor in tensors) else network


def grad_cam(network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, layer: SpatialLayer) -> torch.Tensor:
    """Return the Grad-CAM maps of `inputs`, each for one output: float32 `(B, h, w)` of at least 0, on the CPU.

    The network runs in eval mode and is left as it was: parameters, buffers, modes, gradients, hooks.

    Args:
        network: inputs to logits `(B, K)`.
        inputs: normalised images, float `(B, C, S, S)`.
        targets: which output of each image, int64 `(B,)`.
        layer: as `choose_layer` gives it.

    Raises:
        MissingError: captum is not installed.

    Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    equations 1 and 2: ReLU of the sum of the layer's maps, each weighted by the mean of the output's gradient over it.
    """
    gradcam = require_captum()
    with _differentiable(network) as twin, left_untouched(twin), _probed(twin, layer) as probe:
        # A copy that autograd may use: what inference mode made cannot be part of a graph.
        images = inputs.detach().clone()
        found = gradcam(twin, probe).attribute(images, targets.to(images.device), relu_attributions=True)
    return found.detach()[:, 0].float().cpu()


@contextmanager
def _probed(network: nn.Module, layer: SpatialLayer) -> Iterator[nn.Module]:
    """Pass the maps of one call of the layer through a module of their own, which captum can be pointed at."""
    probe, numbers = nn.Identity(), count()

    def divert(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        if next(numbers) != layer.call:
            return None
        return layer.from_maps(probe(layer.to_maps(output)), output)

    handle = network.get_submodule(layer.name).register_forward_hook(divert)
    try:
        yield probe
    finally:
        handle.remove()


def require_captum() -> Any:
    """Return captum's Grad-CAM; importing it takes some seconds.

    Raises:
        MissingError: captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise MissingError(
            f"explain: drawing where the network looks needs captum, which cannot be imported ({error}). "
            "Install it: pip install 'tellapart[explain]'"
        ) from error
    return LayerGradCam


def heat(maps: torch.Tensor, size_px: int) -> torch.Tensor:
    """Return maps `(B, h, w)` of at least 0 as heat in [0, 1], float32 `(B, size_px, size_px)`.

    Each is enlarged bilinearly and divided by its own largest value; one that is 0 everywhere, or not finite, stays 0
    everywhere.

    >>> heat(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]), 2).tolist()
    [[[0.0, 1.0], [0.0, 0.0]]]
    """
    # Doubles, in which the smallest float32 can be a divisor.
    large = F.interpolate(maps[:, None].double(), (size_px, size_px), mode="bilinear", align_corners=False)[:, 0]
    is_sound = large.isfinite().all(dim=(1, 2)) if len(large) else large.new_zeros(0, dtype=torch.bool)
    large = torch.where(is_sound[:, None, None], large.clamp(min=0.0), 0.0)
    peaks = large.amax(dim=(1, 2), keepdim=True)
    return (large / torch.where(peaks > 0, peaks, 1.0)).float()


def place_of(heat_map: np.ndarray) -> Place | None:
    """Return where the heat `(S, S)` lies, or None where there is none.

    >>> print(place_of(np.pad(np.ones((2, 2)), ((0, 4), (0, 4)))))
    upper left, 11% of the picture holds 80% of the heat
    """
    weights = np.asarray(heat_map, dtype=np.float64)
    total = weights.sum()
    if total <= 0:
        return None
    ranked = np.cumsum(np.sort(weights, axis=None)[::-1])
    num_held = int(np.searchsorted(ranked, _HELD_SHARE * total * (1 - 1e-9))) + 1
    rows = (3 * np.arange(weights.shape[0]) // weights.shape[0]) * 3
    columns = 3 * np.arange(weights.shape[1]) // weights.shape[1]
    places = (rows[:, None] + columns[None, :]).ravel()
    # A mean, because pixels do not divide by three; a picture of fewer pixels lacks some of the ninths.
    ninths = np.bincount(places, weights.ravel(), 9) / np.maximum(np.bincount(places, minlength=9), 1)
    # Where several ninths hold as much, the middle one is the fairest word for them.
    best = 4 if ninths[4] >= ninths.max() * (1 - 1e-6) else int(ninths.argmax())
    return Place(_NINTHS[best], num_held / weights.size)

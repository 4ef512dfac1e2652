"""Classification models of torchvision: names, construction, and facts about their pretrained weights."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tellapart.models.external_errors import (
    cannot_build,
    import_package,
    no_weights,
    unknown_model,
    weights_missing,
)

_INSTALL = "pip install torchvision"
_AUXILIARY_PREFIXES = ("AuxLogits.", "aux1.", "aux2.")
# densenet's weights were stored when module names could hold dots. Source: torchvision/models/densenet.py.
_DENSENET_OLD_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")
# These two turn ImageNet's normalization into 2 x - 1 themselves, for three channels only. We leave that out and
# normalize by 0.5 instead, which is the same function. Source: torchvision/models/inception.py, _transform_input.
_HALF_NORMALIZED = ("googlenet", "inception_v3")


def create(name: str, *, num_classes: int, in_channels: int, size_px: int, pretrained: bool) -> nn.Module:
    """Return torchvision's model `name` with a head of `num_classes`, for `(B, in_channels, size_px, size_px)`.

    Auxiliary heads are left out, so that the model puts out plain logits. With `pretrained`, the head is new unless
    the weights have exactly `num_classes` outputs, and the first convolution is adapted as in `adapt_filters`.

    Raises:
        ConfigError: torchvision has no such model, no weights for it, or cannot build it for such images.
        MissingError: torchvision is not installed, or the weights cannot be had.
    """
    models = _models(name)
    weights = _default_weights(name)
    if pretrained and weights is None:
        raise no_weights(f"torchvision:{name}", [])
    state = _load_state(name, weights) if pretrained else None
    num_outputs = len(weights.meta["categories"]) if pretrained else num_classes
    try:
        model = models.get_model(
            name, weights=None, num_classes=num_outputs, **_special_arguments(name, size_px, pretrained)
        )
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise cannot_build(f"torchvision:{name}", num_classes, in_channels, size_px, error) from error
    if state is not None:
        _load_into(model, name, state, size_px)
    if num_outputs != num_classes:
        _replace_last(model, num_outputs, num_classes)
    if in_channels != 3:
        _replace_first_conv(model, in_channels, pretrained)
    return model


def normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return (mean, std) per channel that torchvision's default weights of `name` expect, or None without weights."""
    weights = _default_weights(name)
    if weights is None:
        return None
    if name in _HALF_NORMALIZED:
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    preset = weights.transforms()
    return tuple(preset.mean), tuple(preset.std)


def weights_license(name: str) -> str | None:
    """Return the licence that torchvision states for its weights of `name`, or None, as for most of them."""
    weights = _default_weights(name)
    return None if weights is None else weights.meta.get("license")


def made_for_px(name: str) -> int | None:
    """Return the size of the images that the default weights were evaluated with, or None without weights."""
    weights = _default_weights(name)
    if weights is None:
        return None
    crop_size = weights.transforms().crop_size
    return crop_size[0] if isinstance(crop_size, list | tuple) else int(crop_size)


def adapt_filters(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """Return pretrained filters `(O, 3, kH, kW)` made fit for `in_channels`, float `(O, in_channels, kH, kW)`.

    For one channel the three are summed, so that a grey image gives what its colour copy gave. For more they are
    repeated, R G B R ..., and scaled by 3 / in_channels, which keeps the size of the output.

    Source: the rule of timm's `adapt_input_conv`.
    """
    num_old = weight.shape[1]
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_channels // num_old)
    return weight.repeat(1, repeats, 1, 1)[:, :in_channels] * (num_old / in_channels)


def _models(name: str) -> Any:
    import_package("torchvision", _INSTALL)
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_model("torchvision", name, known, "torchvision.models.list_models(torchvision.models)")
    return models


def _default_weights(name: str) -> Any:
    """Return torchvision's entry for the best weights of the model, or None."""
    return getattr(_models(name).get_model_weights(name), "DEFAULT", None)


def _special_arguments(name: str, size_px: int, pretrained: bool) -> dict[str, Any]:
    """Return what single architectures need to fit the image size and to put out plain logits."""
    if name in _HALF_NORMALIZED:
        return {"aux_logits": False, "transform_input": False, "init_weights": not pretrained}
    if name.startswith("vit_"):
        return {"image_size": size_px}
    if name == "maxvit_t":
        return {"input_size": (size_px, size_px)}
    return {}


def _load_state(name: str, weights: Any) -> dict[str, torch.Tensor]:
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        # torch.hub announces a download on stdout, which belongs to the command's own output.
        with contextlib.redirect_stdout(sys.stderr):
            return weights.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True, map_location="cpu", weights_only=True
            )
    except Exception as error:  # a damaged or foreign file can raise nearly anything
        how_to_cache = f"put the file from {weights.url} at {cached} (delete a damaged one first)."
        raise weights_missing(f"torchvision:{name}", weights.url, how_to_cache, error) from error


def _load_into(model: nn.Module, name: str, state: dict[str, torch.Tensor], size_px: int) -> None:
    # In place: the mapping carries the version of its modules, which some of them ask for.
    for key in list(state):
        if key.startswith(_AUXILIARY_PREFIXES):
            del state[key]
        elif old := _DENSENET_OLD_KEY.match(key):
            state[old.group(1) + old.group(2)] = state.pop(key)
    if name.startswith("vit_"):
        from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

        assert isinstance(model, VisionTransformer)
        interpolate_embeddings(size_px, model.patch_size, state)  # type: ignore[arg-type]
    model.load_state_dict(state)


def _replace_last(model: nn.Module, num_outputs: int, num_classes: int) -> None:
    """Put a new layer of `num_classes` outputs, with PyTorch's initial weights, in the place of the last one."""
    name, old = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    has_bias = old.bias is not None
    if isinstance(old, nn.Linear):
        assert old.out_features == num_outputs, f"{name} is not the head: {old}"
        new: nn.Module = nn.Linear(old.in_features, num_classes, bias=has_bias)
    else:
        assert old.out_channels == num_outputs, f"{name} is not the head: {old}"
        new = nn.Conv2d(old.in_channels, num_classes, _pair(old.kernel_size), bias=has_bias)
    _set_module(model, name, new)


def _replace_first_conv(model: nn.Module, in_channels: int, pretrained: bool) -> None:
    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        _pair(old.kernel_size),
        _pair(old.stride),
        old.padding if isinstance(old.padding, str) else _pair(old.padding),
        _pair(old.dilation),
        old.groups,
        old.bias is not None,
    )
    with torch.no_grad():
        if pretrained:
            new.weight.copy_(adapt_filters(old.weight, in_channels))
        else:
            # The architecture's own initial scale, corrected so that the output keeps its variance.
            new.weight.normal_().mul_(old.weight.std() * (old.in_channels / in_channels) ** 0.5)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    _set_module(model, name, new)


def _set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]

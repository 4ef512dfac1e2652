"""Models of timm (PyTorch Image Models): names, construction, and facts about their pretrained weights."""

from __future__ import annotations

from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import nn

from tellapart.models.external_errors import (
    cannot_build,
    import_package,
    no_weights,
    unknown_model,
    weights_missing,
)

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_INSTALL = "pip install 'tellapart[timm]'"
_HUB_TIMEOUT_S = 10.0
# The names under which timm looks for weights in a repository of the Hugging Face Hub.
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def create(name: str, *, num_classes: int, in_channels: int, size_px: int, pretrained: bool) -> nn.Module:
    """Return timm's model `name` with a head of `num_classes`, for `(B, in_channels, size_px, size_px)`.

    timm itself adapts the pretrained filters to `in_channels` and resamples position embeddings to `size_px`.

    Raises:
        ConfigError: timm has no such model, no weights for it, or cannot build it for such images.
        MissingError: timm is not installed, or the weights cannot be had.
    """
    timm = import_package("timm", _INSTALL)
    config = _pretrained_config(name)
    if pretrained:
        if not config.has_weights:
            raise no_weights(f"timm:{name}", timm.list_pretrained(f"{name.partition('.')[0]}*")[:5])
        _require_hub(name, config)
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels}
    if config.fixed_input_size:
        arguments["img_size"] = size_px
    try:
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except (OSError, HTTPException, EOFError, SafetensorError) as error:
        raise weights_missing(f"timm:{name}", *_where_weights_are(config), error) from error
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise cannot_build(f"timm:{name}", num_classes, in_channels, size_px, error) from error


def normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return (mean, std) per channel that timm's default weights of `name` expect, or None if it has no weights."""
    config = _pretrained_config(name)
    return (tuple(config.mean), tuple(config.std)) if config.has_weights else None


def weights_license(name: str) -> str | None:
    """Return the licence that timm states for its weights of `name`, or None."""
    return _pretrained_config(name).license


def made_for_px(name: str) -> int | None:
    """Return the size of the images that timm made the model for."""
    return _pretrained_config(name).input_size[-1]


def _pretrained_config(name: str) -> PretrainedCfg:
    timm = import_package("timm", _INSTALL)
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_model("timm", name, timm.list_models(), "timm.list_models()")
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = timm.list_pretrained(f"{architecture}.*")
        raise unknown_model("timm", name, tagged, f"timm.list_pretrained('{architecture}.*')") from error
    if config is None and tag:
        raise unknown_model("timm", name, timm.list_models(), "timm.list_models()")
    return config if config is not None else timm.models.PretrainedCfg()


def _require_hub(name: str, config: PretrainedCfg) -> None:
    """Raise MissingError at once if the weights are not in the cache and the Hub cannot be reached.

    Without this, timm and huggingface_hub try again and again for one to two minutes before they give up.
    """
    if not config.hf_hub_id:
        return
    import huggingface_hub

    repository = config.hf_hub_id.partition("@")[0]
    files = (config.hf_hub_filename,) if config.hf_hub_filename else _WEIGHT_FILES
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in files):
        return
    try:
        huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(repository, "README.md"), timeout=_HUB_TIMEOUT_S
        )
    except huggingface_hub.errors.EntryNotFoundError:
        return
    except Exception as error:  # what a failed connection raises depends on the hub's HTTP library
        raise weights_missing(f"timm:{name}", *_where_weights_are(config), error) from error


def _where_weights_are(config: PretrainedCfg) -> tuple[str, str]:
    """Return the address of the weights, and how to put them into the cache."""
    if config.hf_hub_id:
        from huggingface_hub import constants

        folder = "models--" + config.hf_hub_id.partition("@")[0].replace("/", "--")
        return (
            f"{constants.ENDPOINT}/{config.hf_hub_id}",
            f"on a machine with network run 'hf download {config.hf_hub_id}' and copy the folder '{folder}' from its "
            f"cache into {constants.HF_HUB_CACHE}.",
        )
    import torch.hub

    return str(config.url), f"put the file from {config.url} into {torch.hub.get_dir()}/checkpoints."

"""`ls`: the tables, with the first line of what each entry says of itself."""

from __future__ import annotations

from tellapart.data.augment import AUGMENTATIONS
from tellapart.data.sources import DATASETS
from tellapart.errors import ConfigError, unknown_name
from tellapart.models import MODELS, model_description
from tellapart.optim import LOSSES, OPTIMIZERS, SCHEDULES
from tellapart.recipes import RECIPES

_MIXES = {
    "mixup": "Blend each image and target with another of the batch.",
    "cutmix": "Paste a rectangle of another image of the batch, and blend the targets by area.",
}
_SCHEDULES = {
    "constant": "The same learning rate throughout.",
    "step": "Times gamma every step-epochs epochs.",
    "exponential": "Times gamma every epoch.",
    "cosine": "Half a cosine from the learning rate to min-factor of it.",
    "one-cycle": "Up to the learning rate and down to nearly nothing, the momentum against it.",
    "linear": "A straight line from the learning rate to min-factor of it.",
    "reduce-on-plateau": "Times gamma when the loss on val has not fallen for patience epochs.",
}
_EXTERNAL = {
    "timm:NAME": "Any model of timm, such as timm:convnext_tiny; needs the extra [timm].",
    "torchvision:NAME": "Any classification model of torchvision, such as torchvision:resnet50.",
}


def listing(kind: str) -> dict[str, str]:
    """Return name and one line for every entry of a table.

    Raises:
        ConfigError: there is no table of that kind.

    >>> "cross-entropy" in listing("losses")
    True
    """
    tables = {
        "models": {**{name: model_description(name) for name in MODELS}, **_EXTERNAL},
        "datasets": dict(DATASETS),
        "recipes": _first_lines(RECIPES),
        "optimizers": _first_lines(OPTIMIZERS),
        "schedules": {name: _SCHEDULES[name] for name in SCHEDULES},
        "losses": _first_lines(LOSSES),
        "augmentations": {**_first_lines(AUGMENTATIONS), **_MIXES},
    }
    if kind not in tables:
        raise ConfigError([unknown_name("table", kind, tables)])
    return tables[kind]


def _first_lines(table: object) -> dict[str, str]:
    assert isinstance(table, dict)
    return {name: (entry.__doc__ or "").strip().splitlines()[0] for name, entry in table.items()}

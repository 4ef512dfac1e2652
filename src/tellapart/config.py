"""RunConfig: every choice of a run, typed, documented, checked all at once, stored as JSON that loads back."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from typing import Any, Literal

from tellapart.errors import ConfigError, nearest, unknown_name

CONFIG_VERSION = 1


def option(default: Any, doc: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Declare a field of a config section: its default, its one-line meaning and its inclusive range."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from, and how it is divided."""

    source: str = option("digits", "a data set's name, a folder, a Parquet or npz file")
    data_dir: str = option("", "where downloaded data sets lie or go (default: the user's cache)")
    task: Literal["auto", "multiclass", "multilabel", "regression"] = option("auto", "what the targets mean")
    val_fraction: float = option(0.1, "share of the training images held out to choose by", low=0.001, high=0.9)
    test_fraction: float = option(0.1, "share held out for the final number; 0 holds out none", low=0.0, high=0.9)
    bad_images: Literal["fail", "skip"] = option("fail", "stop before training, or leave out what cannot be read")
    in_memory: Literal["auto", "yes", "no"] = option("auto", "keep all images on the device as uint8")
    num_workers: int = option(-1, "processes that read images when they are not in memory; -1: one a core", low=-1)
    worker_timeout_s: float = option(300.0, "seconds after which a silent worker ends the run; 0: never", low=0.0)


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What turns a decoded image into the network's input, in training and ever after."""

    size_px: int = option(0, "side of the square the network sees; 0: from the data", low=0, high=4096)
    resize_px: int = option(0, "side of the square kept before the crop to size-px; 0: from size-px", low=0, high=4096)
    fit: Literal["crop", "squash"] = option("crop", "make an image square by cropping its middle or by squashing it")
    normalize: Literal["train", "half", "imagenet", "pretrained"] = option(
        "train", "mean and std: of the training images, 0.5 and 0.5, ImageNet's, or those of the pretrained weights"
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What varies the training images, each draw a function of seed, epoch and image."""

    transforms: tuple[str, ...] = option(("none",), "names from `tellapart ls augmentations`, applied in this order")
    pad_px: int = option(4, "flip-crop: largest shift in pixels", low=0, high=512)
    rotation_degrees: float = option(15.0, "rotation: largest angle in degrees", low=0.0, high=180.0)
    jitter: float = option(0.4, "color-jitter: largest change of brightness and the like", low=0.0, high=1.0)
    min_scale: float = option(0.35, "random-resized-crop: smallest share of the area kept", low=0.01, high=1.0)
    erasing_prob: float = option(0.25, "random-erasing: how often", low=0.0, high=1.0)
    mixup_alpha: float = option(0.2, "mixup: both parameters of its Beta distribution", low=0.001)
    cutmix_alpha: float = option(1.0, "cutmix: both parameters of its Beta distribution", low=0.001)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: str = option("cifar10-cnn", "a name from `tellapart ls models`, or timm:NAME, torchvision:NAME")
    pretrained: bool = option(False, "start from published weights (timm: and torchvision: only)")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised."""

    name: str = option("auto", "a name from `tellapart ls losses`; auto: what fits the task")
    label_smoothing: float = option(0.0, "share of a target spread over all classes", low=0.0, high=0.999)
    class_weights: Literal["none", "balanced"] = option("none", "weigh classes by the inverse of their frequency")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move."""

    name: str = option("adamw", "a name from `tellapart ls optimizers`")
    lr: float = option(0.001, "learning rate; for one-cycle its peak", low=0.0)
    weight_decay: float = option(0.01, "weight decay, on matrices and filters", low=0.0)
    decay_norm_and_bias: bool = option(False, "apply the weight decay to biases and norms as well")
    momentum: float = option(0.9, "momentum of SGD and Muon", low=0.0, high=0.9999)
    clip_norm: float = option(0.0, "largest norm of all gradients together; 0: no clipping", low=0.0)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves."""

    name: str = option("cosine", "a name from `tellapart ls schedules`")
    warmup_epochs: float = option(0.0, "epochs over which the learning rate rises from near 0", low=0.0)
    min_factor: float = option(0.0, "cosine, linear: the last learning rate as a share of the first", low=0.0, high=1.0)
    step_epochs: int = option(30, "step: epochs between two reductions", low=1)
    gamma: float = option(0.1, "step, exponential, reduce-on-plateau: factor of a reduction", low=0.0, high=1.0)
    patience: int = option(10, "reduce-on-plateau: epochs without progress before a reduction", low=0)
    pct_start: float = option(0.3, "one-cycle: share of the run in which the learning rate rises", low=0.0, high=1.0)
    div_factor: float = option(25.0, "one-cycle: peak over first learning rate", low=1.0)
    final_div_factor: float = option(10000.0, "one-cycle: first over last learning rate", low=1.0)
    cycle_momentum: bool = option(True, "one-cycle: move the momentum against the learning rate")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    epochs: int = option(20, "passes over the training images", low=1)
    batch_size: int = option(128, "images an optimizer update sees", low=1)
    accumulation_steps: int = option(1, "parts a batch is computed in, to save memory; the update is the same", low=1)
    eval_batch_size: int = option(256, "images evaluated at a time", low=1)
    ema_decay: float = option(
        0.0, "decay of the averaged weights that are evaluated and shipped; 0: none", low=0.0, high=0.999999
    )
    early_stopping_epochs: int = option(0, "stop after so many epochs without progress on val; 0: never", low=0)
    select: Literal["best", "last"] = option("best", "weights to ship: of the best epoch on val, or of the last")
    checkpoint_interval_s: float = option(30.0, "seconds between checkpoints; 0: after every step", low=0.0)
    log_interval_steps: int = option(50, "steps between two lines of the history", low=1)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Where and in which precision."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: Literal["auto", "float32", "bf16"] = option("auto", "compute precision over float32 weights")
    channels_last: bool = option(True, "memory format of images and filters")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run, whole. Equal configs on the same data and machine give equal bits."""

    recipe: str = option("auto", "a name from `tellapart ls recipes`; auto: chosen by size and number of images")
    seed: int = option(0, "the one seed; every random draw is a function of it", low=0, high=2**63 - 1)
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)


@dataclass(frozen=True)
class Option:
    """One leaf of RunConfig, as the command line and the docs show it."""

    name: str
    type: Any
    default: Any
    doc: str
    low: float | None
    high: float | None

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values it may take, where they are few; else none."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()


@cache
def options() -> dict[str, Option]:
    """Return every leaf of RunConfig by its dotted name, in order."""
    return {leaf.name: leaf for leaf in _leaves(RunConfig, "")}


def _leaves(section: type, prefix: str) -> Iterator[Option]:
    hints = typing.get_type_hints(section)
    for item in dataclasses.fields(section):
        annotation = hints[item.name]
        if is_dataclass(annotation):
            yield from _leaves(typing.cast(type, annotation), f"{prefix}{item.name}.")
        else:
            meta = item.metadata
            yield Option(prefix + item.name, annotation, item.default, meta["doc"], meta["low"], meta["high"])


def get(config: RunConfig, name: str) -> Any:
    """Return the value at a dotted name.

    >>> get(RunConfig(), "train.epochs")
    20
    """
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def override(
    config: RunConfig, changes: Mapping[str, Any], names: Mapping[str, Collection[str]] | None = None
) -> RunConfig:
    """Return a config with `changes` applied, or report everything that is wrong with them together.

    Args:
        config: what to start from; it is not changed.
        changes: values by dotted name; text (as the command line gives it) is read by the field's type.
        names: for fields that name an entry of a table, the table's names.

    Raises:
        ConfigError: unknown names, values of a wrong type or out of range, and combinations that make no sense.

    >>> override(RunConfig(), {"optim.lr": "0.01"}).optim.lr
    0.01
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, raw in changes.items():
        key = name.replace("-", "_")
        if key not in options():
            problems.append(_unknown_field(name))
            continue
        try:
            values[key] = _coerce(raw, options()[key])
        except ValueError as error:
            problems.append(f"{key}: {error}")
    changed = _replace(config, values)
    problems += _problems(changed, names or {})
    if problems:
        raise ConfigError(problems)
    return changed


def _unknown_field(name: str) -> str:
    # By the last word alone: with its section in front, every wrong name is near to some other of the section.
    fields = {known.rsplit(".", 1)[-1]: known for known in reversed(options())}
    guess = fields.get(nearest(name.replace("-", "_").rsplit(".", 1)[-1], fields) or "")
    return f"unknown field '{name}'." + (
        f" Did you mean '{guess}'?" if guess else " `tellapart train --help` lists all."
    )


def _replace(config: Any, values: Mapping[str, Any]) -> Any:
    direct = {name: value for name, value in values.items() if "." not in name}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if "." in name:
            section, rest = name.split(".", 1)
            sections.setdefault(section, {})[rest] = value
    for section, inner in sections.items():
        direct[section] = _replace(getattr(config, section), inner)
    return dataclasses.replace(config, **direct)


def _coerce(raw: Any, leaf: Option) -> Any:
    """Return `raw` as the field's type; text is read, and nothing is rounded or cut in silence."""
    if leaf.choices:
        if raw not in leaf.choices:
            raise ValueError(unknown_name("value", str(raw), map(str, leaf.choices)))
        return raw
    if leaf.type == tuple[str, ...]:
        items = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise ValueError(f"expected names separated by commas, found {raw!r}")
        return tuple(item.strip() for item in items if item.strip())
    return _coerce_scalar(raw, leaf.type)


_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _coerce_scalar(raw: Any, kind: type) -> Any:
    if kind is bool:
        if isinstance(raw, str) and raw.lower() in _WORDS:
            return _WORDS[raw.lower()]
        if isinstance(raw, bool):
            return raw
        raise ValueError(f"expected true or false, found {raw!r}")
    if kind is str:
        if isinstance(raw, str):
            return raw
        raise ValueError(f"expected text, found {raw!r}")
    number = _number(raw)
    if kind is int and isinstance(number, float) and not number.is_integer():
        raise ValueError(f"expected a whole number, found {raw!r}")
    # Beyond int64 no tensor can hold a whole number, and a little further no float either.
    if abs(number) >= 2**63 and (kind is int or isinstance(number, int)):
        raise ValueError("expected a number of at most 9223372036854775807 either way, found a larger one")
    return int(number) if kind is int else float(number)


def _number(raw: Any) -> int | float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError(f"expected a number, found {raw!r}")
    if not isinstance(raw, str):
        number: int | float = raw
    else:
        try:
            number = int(raw)
        except ValueError:
            try:
                number = float(raw)
            except ValueError:
                raise ValueError(f"expected a number, found {raw!r}") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"expected a finite number, found {raw!r}")
    return number


def _problems(config: RunConfig, names: Mapping[str, Collection[str]]) -> list[str]:
    problems = []
    for name, leaf in options().items():
        value = get(config, name)
        if leaf.low is not None and value < leaf.low:
            problems.append(f"{name}: expected at least {_exact(leaf.low)}, found {_exact(value)}")
        if leaf.high is not None and value > leaf.high:
            problems.append(f"{name}: expected at most {_exact(leaf.high)}, found {_exact(value)}")
    for name, known in names.items():
        chosen = get(config, name)
        for item in chosen if isinstance(chosen, tuple) else (chosen,):
            if item not in known and not (name == "model.name" and ":" in item):
                problems.append(f"{name}: {unknown_name('name', item, known)}")
    return problems + _contradictions(config)


def _exact(number: float) -> str:
    """Return a number short, but never so short that two different ones look alike."""
    short = f"{number:g}"
    return short if float(short) == number and isinstance(number, float) else repr(number)


def _contradictions(config: RunConfig) -> list[str]:
    """Combinations in which one of the user's intentions would have to be dropped."""
    problems = []
    train, preprocess, schedule = config.train, config.preprocess, config.schedule
    if train.accumulation_steps > train.batch_size:
        problems.append(
            f"train.accumulation_steps: expected at most train.batch_size ({train.batch_size}), "
            f"found {train.accumulation_steps}"
        )
    if preprocess.resize_px and preprocess.size_px and preprocess.resize_px < preprocess.size_px:
        problems.append(
            f"preprocess.resize_px: expected at least preprocess.size_px ({preprocess.size_px}), "
            f"found {preprocess.resize_px}"
        )
    if config.data.val_fraction + config.data.test_fraction > 0.9:
        problems.append("data.val_fraction and data.test_fraction: together they leave under a tenth to train on")
    if schedule.name == "one-cycle" and schedule.warmup_epochs:
        problems.append("schedule.warmup_epochs: one-cycle has a warmup of its own (schedule.pct_start); take another schedule.name")
    if schedule.warmup_epochs > train.epochs:
        problems.append(f"schedule.warmup_epochs: expected at most train.epochs ({train.epochs})")
    if config.model.pretrained and ":" not in config.model.name:
        problems.append(
            f"model.pretrained: '{config.model.name}' has no published weights; expected a model.name that starts with "
            "timm: or torchvision:"
        )
    if not config.model.pretrained and preprocess.normalize == "pretrained":
        problems.append("preprocess.normalize: 'pretrained' needs model.pretrained")
    return problems


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the config as nested plain data, with its format's version."""
    return {"version": CONFIG_VERSION, **dataclasses.asdict(config)}


def dump(config: RunConfig) -> str:
    """Return the config as JSON text; `load` gives an equal object back."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def load(text: str, where: str = "config") -> RunConfig:
    """Return the config in JSON text. Fields that an older version did not have take their defaults.

    Raises:
        ConfigError: no JSON, a later version, or fields that are unknown or wrong; all of them are named.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits is a plain ValueError
        raise ConfigError([f"{where}: not JSON ({error})"]) from None
    if not isinstance(data, dict):
        raise ConfigError([f"{where}: expected a JSON object, found {type(data).__name__}"])
    try:
        _check_version(data.pop("version", CONFIG_VERSION), where)
        return override(RunConfig(), dict(_flatten(data, "")))
    except RecursionError:
        raise ConfigError([f"{where}: nested deeper than any config"]) from None


def _check_version(version: Any, where: str) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigError([f"{where}: expected a whole number from 1 as version, found {version!r}"])
    if version > CONFIG_VERSION:
        raise ConfigError(
            [f"{where}: config version {version} is of a later Tellapart (this one reads {CONFIG_VERSION}); upgrade"]
        )


def _flatten(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def type_name(kind: Any) -> str:
    """Return how a field's type is shown in `--help`."""
    if kind == tuple[str, ...]:
        return "NAME[,NAME]"
    if typing.get_origin(kind) in (Literal, types.UnionType):
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    return {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}[kind]

"""The fields of a run, in sections: type, default, meaning and range of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def option(default: Any, doc: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Declare a field of a config section: its default, its one-line meaning and its inclusive range."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from, and how it is divided."""

    source: str = option("digits", "a data set's name, a folder, a manifest, Parquet files, tar shards, an npz file")
    data_dir: str = option("", "where downloaded data sets lie or go (default: the user's cache)")
    task: Literal["auto", "multiclass", "multilabel", "regression"] = option("auto", "what the targets mean")
    val_fraction: float = option(0.1, "share of the training images held out to choose by", low=0.001, high=0.9)
    test_fraction: float = option(0.1, "share held out for the final number; 0 holds out none", low=0.0, high=0.9)
    image_column: str = option("", "manifests, Parquet: the column of paths or bytes (default: by its name)")
    label_column: str = option("", "manifests, Parquet: the column of labels (default: by its name)")
    label_separator: str = option("", "manifests: the sign between several labels of one image, such as ';'")
    split: str = option("", "a division to use as it is: a run's split.parquet, or a CSV of path and split")
    split_column: str = option("", "manifests, Parquet: the column that says train, val or test (default: by its name)")
    group_column: str = option("", "manifests, Parquet: images of one group stay on one side (default: by its name)")
    group_pattern: str = option("", "regular expression; images in whose paths it finds the same stay on one side")
    time_column: str = option("", "manifests, Parquet: the newest images become test, the next val")
    time_pattern: str = option("", "regular expression that finds the time in a path, such as '20[0-9]{6}'")
    split_seed: int = option(-1, "the seed that the division is drawn by; -1: the run's own", low=-1, high=2**63 - 1)
    folds: int = option(0, "train so many times, each with another part as test; 0: once", low=0, high=100)
    fold: int = option(0, "which of the folds this run tests on, from 1; 0: all, one after another", low=0, high=100)
    shuffle_window: int = option(4096, "shards: how far an image may be drawn from its place in the order", low=1)
    bad_images: Literal["fail", "skip"] = option("fail", "stop before training, or leave out what cannot be read")
    allow_leaks: Literal["no", "yes"] = option("no", "train although more than 5% of val or test are in train too")
    in_memory: Literal["auto", "yes", "no"] = option("auto", "keep all images on the device as uint8")
    cache_dir: str = option("", "where decoded images are kept between runs (default: the user's cache)")
    cache_gib: float = option(20.0, "most that the decoded images kept on disk may take; 0: keep none", low=0.0)
    num_workers: int = option(-1, "processes that read images when they are not in memory; -1: one a core", low=-1)
    worker_timeout_s: float = option(300.0, "seconds after which a silent worker ends the run; 0: never", low=0.0)


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What turns a decoded image into the network's input, in training and ever after."""

    size_px: int = option(0, "side of the square the network sees; 0: from the data", low=0, high=4096)
    resize_px: int = option(0, "side of the square kept before the crop to size-px; 0: from size-px", low=0, high=4096)
    fit: Literal["crop", "squash"] = option("crop", "make an image square by cropping its middle or by squashing it")
    background: str = option("white", "what lies behind transparent pixels: white, black, grey or #rrggbb")
    normalize: Literal["train", "half", "imagenet", "pretrained"] = option(
        "train", "mean and std: of the training images, 0.5 and 0.5, ImageNet's, or those of the pretrained weights"
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What varies the training images, each draw a function of seed, epoch and image."""

    transforms: tuple[str, ...] = option(("none",), "names from `tellapart ls augmentations`, applied in this order")
    pad_px: int = option(4, "shift, flip-crop: largest shift in pixels", low=0, high=512)
    rotation_degrees: float = option(15.0, "rotation: largest angle in degrees", low=0.0, high=180.0)
    jitter: float = option(0.4, "color-jitter: largest change of brightness and the like", low=0.0, high=1.0)
    min_scale: float = option(0.35, "random-resized-crop: smallest share of the area kept", low=0.01, high=1.0)
    erasing_prob: float = option(0.25, "random-erasing: how often", low=0.0, high=1.0)
    num_ops: int = option(2, "randaugment: operations on each image", low=0, high=14)
    magnitude: int = option(9, "randaugment: strength of the operations", low=0, high=30)
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
    accumulation_steps: int = option(1, "parts a batch is computed in, to save memory; still one update", low=1)
    eval_batch_size: int = option(256, "images evaluated at a time", low=1)
    ema_decay: float = option(
        0.0, "decay of the averaged weights that are evaluated and shipped; 0: none", low=0.0, high=0.999999
    )
    early_stopping_epochs: int = option(0, "stop after so many epochs without progress on val; 0: never", low=0)
    select: Literal["best", "last"] = option("best", "weights to ship: of the best epoch on val, or of the last")
    calibration: Literal["temperature", "none"] = option(
        "temperature", "make the probabilities of the chosen weights honest, by one number fitted on val"
    )
    report: Literal["yes", "no"] = option("yes", "write report.html when the training has ended")
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
    seeds: int = option(0, "train so many times, each with the next seed, on one division; 0: once", low=0, high=1000)
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

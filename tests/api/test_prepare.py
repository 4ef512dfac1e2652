"""From what a user asks for to a whole config: everything wrong at once, nothing asked for dropped in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tellapart import config as configs
from tellapart.api.prepare import differences, prepare, storable_name, summarize
from tellapart.config import RunConfig
from tellapart.data.sources.arrays import ArraySource
from tellapart.errors import ConfigError, DataError
from tellapart.recipes import RECIPES, DataSummary

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 4


def images(size_px: int = 8, channels: int = 1) -> np.ndarray:
    shape = (40, size_px, size_px) if channels == 1 else (40, size_px, size_px, channels)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


GREY = (images(), LABELS)


def config_of(data: Any = GREY, recipe: str = "auto", **changes: Any) -> RunConfig:
    return prepare(data, recipe, {name.replace("__", "."): value for name, value in changes.items()}).config


def problems_of(data: Any = GREY, recipe: str = "auto", **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(data, recipe, **changes)
    return caught.value.problems


def test_everything_wrong_is_said_together() -> None:
    problems = problems_of(
        recipe="tutorail",
        model__name="restnet18",
        optim__name="adanw",
        schedule__name="cosin",
        loss__name="crossentropy",
        augment__transforms="flip,mixpu",
        optim__lr="fast",
        train__epochs=0,
        train__batch_sise=8,
        data__bad_images="ignore",
    )
    text = "\n".join(problems)
    for guess in (
        "'tutorial'",
        "'resnet18'",
        "'adamw'",
        "'cosine'",
        "'cross-entropy'",
        "'mixup'",
        "'train.batch_size'",
    ):
        assert f"Did you mean {guess}?" in text, guess
    for field in ("optim.lr: expected a number, found 'fast'", "train.epochs: expected at least 1, found 0"):
        assert field in text
    assert "data.bad_images: unknown value 'ignore'" in text
    assert len(problems) == 10


def test_a_config_problem_is_found_before_the_data_are_opened() -> None:
    with pytest.raises(ConfigError):
        prepare("no/such/folder", "auto", {"model.name": "restnet18"})
    with pytest.raises(DataError):
        prepare("no/such/folder", "auto", {})


def test_text_and_values_mean_the_same() -> None:
    typed = config_of(
        optim__lr=0.5, train__epochs=3, compute__channels_last=False, augment__transforms=("flip", "shift")
    )
    text = config_of(optim__lr="0.5", train__epochs="3", compute__channels_last="no", augment__transforms="flip, shift")
    assert typed == text


def test_dashes_and_underscores_mean_the_same() -> None:
    by_dash = prepare(GREY, "auto", {"train.batch-size": "4"}).config
    assert by_dash == prepare(GREY, "auto", {"train.batch_size": 4}).config


@pytest.mark.parametrize("epochs", [1.5, "many", True, None, "1e400"])
def test_a_number_that_is_none_is_refused(epochs: Any) -> None:
    assert any("train.epochs: expected" in problem for problem in problems_of(train__epochs=epochs))


@pytest.mark.parametrize(
    ("targets", "task", "loss"),
    [
        (LABELS, "multiclass", "cross-entropy"),
        (np.eye(4, dtype=np.int64)[LABELS], "multilabel", "binary-cross-entropy"),
        (LABELS.astype(np.float32), "regression", "mean-squared-error"),
    ],
)
def test_the_loss_follows_the_task(targets: np.ndarray, task: str, loss: str) -> None:
    config = config_of((images(), targets))
    assert (config.data.task, config.loss.name) == (task, loss)
    assert config_of((images(), targets), "tutorial").loss.name == loss


def test_a_loss_that_does_not_fit_is_refused() -> None:
    problems = problems_of((images(), LABELS.astype(np.float32)), loss__name="cross-entropy")
    assert problems == ["loss.name: 'cross-entropy' does not fit a regression task. Fitting: mean-squared-error"]


def test_another_loss_takes_the_recipes_smoothing_away_where_it_cannot_honour_it() -> None:
    assert config_of().loss.label_smoothing == 0.1
    assert config_of(loss__name="mean-squared-error").loss.label_smoothing == 0.0
    assert config_of(loss__name="binary-cross-entropy").loss.label_smoothing == 0.1
    # The user's own is theirs to resolve.
    assert config_of(loss__name="mean-squared-error", loss__label_smoothing=0.2).loss.label_smoothing == 0.2


def test_one_cycle_and_a_warmup_are_no_pair() -> None:
    assert config_of().schedule.name == "one-cycle"
    for changes in ({}, {"schedule__name": "one-cycle"}):
        problems = problems_of(schedule__warmup_epochs=2, **changes)
        assert any("schedule.warmup_epochs" in problem and "one-cycle" in problem for problem in problems)
    config = config_of(schedule__warmup_epochs=2, schedule__name="cosine")
    assert (config.schedule.name, config.schedule.warmup_epochs) == ("cosine", 2.0)


def test_combinations_are_judged_with_the_recipes_values() -> None:
    """64 parts fit the default batch of 128, and not the 8 that the recipe takes for so few images."""
    assert config_of().train.batch_size == 8
    assert any("train.accumulation_steps" in problem for problem in problems_of(train__accumulation_steps=64))
    assert config_of(train__accumulation_steps=64, train__batch_size=64).train.accumulation_steps == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule__patience": 3},
        {"augment__rotation_degrees": 5},
        {"optim__momentum": 0.8},
        {"schedule__pct_start": 0.2, "schedule__name": "cosine"},
    ],
)
def test_an_option_without_effect_is_refused(changes: dict[str, Any]) -> None:
    assert any("no effect" in problem for problem in problems_of(**changes))


def test_an_option_with_effect_is_not() -> None:
    config_of(schedule__name="reduce-on-plateau", schedule__patience=3)
    config_of(augment__transforms="rotation", augment__rotation_degrees=5)
    config_of(optim__name="muon", optim__momentum=0.8)


def test_auto_goes_by_size_and_channels() -> None:
    grey, colour, photographs = (config_of((images(*kind), LABELS)) for kind in ((8, 1), (32, 3), (90, 3)))
    assert (grey.augment.transforms, grey.preprocess.size_px) == (("shift",), 8)
    assert (colour.augment.transforms, colour.preprocess.size_px) == (("flip-crop",), 32)
    assert photographs.model.name == "resnet18"
    assert (photographs.preprocess.size_px, photographs.preprocess.resize_px) == (128, 144)
    assert all(config.recipe == "auto" for config in (grey, colour, photographs))


def test_digits_get_their_own_recipe() -> None:
    auto = prepare("digits", "auto", {}).config
    assert auto.recipe == "digits-quick"
    assert auto.data.source == "digits"
    assert auto == prepare("digits", "digits-quick", {}).config


def test_the_tutorials_recipe() -> None:
    config = config_of((images(32, 3), LABELS), "tutorial")
    assert config.model.name == "cifar10-cnn"
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adamw", 0.01, 0.01)
    assert config.optim.decay_norm_and_bias
    assert (config.schedule.name, config.train.epochs, config.train.batch_size) == ("one-cycle", 100, 128)
    assert (config.preprocess.normalize, config.augment.transforms) == ("half", ("flip-crop",))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size_px", [1, 8, 28, 64, 65, 500])
def test_every_recipe_is_valid_for_every_size(recipe: str, size_px: int) -> None:
    for task in ("multiclass", "multilabel", "regression"):
        for count in (2, 100, 10**6):
            config = RECIPES[recipe](DataSummary("x", task, count, 3, 3, size_px))
            assert configs.override(config, {}) == config
            assert configs.load(configs.dump(config)) == config


def test_a_size_of_ones_own_replaces_the_recipes_margin() -> None:
    config = config_of((images(90, 3), LABELS), preprocess__size_px=64)
    assert (config.preprocess.size_px, config.preprocess.resize_px) == (64, 64)
    config = config_of((images(90, 3), LABELS), preprocess__size_px=64, preprocess__resize_px=80)
    assert (config.preprocess.size_px, config.preprocess.resize_px) == (64, 80)


def test_zero_means_from_the_data() -> None:
    assert config_of(preprocess__size_px=0).preprocess.size_px == 8


def test_the_recipe_knows_nothing_of_the_test_images() -> None:
    parts = ["train"] * 30 + ["test"] * 10
    summary = summarize(ArraySource(*GREY, parts=parts))
    assert summary.num_images == 30
    changed = LABELS.copy()
    changed[30:] = 0
    assert summarize(ArraySource(GREY[0], changed, parts=parts)) == summary


def test_the_data_can_be_found_again(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_folder.parent)
    assert config_of("images").data.source == str(image_folder)
    assert config_of(Path("images")).data.source == str(image_folder)
    assert config_of().data.source == "<arrays>"
    assert storable_name("digits") == "digits"
    assert storable_name(ArraySource(*GREY)) == "<arrays>"


def test_the_task_is_asked_of_the_data() -> None:
    assert prepare((images(), LABELS), "auto", {"data.task": "regression"}).source.task == "regression"
    assert config_of(data__task="multilabel").loss.name == "binary-cross-entropy"


def test_differences_name_what_the_run_has_and_what_is_asked() -> None:
    config = config_of(train__epochs=5)
    assert differences(config, {"train.epochs": "5", "optim.lr": config.optim.lr}) == []
    found = differences(config, {"train.epochs": 6, "compute.channels-last": "no"})
    assert found == [
        "train.epochs: the run has 5, this command asks for 6",
        "compute.channels_last: the run has True, this command asks for False",
    ]
    with pytest.raises(ConfigError, match="Did you mean 'cnn'"):
        differences(config, {"model.name": "cmn"})


MakeFolder = Callable[..., Path]


def test_held_out_fractions_do_nothing_where_the_data_have_parts(make_folder: MakeFolder) -> None:
    folder = make_folder({"train/ant": 3, "train/bee": 3, "val/ant": 2, "val/bee": 2})
    assert any("data.val_fraction: has no effect" in problem for problem in problems_of(folder, data__val_fraction=0.2))
    config_of(folder, data__test_fraction=0.2)

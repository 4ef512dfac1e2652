"""Every recipe makes a config that passes every check, whatever the data are like."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart import config as configs
from tellapart.api.prepare import NAMES, prepare
from tellapart.config import options, override
from tellapart.data.augment import Augment, Mix
from tellapart.models import create_model
from tellapart.optim import create_loss
from tellapart.recipes import RECIPES, DataSummary

TASKS = ("multiclass", "multilabel", "regression")
LOSS = {"multiclass": "cross-entropy", "multilabel": "binary-cross-entropy", "regression": "mean-squared-error"}
SUMMARIES = [
    DataSummary("digits", "multiclass", 1797, 10, 1, 8),
    DataSummary("cifar10", "multiclass", 50_000, 10, 3, 32),
    DataSummary("photographs", "multiclass", 244, 2, 3, 333),
    DataSummary("x-rays", "multilabel", 112_000, 14, 1, 1024),
    DataSummary("prices", "regression", 31, 0, 3, 64),
    DataSummary("scans", "multiclass", 12, 3, 3, 9000),
    DataSummary("dots", "multiclass", 2, 2, 1, 1),
]


def whole(recipe: str, data: DataSummary) -> configs.RunConfig:
    """Return the recipe's config after every check that `train` makes of it."""
    return override(RECIPES[recipe](data), {}, NAMES)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("data", SUMMARIES, ids=lambda data: data.name)
def test_every_recipe_is_valid_and_says_its_size(recipe: str, data: DataSummary) -> None:
    made = whole(recipe, data)
    assert made.preprocess.size_px > 0
    assert made.recipe in RECIPES
    assert RECIPES[made.recipe](data) == made, "the stored name finds the same recipe again"
    assert configs.load(configs.dump(made)) == made


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("task", TASKS)
def test_the_parts_of_a_recipe_can_be_built(recipe: str, task: str) -> None:
    for channels, size_px in product((1, 3), (8, 28, 200)):
        made = whole(recipe, DataSummary("mine", task, 500, 4, channels, size_px))
        create_loss(LOSS[task], label_smoothing=made.loss.label_smoothing)
        Augment(made.augment, made.preprocess.size_px, made.seed)
        Mix(made.augment, 4, made.seed)
    made = whole(recipe, DataSummary("mine", task, 500, 4, 3, 28))
    create_model(made.model.name, num_classes=4, in_channels=3, size_px=made.preprocess.size_px)


@given(
    st.sampled_from(sorted(RECIPES)),
    st.builds(
        DataSummary,
        name=st.sampled_from(["digits", "mine"]),
        task=st.sampled_from(TASKS),
        num_images=st.integers(1, 10**8),
        num_classes=st.integers(0, 10**4),
        num_channels=st.sampled_from([1, 3]),
        size_px=st.integers(1, 8192),
    ),
)
def test_recipes_are_valid_for_all_data(recipe: str, data: DataSummary) -> None:
    made = whole(recipe, data)
    assert made == whole(recipe, data)
    for name, option in options().items():
        value = configs.get(made, name)
        assert isinstance(value, tuple | str | bool | int | float), name
        assert not option.choices or value in option.choices


def test_auto_knows_small_images_photographs_and_digits() -> None:
    photographs, small = whole("auto", SUMMARIES[2]), whole("auto", SUMMARIES[1])
    assert photographs.preprocess.size_px < photographs.preprocess.resize_px
    assert "random-resized-crop" in photographs.augment.transforms
    assert small.preprocess.size_px == 32
    assert small.augment.transforms == ("flip-crop",)
    assert whole("auto", SUMMARIES[0]).recipe == "digits-quick"


def test_auto_does_not_mirror_grey_images() -> None:
    made = whole("auto", DataSummary("letters", "multiclass", 5000, 26, 1, 28))
    assert not {"flip", "flip-crop"} & set(made.augment.transforms)


@given(st.integers(1, 10**7), st.sampled_from([32, 300]))
def test_auto_sees_few_images_more_often_in_smaller_batches(num_images: int, size_px: int) -> None:
    fewer, more = (
        whole("auto", DataSummary("x", "multiclass", n, 2, 3, size_px)) for n in (num_images, 2 * num_images)
    )
    assert fewer.train.epochs >= more.train.epochs
    assert fewer.train.batch_size <= more.train.batch_size
    assert num_images // fewer.train.batch_size >= 16 or fewer.train.batch_size == 8


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_say_their_command(recipe: str) -> None:
    assert "Command: `tellapart train " in (RECIPES[recipe].__doc__ or "")


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_pass_through_prepare(recipe: str) -> None:
    prepared = prepare("digits", recipe, {"train.epochs": "3", "optim.lr": 0.02})
    assert (prepared.config.train.epochs, prepared.config.optim.lr) == (3, 0.02)
    assert prepared.config.loss.name == "cross-entropy"
    assert prepared.config.preprocess.resize_px >= prepared.config.preprocess.size_px == 8

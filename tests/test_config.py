"""RunConfig: it survives storing, and every wrong word in it is reported, all together, in words that help."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tellapart import config as configs
from tellapart.config import RunConfig, dump, get, load, options, override, to_dict, type_name
from tellapart.errors import ConfigError
from tellapart.recipes import RECIPES, DataSummary

DIGITS = DataSummary("digits", "multiclass", 1797, 10, 1, 8)


def problems_of(changes: dict[str, Any], names: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        override(RunConfig(), changes, names)
    assert str(caught.value).count("\n  - ") == len(caught.value.problems)
    return caught.value.problems


def problem_of_json(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, "runs/1/config.json")
    (problem,) = caught.value.problems
    return problem


def value_strategy(option: configs.Option) -> st.SearchStrategy[Any]:
    """Return values that the option may take."""
    low, high = option.low, option.high
    if option.choices:
        return st.sampled_from(option.choices)
    if option.type is bool:
        return st.booleans()
    if option.type is int:
        return st.integers(int(low) if low is not None else -(2**63) + 1, int(high) if high is not None else 2**63 - 1)
    if option.type is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    if option.type is str:
        return st.text(st.characters(codec=None), max_size=20)
    assert option.type == tuple[str, ...]
    return st.lists(st.text("abc-é", min_size=1, max_size=6)).map(tuple)


CHANGES = st.lists(st.sampled_from(sorted(options())), unique=True, max_size=6).flatmap(
    lambda names: st.fixed_dictionaries({name: value_strategy(options()[name]) for name in names})
)

# --- every field -----------------------------------------------------------------------------------------------------


def test_every_field_says_what_it_is() -> None:
    for name, option in options().items():
        assert option.doc, name
        assert get(RunConfig(), name) == option.default, name
        assert type_name(option.type), name
        if option.low is not None and option.high is not None:
            assert option.low <= option.default <= option.high, name
    assert override(RunConfig(), {}) == RunConfig()


def test_names_are_dotted_and_complete() -> None:
    def count(section: Any) -> int:
        values = [getattr(section, field.name) for field in dataclasses.fields(section)]
        return sum(count(value) if dataclasses.is_dataclass(value) else 1 for value in values)

    assert len(options()) == count(RunConfig())
    assert {"seed", "train.batch_size", "augment.transforms"} <= set(options())


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().train.epochs = 3  # pyright: ignore[reportAttributeAccessIssue]


# --- storing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_load_back_equal(recipe: str) -> None:
    made = RECIPES[recipe](DIGITS)
    assert load(dump(made)) == made


@given(CHANGES)
def test_any_config_loads_back_equal(changes: dict[str, Any]) -> None:
    try:
        made = override(RunConfig(), changes)
    except ConfigError:
        assume(False)
        raise
    for name, value in changes.items():
        assert get(made, name) == value
    assert load(dump(made)) == made


@given(CHANGES)
def test_text_is_read_as_the_command_line_gives_it(changes: dict[str, Any]) -> None:
    try:
        made = override(RunConfig(), changes)
    except ConfigError:
        assume(False)
        raise
    texts = {name: ",".join(v) if isinstance(v, tuple) else str(v) for name, v in changes.items()}
    assert override(RunConfig(), texts) == made


def test_stored_text_is_plain_json_with_a_version() -> None:
    stored = json.loads(dump(RunConfig(seed=3)))
    assert stored == json.loads(json.dumps(to_dict(RunConfig(seed=3))))
    assert stored["version"] == 1
    assert stored["seed"] == 3
    assert stored["augment"]["transforms"] == ["none"]


def test_fields_that_an_older_version_had_not_take_their_defaults() -> None:
    assert load('{"version": 1, "train": {"epochs": 7}}') == override(RunConfig(), {"train.epochs": 7})
    assert load("{}") == RunConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('"seed"', "expected a JSON object, found str"),
        ("null", "expected a JSON object, found NoneType"),
        ('{"seed": ' + "9" * 5000 + "}", "not JSON"),
        ('{"version": 2}', "config version 2 is of a later Tellapart (this one reads 1); upgrade"),
        ('{"version": "1"}', "expected a whole number from 1 as version, found '1'"),
        ('{"version": 1.0}', "expected a whole number from 1 as version, found 1.0"),
        ('{"version": null}', "expected a whole number from 1 as version, found None"),
        ('{"version": true}', "expected a whole number from 1 as version, found True"),
        ('{"version": 0}', "expected a whole number from 1 as version, found 0"),
    ],
)
def test_a_file_that_is_no_config_is_named(text: str, expected: str) -> None:
    problem = problem_of_json(text)
    assert problem.startswith("runs/1/config.json: ")
    assert expected in problem


@pytest.mark.parametrize("depth", [3, 300, 900, 980, 5_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]")], ids=["objects", "lists"])
@pytest.mark.parametrize("start", ['{"seed":', '{"train":', '{"version":'])
def test_deep_nesting_is_an_error_and_no_crash(depth: int, opening: str, closing: str, start: str) -> None:
    with pytest.raises(ConfigError):
        load(start + opening * depth + "1" + closing * depth + "}")


def test_all_problems_of_a_file_are_reported_together() -> None:
    wrong = {"train": {"epochs": 1.5, "batchsize": 3}, "optim": {"lr": float("nan")}, "seed": None, "fancy": {"a": 1}}
    with pytest.raises(ConfigError) as caught:
        load(json.dumps(wrong))
    assert caught.value.problems == [
        "train.epochs: expected a whole number, found 1.5",
        "unknown field 'train.batchsize'. Did you mean 'train.batch_size'?",
        "optim.lr: expected a finite number, found nan",
        "seed: expected a number, found None",
        "unknown field 'fancy.a'. `tellapart train --help` lists all.",
    ]
    assert str(caught.value).startswith("5 problems in the config:\n")


@pytest.mark.parametrize("value", [5, None, [], "x", True])
def test_a_section_must_be_an_object(value: Any) -> None:
    with pytest.raises(ConfigError, match="unknown field 'train'"):
        load(json.dumps({"train": value}))


# --- reading one value -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("train.epochs", "7", 7),
        ("train.epochs", 7.0, 7),
        ("train.epochs", "1e3", 1000),
        ("optim.lr", "1e-3", 0.001),
        ("optim.lr", 1, 1.0),
        ("optim.lr", " 0.5 ", 0.5),
        ("model.pretrained", "no", False),
        ("model.pretrained", "FALSE", False),
        ("schedule.cycle_momentum", "on", True),
        ("schedule.cycle_momentum", "1", True),
        ("schedule.cycle_momentum", False, False),
        ("augment.transforms", "flip, shift", ("flip", "shift")),
        ("augment.transforms", ["flip"], ("flip",)),
        ("augment.transforms", "", ()),
        ("preprocess.fit", "squash", "squash"),
        ("data.source", "", ""),
    ],
)
def test_values_are_read_by_the_type_of_the_field(name: str, raw: Any, expected: Any) -> None:
    value = get(override(RunConfig(), {name: raw}), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("train.epochs", 1.5, "expected a whole number, found 1.5"),
        ("train.epochs", "1.5", "expected a whole number, found '1.5'"),
        ("train.epochs", "many", "expected a number, found 'many'"),
        ("train.epochs", "", "expected a number, found ''"),
        ("train.epochs", True, "expected a number, found True"),
        ("train.epochs", None, "expected a number, found None"),
        ("train.epochs", [1], "expected a number, found [1]"),
        ("train.epochs", 0, "expected at least 1, found 0"),
        ("train.epochs", 10**400, "found a larger one"),
        ("train.epochs", 1e300, "found a larger one"),
        ("train.epochs", "9" * 6000, "expected a finite number"),
        ("optim.lr", float("nan"), "expected a finite number, found nan"),
        ("optim.lr", float("inf"), "expected a finite number, found inf"),
        ("optim.lr", "-Infinity", "expected a finite number, found '-Infinity'"),
        ("optim.lr", "NaN", "expected a finite number, found 'NaN'"),
        ("optim.lr", 10**400, "found a larger one"),
        ("optim.lr", -1e-9, "expected at least 0, found -1e-09"),
        ("optim.lr", False, "expected a number, found False"),
        ("loss.label_smoothing", 0.9990001, "expected at most 0.999, found 0.9990001"),
        ("seed", 2**63, "found a larger one"),
        ("seed", -1, "expected at least 0, found -1"),
        ("data.num_workers", -2, "expected at least -1, found -2"),
        ("model.pretrained", "maybe", "expected true or false, found 'maybe'"),
        ("model.pretrained", 1, "expected true or false, found 1"),
        ("model.name", 3, "expected text, found 3"),
        ("preprocess.fit", "stretch", "unknown value 'stretch'. Known: crop, squash"),
        ("preprocess.fit", "sqush", "unknown value 'sqush'. Did you mean 'squash'? Known: crop, squash"),
        ("preprocess.fit", None, "unknown value 'None'"),
        ("augment.transforms", 3, "expected names separated by commas, found 3"),
        ("augment.transforms", [1], "expected names separated by commas, found [1]"),
        ("train.ema_decay", 1.0, "expected at most 0.999999, found 1"),
    ],
)
def test_wrong_values_are_refused(name: str, raw: Any, expected: str) -> None:
    (problem,) = problems_of({name: raw})
    assert problem.startswith(f"{name}: ")
    assert expected in problem


@given(st.sampled_from([name for name, option in options().items() if option.type is int]), st.floats(1, 1e6))
def test_whole_numbers_are_never_rounded(name: str, value: float) -> None:
    assume(not value.is_integer())
    assert any("expected a whole number" in problem for problem in problems_of({name: value}))


@pytest.mark.parametrize("name", [name for name, option in options().items() if option.low is not None])
def test_bounds_belong_to_the_range(name: str) -> None:
    option = options()[name]
    for bound, beyond in ((option.low, -1), (option.high, 1)):
        if bound is not None:
            outside = bound + beyond * (1 if option.type is int else 1e-9)
            assert any(problem.startswith(f"{name}: expected") for problem in problems_of({name: outside}))
            try:
                override(RunConfig(), {name: bound})
            except ConfigError as error:  # A bound may contradict another field; out of range it is not.
                assert not any(problem.startswith(f"{name}: expected at") for problem in error.problems)


# --- names -----------------------------------------------------------------------------------------------------------


def test_dashes_are_taken_for_underscores() -> None:
    assert override(RunConfig(), {"train.batch-size": "64"}).train.batch_size == 64
    assert problems_of({"train.eval-batch-size": 0}) == ["train.eval_batch_size: expected at least 1, found 0"]


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("epochs", "train.epochs"),
        ("batch-size", "train.batch_size"),
        ("optim.batch_size", "train.batch_size"),
        ("train.epoch", "train.epochs"),
        ("trian.epoch", "train.epochs"),
        ("name", "model.name"),
        ("optim.pony", None),
        ("optim.learning_rate", None),
        ("zzz", None),
        ("", None),
    ],
)
def test_an_unknown_field_suggests_the_nearest(name: str, guess: str | None) -> None:
    (problem,) = problems_of({name: 1})
    assert problem.startswith(f"unknown field '{name}'.")
    assert ("Did you mean" in problem) == (guess is not None)
    assert guess is None or f"'{guess}'" in problem


def test_names_of_tables_are_checked_one_by_one() -> None:
    names = {"augment.transforms": ["flip", "shift"], "model.name": {"mlp": 1}, "recipe": ("auto",)}
    problems = problems_of({"augment.transforms": "flip,shfit,spin", "model.name": "mpl"}, names)
    assert problems == [
        "augment.transforms: unknown name 'shfit'. Did you mean 'shift'? Known: flip, shift",
        "augment.transforms: unknown name 'spin'. Known: flip, shift",
        "model.name: unknown name 'mpl'. Did you mean 'mlp'? Known: mlp",
    ]


def test_models_of_other_packages_pass_the_table() -> None:
    made = override(RunConfig(), {"model.name": "timm:anything", "model.pretrained": "yes"}, {"model.name": ["mlp"]})
    assert made.model.name == "timm:anything"


# --- all together ----------------------------------------------------------------------------------------------------


def test_every_problem_is_reported_together() -> None:
    changes = {
        "train.epochs": "many",
        "optim.lr": -1,
        "pony": 3,
        "preprocess.fit": "x",
        "model.name": "mpl",
        "train.accumulation_steps": 500,
    }
    found = problems_of(changes, {"model.name": ["mlp"]})
    for word in ("train.epochs", "optim.lr", "'pony'", "preprocess.fit", "model.name", "train.accumulation_steps"):
        assert sum(word in problem.split(":")[0] for problem in found) == 1, word
    assert len(found) == 6


def test_one_problem_is_one_problem() -> None:
    with pytest.raises(ConfigError, match=r"^1 problem in the config:\n  - seed"):
        override(RunConfig(), {"seed": -1})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train.batch_size": 4, "train.accumulation_steps": 5}, "train.accumulation_steps"),
        ({"preprocess.size_px": 64, "preprocess.resize_px": 63}, "preprocess.resize_px"),
        ({"data.val_fraction": 0.6, "data.test_fraction": 0.4}, "data.val_fraction and data.test_fraction"),
        ({"schedule.name": "one-cycle", "schedule.warmup_epochs": 1}, "schedule.warmup_epochs"),
        ({"schedule.warmup_epochs": 21}, "schedule.warmup_epochs"),
        ({"preprocess.normalize": "pretrained"}, "preprocess.normalize"),
        ({"model.pretrained": True}, "model.pretrained"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], expected: str) -> None:
    (problem,) = problems_of(changes)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"train.batch_size": 4, "train.accumulation_steps": 4},
        {"preprocess.size_px": 64, "preprocess.resize_px": 64},
        {"preprocess.size_px": 0, "preprocess.resize_px": 64},
        {"data.val_fraction": 0.1, "data.test_fraction": 0.8},
        {"data.val_fraction": 0.9, "data.test_fraction": 0.0},
        {"schedule.name": "cosine", "schedule.warmup_epochs": 20},
        {"preprocess.normalize": "pretrained", "model.pretrained": True, "model.name": "timm:x"},
    ],
)
def test_what_only_just_fits_is_taken(changes: dict[str, Any]) -> None:
    made = override(RunConfig(), changes)
    assert {name: get(made, name) for name in changes} == changes


def test_the_config_given_is_not_changed_and_the_rest_of_it_is_kept() -> None:
    base = override(RunConfig(), {"train.epochs": 3, "optim.lr": 0.5})
    made = override(base, {"train.batch_size": 2})
    assert base.train.batch_size == 128
    assert (made.train.epochs, made.optim.lr, made.train.batch_size) == (3, 0.5, 2)


def test_types_are_shown_in_help() -> None:
    shown = {name: type_name(option.type) for name, option in options().items()}
    assert shown["train.epochs"] == "INT"
    assert shown["optim.lr"] == "FLOAT"
    assert shown["augment.transforms"] == "NAME[,NAME]"
    assert shown["preprocess.fit"] == "{crop,squash}"
    assert options()["preprocess.fit"].choices == get_args(options()["preprocess.fit"].type)

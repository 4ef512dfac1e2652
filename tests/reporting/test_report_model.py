"""The model in the report: what it is, what it costs, and a command that really makes it again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tellapart.api.opening import open_data
from tellapart.api.prepare import prepare
from tellapart.api.train import train
from tellapart.cli.train import make_parser
from tellapart.config import RunConfig, get, options, override
from tellapart.data.sources import FolderSource
from tellapart.exporting.classifier import Classifier
from tellapart.reporting import model_section
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.model_section import latency_s, tiles, where_made
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.reproduce import as_python, choices, command, flags, recipe_config, recorded
from tests.reporting.made_facts import made_facts

EVIL = '<script>alert("1")</script>'


def html_of(facts: RunFacts) -> str:
    section = model_section.section(facts, Pictures.of(facts))
    assert section is not None
    assert section.id == "model"
    return str(section.html)


def words_of(line: str) -> tuple[str, str, dict[str, Any]]:
    """Return data, recipe and changes as the command line reads them."""
    program, verb, *rest = shlex.split(line)
    assert (program, verb) == ("tellapart", "train")
    found = vars(make_parser().parse(rest))
    data, recipe = found.pop("data"), found.pop("recipe")
    for name in ("json", "run", "resume", "dry_run"):
        found.pop(name)
    return data, recipe, {name: value for name, value in found.items() if value is not None}


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.epochs": 3, "optim.lr": 0.02},
        {"seed": 7, "data.split_seed": 3, "augment.transforms": "shift,random-erasing", "augment.pad_px": 1},
        {"loss.name": "mean-squared-error", "model.name": "mlp"},
        {"schedule.name": "exponential", "optim.name": "sgd-nesterov", "optim.momentum": 0.8},
        {"preprocess.size_px": 16, "optim.decay_norm_and_bias": True, "optim.clip_norm": 1.5},
        {"preprocess.size_px": 16, "preprocess.resize_px": 20, "data.val_fraction": 0.2},
        {"data.folds": 4, "data.fold": 2},
        {"data.cache_dir": "somewhere else", "train.report": "no", "compute.device": "cpu"},
        {"augment.transforms": "none", "train.early_stopping_epochs": 2},
    ],
)
@pytest.mark.parametrize("recipe", ["auto", "tutorial"])
def test_the_command_comes_out_as_the_same_config(changes: dict[str, Any], recipe: str) -> None:
    prepared = prepare("digits", recipe, changes)
    config = override(prepared.config, {"compute.precision": "float32"})
    facts = replace(made_facts(), config=config, source=prepared.source)
    line = command(facts, recipe_config(config, prepared.source))
    data, named, given = words_of(line)
    again = prepare(data, named, given).config
    differing = {name for name in options() if get(again, name) != get(config, name)}
    assert differing <= {"data.cache_dir"}
    assert line.count("--") <= len(changes) + 5


@pytest.mark.parametrize("separator", ["", "-"])
def test_paths_and_values_that_a_shell_would_read_otherwise(tmp_path: Path, write_images: Any, separator: str) -> None:
    root = tmp_path / "it's $HOME; <b> 雪"
    write_images(root, {"ant": 6, "bee": 6})
    pattern = "-[a-z ]+'\"$|00[0-9]"
    changes = {"data.group_pattern": pattern} if separator else {}
    prepared = prepare(str(root), "auto", changes)
    facts = replace(made_facts(), config=prepared.config, source=prepared.source)
    line = command(facts, recipe_config(prepared.config, prepared.source))
    data, named, given = words_of(line)
    assert data == str(root)
    assert prepare(data, named, given).config == prepared.config
    html = html_of(facts)
    pieces = re.findall(
        r'<span class="word">([^<]+)</span>', html.split("<dt>train it again</dt>")[1].split("</pre>")[0]
    )
    assert shlex.split(" ".join(unescape(piece) for piece in pieces)) == shlex.split(line)


def test_the_printed_command_makes_the_same_weights(tmp_path: Path) -> None:
    first = train(
        "digits",
        epochs=1,
        seed=5,
        run=tmp_path / "first",
        options={"train.report": "no", "optim.lr": 0.02, "augment.transforms": "shift", "augment.pad_px": 1},
        progress=False,
    )
    source = open_data("digits", first.config.data)
    facts = replace(made_facts(), config=first.config, source=source, path=str(first.path))
    html = html_of(facts)
    shown = html.split("<dt>train it again</dt>")[1].split("</pre>")[0]
    line = unescape(re.sub(r"<[^>]+>", "", shown.partition("<pre")[2].partition(">")[2]))
    data, recipe, given = words_of(line.strip())
    again = train(data, recipe=recipe, run=tmp_path / "again", options=given, progress=False)
    assert again.config == first.config
    digests = [
        json.loads((run.bundle / "config.json").read_text())["files"]["model.safetensors"] for run in (first, again)
    ]
    assert digests[0] == digests[1]


def test_the_task_is_named_where_another_could_be_read_from_the_labels(tmp_path: Path, write_images: Any) -> None:
    source = FolderSource(write_images(tmp_path / "photos", {"1": 6, "2": 6}))
    prepared = prepare(source, "auto", {})
    config = override(prepared.config, {"data.source": str(tmp_path / "photos")})
    base = recipe_config(config, source)
    assert base is not None
    assert flags(config, base)[:2] == ["--data.task", "multiclass"]


def test_arrays_are_trained_again_from_python() -> None:
    facts = made_facts()
    assert command(facts, RunConfig()) == ""
    said = as_python(override(facts.config, {"seed": 4}), recipe_config(facts.config, facts.source))
    assert "tellapart.train(" in said
    assert "'seed': 4," in said
    compile(said, "again.py", "exec")
    html = html_of(facts)
    assert "which only their owner has" in html
    assert "train it again" not in html


def test_without_the_images_there_is_no_command_that_could_be_wrong() -> None:
    facts = made_facts(source=None)
    facts = replace(facts, config=override(facts.config, {"data.source": "digits"}))
    html = html_of(facts)
    assert "train it again" not in html
    assert "config.json" in html


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["/usr/bin/tellapart", "train", "a b"], "tellapart train 'a b'"),
        (["/lib/tellapart/__main__.py", "train"], "tellapart train"),
        (["notebook.py", "train"], ""),
        (["/usr/bin/tellapart"], ""),
        ("tellapart train", ""),
        (None, ""),
    ],
)
def test_the_command_that_was_typed(typed: Any, said: str) -> None:
    assert recorded({"command": typed}) == said


# --- who chose what --------------------------------------------------------------------------------------------------


def test_choices_say_who_made_them() -> None:
    prepared = prepare("digits", "auto", {"train.epochs": 3, "optim.name": "sgd-momentum"})
    found = {each.name: each for each in choices(prepared.config, recipe_config(prepared.config, prepared.source))}
    assert {name for name, each in found.items() if each.by == "you"} == {"train.epochs", "optim.name"}
    assert found["schedule.name"].by == "recipe"
    assert found["preprocess.size_px"].by == "found"
    assert found["train.batch_size"].value == "64"
    assert found["model.pretrained"].by == ""
    assert list(found) == list(options())


def test_the_whole_config_is_there() -> None:
    html = html_of(made_facts())
    for name, option in options().items():
        assert f"<code>{name}</code>" in html
        assert option.doc in unescape(html)


# --- what it is and costs --------------------------------------------------------------------------------------------


def test_parameters_and_computation_by_hand() -> None:
    facts = made_facts()
    layers = model_section.layers_of(facts.classifier)
    assert layers is not None
    network = facts.classifier.module.network
    found = {what: (value, note) for what, value, note in tiles(facts, layers)}
    total = sum(parameter.numel() for parameter in network.parameters())
    assert found["parameters"][1] == f"{total:,}"
    products = sum(
        layer.in_features * layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)
    )
    assert layers.multiply_adds == products
    assert found["computation"][0] == model_section.in_flops(2 * products)
    assert found["input"][0] == "8 x 8"
    html = html_of(facts)
    assert html.count('<th scope="row"><code>') == len(layers.rows) + len(options()) + sum(
        1 for each in choices(facts.config, recipe_config(facts.config, facts.source)) if each.by
    )


def test_the_size_is_that_of_the_file(tmp_path: Path) -> None:
    facts = made_facts(path=str(tmp_path))
    assert "file" not in [what for what, _, _ in tiles(facts, None)]
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.safetensors").write_bytes(bytes(12_345))
    assert ("file", "12.3 kB", "model.safetensors") in tiles(facts, None)


def test_the_time_is_a_median_and_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *[t for k in range(9) for t in (1.0 * k, 1.0 * k + (0.5 if k else 0.1), 0.01)]])
    monkeypatch.setattr(model_section.time, "perf_counter", lambda: next(clock))
    # The first timed call takes 0.1 s, every other 0.5 s.
    monkeypatch.setattr(model_section, "_MOST_CALLS", 3)
    assert latency_s(made_facts().classifier) == pytest.approx(0.5)
    slow = iter([0.0, 1.0, 3.0, 3.0])
    monkeypatch.setattr(model_section.time, "perf_counter", lambda: next(slow))
    assert latency_s(made_facts().classifier) == 2.0


def test_it_is_measured_once() -> None:
    facts = made_facts()
    assert html_of(facts) == html_of(facts)


def test_a_network_that_cannot_be_called_has_no_time_and_no_layers() -> None:
    class Refusing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not today")

    facts = made_facts()
    module = facts.classifier.module
    before = module.network
    try:
        module.network = Refusing()
        classifier = Classifier(module, facts.classifier.classes, {}, facts.classifier.device)
        assert latency_s(classifier) is None
        html = html_of(replace(facts, classifier=classifier))
        assert "time for one image" not in html
        assert "layers" not in html.split("What was chosen")[0]
    finally:
        module.network = before


# --- where it was made -----------------------------------------------------------------------------------------------


def test_everything_that_is_known_of_where_it_was_made_is_there() -> None:
    known = {
        "command": ["/usr/bin/tellapart", "train", EVIL],
        "versions": {"torch": "2.15.0", "tellapart": "0.1.0"},
        "platform": "Linux-6",
        "hardware": {"cpu": "A Chip", "cores": 2, "gpu": None},
        "git": {"commit": "abc123", "dirty": True},
        "new": {"thing": "7 \x1b[2J"},
    }
    found = dict(where_made(known))
    assert found["torch"] == "2.15.0"
    assert found["cpu"] == "A Chip"
    assert "gpu" not in found
    assert found["git commit of the working folder"] == "abc123, with changes that are not committed"
    assert found["new thing"] == r"7 \x1b[2J"
    html = html_of(made_facts(environment=known))
    assert "<script" not in html
    assert f"tellapart train '{EVIL}'" in unescape(html)
    assert where_made({}) == []
    assert "Nobody wrote that down" in html_of(made_facts(environment={}))


def test_a_licence_is_said_or_lacking() -> None:
    facts = made_facts()
    assert "Not stated." in html_of(facts)
    licensed = replace(facts.classifier, info={"license": "cc-by-4.0"})
    assert "cc-by-4.0" in html_of(replace(facts, classifier=licensed))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test writes into the working folder."""
    monkeypatch.chdir(tmp_path)
    yield

"""`ls` shows every entry of every table, and the doctor finds what is wrong."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import pytest

from tellapart.api import doctor
from tellapart.api.listing import listing
from tellapart.api.prepare import NAMES
from tellapart.cli.ls import KINDS
from tellapart.cli.main import run
from tellapart.data.sources import SOURCES
from tellapart.errors import ConfigError
from tellapart.models import MODELS
from tellapart.recipes import RECIPES


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_has_a_line(kind: str) -> None:
    table = listing(kind)
    assert table
    for name, text in table.items():
        assert len(text) > 10, name
        assert len(name) + len(text) < 140, name


def test_the_tables_are_whole() -> None:
    assert set(MODELS) <= set(listing("models"))
    assert set(listing("datasets")) == set(SOURCES)
    assert set(listing("recipes")) == set(RECIPES)
    assert set(listing("augmentations")) == set(NAMES["augment.transforms"])
    assert set(listing("losses")) == set(NAMES["loss.name"]) - {"auto"}
    assert set(listing("optimizers")) == set(NAMES["optim.name"])
    assert set(listing("schedules")) == set(NAMES["schedule.name"])


def test_a_wrong_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'models'"):
        listing("model")


def test_ls_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "recipes", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["recipes"]) == set(RECIPES)


def test_doctor_is_content_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == []
    assert report["facts"]["convolution"] == report["facts"]["torchvision operator"] == "works"


def test_doctor_names_what_is_missing_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        if name == "pyarrow":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", missing)
    problems = doctor.examine().problems
    assert any("pyarrow is not installed" in problem and "pip install" in problem for problem in problems)


def test_doctor_sees_a_broken_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.ops

    def broken(*arguments: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", broken)
    problems = doctor.examine().problems
    assert any("matching pairs" in problem for problem in problems)

"""Every verb explains itself, shows examples that are right, and answers a wrong option with the nearest one."""

from __future__ import annotations

import importlib
import shlex
from typing import Any

import pytest

from tellapart import cli
from tellapart.cli.main import VERBS, run, usage

REQUIRED: dict[str, list[str]] = {
    "compare": ["runs/x", "runs/y"],
    "evaluate": ["runs/x"],
    "explain": ["runs/x", "image.png"],
    "report": ["runs/x"],
    "pack": ["digits", "out"],
    "predict": ["runs/x", "image.png"],
}
# An option of each verb and how somebody might misspell it.
MISSPELT = {
    "train": ("--epochs", "--epoch"),
    "check": ("--strict", "--strikt"),
    "pack": ("--max-size", "--maxsize"),
    "compare": ("--split", "--splt"),
    "evaluate": ("--split", "--splt"),
    "explain": ("--neighbours", "--neighbors"),
    "report": ("--out", "--ot"),
    "predict": ("--top-k", "--topk"),
    "ls": ("--json", "--jsn"),
    "doctor": ("--json", "--jso"),
}


def parser_of(verb: str) -> Any:
    return importlib.import_module(f"tellapart.cli.{verb}").make_parser()


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_table_of_verbs_is_whole() -> None:
    from pathlib import Path

    files = {path.stem for path in Path(cli.__path__[0]).glob("*.py")} - {"__init__", "main", "parser"}
    assert files == set(VERBS) == set(MISSPELT)
    assert all(f"  {verb}" in usage() for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_exits_with_0_and_shows_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"usage: tellapart {verb}" in out
    assert "examples:" in out
    assert f"\n  tellapart {verb}" in out.split("examples:")[1]
    assert not [line for line in out.splitlines() if len(line) > 160]


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_parse(verb: str) -> None:
    parser = parser_of(verb)
    lines = [line.split(">")[0] for line in parser.epilog.splitlines()[1:]]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["tellapart", verb]
        parser.parse(words[2:])


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_option_exits_with_2_and_names_the_nearest(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong = MISSPELT[verb]
    assert exit_code([verb, *REQUIRED.get(verb, []), wrong]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"unknown option '{wrong}'" in err
    assert f"Did you mean '{right}'?" in err
    assert f"Try: tellapart {verb} --help" in err


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_is_never_guessed_from_its_beginning(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    right, _ = MISSPELT[verb]
    assert exit_code([verb, *REQUIRED.get(verb, []), right[:-1]]) == 2
    assert "unknown option" in capsys.readouterr().err


@pytest.mark.parametrize("verb", REQUIRED)
def test_what_is_required_is_asked_for(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([verb]) == 2
    assert "required" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help(verb: str) -> None:
    for action in parser_of(verb)._actions:
        assert action.help, action.dest

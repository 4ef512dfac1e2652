"""The README is true: its commands are what CI runs, its names exist, its tree is the tree."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import tellapart
from tellapart.cli.main import VERBS
from tellapart.config import options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# What a user types: the README's commands and the guides'.
GUIDES = "\n".join([README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")) if path.stem != "LOG")])
PACKAGE = Path(tellapart.__file__).parent


def setup_commands() -> list[str]:
    spec = importlib.util.spec_from_file_location("readme_commands", ROOT / "tests" / "readme_commands.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.setup_commands(README)


def test_the_two_commands_do_all_of_the_set_up_and_ci_runs_them() -> None:
    environment = "python3 -m venv .venv && . .venv/bin/activate"
    assert setup_commands() == [
        f"{environment} && pip install . && tellapart train digits",
        f"{environment} && pip install -e '.[dev]' && pytest",
    ]
    script = (ROOT / ".ci" / "run").read_text()
    for number, variable in enumerate(("user_command", "developer_command")):
        assert f"{variable}=$(python3 tests/readme_commands.py README.md {number})" in script
        assert f'-c "${variable}"' in script


def test_every_room_stands_in_the_tree() -> None:
    tree = README.split("## The house")[1].split("```")[1]
    for path in PACKAGE.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"  {path.name}/" in tree, path.name


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_loop_is_as_long_as_the_readme_says() -> None:
    said = re.search(r"\[training/loop.py\]\([^)]*\), (\d+) lines", README)
    assert said is not None
    assert int(said[1]) == len((PACKAGE / "training" / "loop.py").read_text().splitlines())


@pytest.mark.parametrize("line", re.findall(r"^\$? ?tellapart (.+)$", GUIDES, flags=re.MULTILINE))
def test_commands_name_verbs_and_options_that_exist(line: str) -> None:
    words = line.split("#")[0].split()
    assert words[0] in VERBS
    parser = importlib.import_module(f"tellapart.cli.{words[0]}").make_parser()
    for word in words[1:]:
        if word.startswith("--"):
            assert word in parser.known_options(), word


def test_imports_in_the_examples_resolve() -> None:
    found = re.findall(r"^from (tellapart[\w.]*) import (.+)$", README, flags=re.MULTILINE)
    assert found
    for module, names in found:
        for name in names.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), f"{module}.{name}"


def test_dotted_fields_in_prose_exist() -> None:
    for name in re.findall(r"--([a-z]+\.[a-z-]+)", GUIDES):
        assert name.replace("-", "_") in options(), name

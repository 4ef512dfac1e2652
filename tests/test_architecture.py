"""Imports point down only; nothing heavy is imported before it is needed; nothing on disk can run code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tellapart

PACKAGE = Path(tellapart.__file__).parent
# A room may import from rooms of a lower rank, and from itself.
RANKS = {
    "errors": 0,
    "seeding": 1,
    "hardware": 1,
    "config": 1,
    "data": 2,
    "models": 2,
    "optim": 2,
    "recipes": 2,
    "evaluation": 3,
    "training": 4,
    "auditing": 4,
    "exporting": 5,
    "reporting": 6,
    "api": 7,
    "cli": 8,
    "__main__": 9,
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "tellapart" else [f"tellapart.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("tellapart.")}
    return rooms & set(RANKS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # The public names, resolved lazily from every room.
    assert room in RANKS, f"{room} has no rank: give it a place in the house"
    for other in imported_rooms(path) - {room}:
        assert RANKS[other] < RANKS[room], f"{path.name}: {room} imports {other}, which is not below it"


def test_rule_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from tellapart.api.train import train\nfrom tellapart import cli\n")
    assert imported_rooms(wrong) == {"api", "cli"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_called_utils_and_files_stay_small(path: Path) -> None:
    assert path.stem not in {"utils", "helpers", "misc", "common"}
    assert len(path.read_text().splitlines()) <= 350, "a file is one subject"


def test_the_loop_is_short() -> None:
    assert len((PACKAGE / "training" / "loop.py").read_text().splitlines()) < 80


def test_no_code_is_loaded_from_disk() -> None:
    allowed = {"data/sources/cifar.py"}  # Reads CIFAR's own pickles with an unpickler that knows arrays only.
    for path in MODULES:
        text = path.read_text()
        name = str(path.relative_to(PACKAGE))
        if name not in allowed:
            assert "import pickle" not in text, name
        for word in ("torch.load(", "torch.save(", "eval(", "exec(", "allow_pickle=True"):
            assert word not in text.replace(".eval(", "") or (word == "torch.load(" and "weights_only=True" in text), (
                name
            )


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light() -> None:
    code = "import sys, tellapart, tellapart.cli.main; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert run_python(code).split() == ["False", "False"]


def test_training_imports_neither_torchvision_nor_sklearn() -> None:
    heavy = ("torchvision", "sklearn", "matplotlib", "timm", "torch._dynamo")
    code = f"import sys, tellapart; tellapart.train; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_every_public_name_resolves() -> None:
    for name in tellapart.__all__:
        assert getattr(tellapart, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = tellapart.trian

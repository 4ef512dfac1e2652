"""What every test may use: folders of tiny images. It also makes torch wait politely and hypothesis deterministic."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Read once, when torch loads OpenMP: on a busy machine its threads would otherwise spin while they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What the tests decode is not to be kept in the cache of whoever runs them.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tellapart-tests-")
# With --import-mode=importlib nothing else makes `tests.tolerances` importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

torch.set_num_threads(2)
settings.register_profile("tellapart", derandomize=True, deadline=None, database=None)
settings.load_profile("tellapart")

MakeFolder = Callable[..., Path]


def picture(number: int, height: int = 9, width: int = 7) -> np.ndarray:
    """Return noise, uint8 `(H, W, 3)`, another for each number."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_folder(
    root: Path, counts: Mapping[str, int], sizes: tuple[tuple[int, int], ...] = ((9, 7),), ending: str = "png"
) -> Path:
    """Write `counts[name]` different images to `root/name` for each name, which may be "train/cats"; return `root`.

    The sizes, (height, width), take turns.
    """
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            Image.fromarray(picture(number, *sizes[number % len(sizes)])).save(root / name / f"{place:03}.{ending}")
            number += 1
    return root


@pytest.fixture(scope="session")
def write_images() -> Callable[..., Path]:
    """Return `write_folder`, for fixtures of a wider scope."""
    return write_folder


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Return a function as `write_folder`, which writes below `tmp_path / "images"`."""

    def make(counts: Mapping[str, int], name: str = "images", **options: object) -> Path:
        return write_folder(tmp_path / name, counts, **options)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def image_folder(make_folder: MakeFolder) -> Path:
    """Return a folder of two classes with six images each, of different sizes."""
    return make_folder({"ant": 6, "bee": 6}, sizes=((9, 7), (12, 12), (8, 15)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield a headless Chromium; tests that ask for it skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    # One a module, not one for all: while it is open no other test can have an event loop.
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, headless=True, args=flags)
        yield opened
        opened.close()

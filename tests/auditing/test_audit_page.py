"""The page: whole in one file, safe with any name, legible on a phone and a desktop, and what it says is there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tellapart.auditing import thumbnails as thumbnails_module
from tellapart.auditing.audit import Audit, audit
from tellapart.auditing.duplicates import Pair, near_findings
from tellapart.auditing.findings import in_order, subject_of
from tellapart.auditing.page import render_page, write_page
from tellapart.auditing.thumbnails import Thumbnails
from tellapart.data.sources import ArraySource, FolderSource
from tellapart.errors import DataError
from tellapart.training.progress import Progress
from tests.browser import WEAK_CONTRAST

EVIL = "<script>alert(1)</script>"
LONG = "a_class_with_a_name_that_has_no_place_to_break_it_" * 3


def audited(root: Path) -> Audit:
    source = FolderSource(root)
    found = audit(subject_of(source, 24), Progress().task, compare=False, size_px=64)
    pairs = (Pair(0, 1, 0.97, "rescaled"), Pair(2, source.paths.index("train/ant/003.png"), 0.9, "flipped"))
    findings = in_order([*found.findings, *near_findings(found.subject, pairs)])
    return replace(found, findings=tuple(findings), near_pairs=pairs)


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory, write_images: Any) -> Audit:
    root = tmp_path_factory.mktemp("page") / "photos"
    sizes = ((120, 160), (90, 70))
    write_images(root, {"train/ant": 12, f"train/{LONG}": 11, "train/Ant": 2, "test/ant": 3}, sizes)
    (root / "train/ant/broken.png").write_bytes(b"no image")
    (root / "train/ant" / f"{EVIL.replace('/', '_')} & \x1b[31m\u202e.png").write_bytes(
        (root / "test/ant/001.png").read_bytes()
    )
    Image.new("RGB", (100, 100), (250, 250, 250)).save(root / "train/ant/blank.png")
    (root / "train/ant/really png.jpg").write_bytes((root / "train/ant/000.png").read_bytes())
    Image.fromarray(np.zeros((60, 700), np.uint8)).save(root / "train/ant/long.png")
    return audited(root)


def test_the_page_needs_nothing_else_and_runs_nothing(messy: Audit) -> None:
    page = render_page(messy)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert r"\x1b[31m\u202e" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert len(page) < 5_000_000


def test_every_finding_is_a_section_with_its_message(messy: Audit) -> None:
    page = render_page(messy)
    kinds = [finding.kind for finding in messy.findings]
    assert re.findall(r'data-kind="([a-z-]+)"', page) == kinds
    assert {"unreadable", "leak", "near-leak", "near-duplicate", "blank", "wrong-ending", "class-names"} <= set(kinds)
    for finding in messy.findings:
        assert finding.message.split("'")[0].split(":")[0] in page
    assert page.count("<rect") == 3 * 2


def test_thumbnails_are_made_once_and_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    source = ArraySource(images, list("ababab"))
    shown = Thumbnails(source, max_bytes=1)
    first = shown.uri(0)
    assert first.startswith("data:image/webp;base64,")
    assert shown.uri(1) == ""
    assert shown.uri(0) is first
    broken = ArraySource([b"x", b"y"], list("ab"))
    assert Thumbnails(broken).uri(0) == ""
    # Of the largest page: the budget, a third more as base64, and text.
    assert thumbnails_module.MAX_BYTES * 4 / 3 < 4_500_000


def test_a_page_of_numbers_and_of_nothing_wrong() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    source = ArraySource(images, np.linspace(0.0, 1.0, 30))
    found = audit(subject_of(source), Progress().task, compare=False)
    page = render_page(found)
    assert "Nothing was found that would mislead." in page
    assert "Near duplicates were not looked for." in page
    assert "<rect" not in page


def test_many_classes_show_the_first_and_the_last() -> None:
    labels = [f"class {number:03}" for number in range(100) for _ in range(3 if number < 50 else 2)]
    images = np.zeros((len(labels), 4, 4), np.uint8)
    page = render_page(audit(subject_of(ArraySource(images, labels)), Progress().task, compare=False))
    assert page.count("<rect") == 60
    assert "40 classes between the last two are left out" in page
    assert ">class 099<" in page


def test_a_page_that_cannot_be_written_is_said_and_leaves_nothing(messy: Audit, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_page(messy, tmp_path / "no" / "where.html")
    assert write_page(messy, tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light")])
def test_in_a_browser(messy: Audit, browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    file = write_page(messy, tmp_path / "page.html")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert page.locator("section[data-kind]").count() == len(messy.findings)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5"
        " && !e.closest('svg')).map(e => e.className || e.tagName)"
    )
    assert wide == []
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.images.length") > 10
    cropped = "[...document.images].filter(i => i.offsetHeight > i.parentElement.clientHeight).length"
    assert page.evaluate(cropped) == 0
    assert page.evaluate(WEAK_CONTRAST, ["p", ".soft", ".path", ".tag", ".more", ".detail", "code"]) == []
    page.close()


def test_the_keyboard_reaches_every_finding(messy: Audit, browser: Any, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(write_page(messy, tmp_path / "page.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the findings"
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#finding-1"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#finding-1"
    assert abs(page.evaluate("document.getElementById('finding-1').getBoundingClientRect().top")) < 900
    page.close()

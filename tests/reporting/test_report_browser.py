"""The report in a real browser: it opens without a word of complaint, sorts by click and by key, fits a phone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tellapart.reporting.page import render_page
from tests.reporting.made_facts import made_facts, made_ood, made_robustness

# Names of several lengths, one without a place to break it, one that looks like markup.
NAMES = ("zebra", "ant & bee", "<b>cat</b>", "a_class_with_a_name_that_has_no_place_to_break_it_at_all", "dog")
SECTIONS = ("answer", "curves", "confusion", "classes", "mistakes", "calibration", "robustness", "data", "model")
WIDTHS = (360, 1280)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of three runs, by task."""
    folder = tmp_path_factory.mktemp("reports")
    found = {
        "multiclass": made_facts(names=NAMES, n=402, skill=0.6, robustness=made_robustness(), ood=made_ood()),
        "multilabel": made_facts("multilabel", NAMES),
        "regression": made_facts("regression", ()),
    }
    return {task: _written(folder / f"{task}.html", render_page(facts)) for task, facts in found.items()}


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class Opened:
    """A page, and what it said and asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def rows(self) -> list[str]:
        """Return the class of each row of the matrix."""
        return self.page.locator("#matrix tbody th").all_inner_texts()

    def cells(self) -> list[list[str]]:
        """Return the text of the matrix, without names, totals and recall."""
        return self.page.evaluate(
            "[...document.querySelectorAll('#matrix tbody tr')].map(row => "
            "[...row.querySelectorAll('td[data-k]')].map(cell => cell.textContent))"
        )

    def close(self) -> None:
        """Close it, after it was asked for nothing and has said nothing."""
        assert self.said == []
        assert {url.partition(":")[0] for url in self.asked} <= {"file", "data"}
        self.page.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_it_opens(browser: Any, files: dict[str, Path], task: str, width: int) -> None:
    opened = Opened(browser, files[task], viewport={"width": width, "height": 900})
    page = opened.page
    found = page.evaluate("[...document.querySelectorAll('main > section')].map(section => section.id)")
    assert found == [name for name in SECTIONS if page.locator(f"#{name}").count()]
    assert len(found) == {"multiclass": 9, "multilabel": 8, "regression": 5}[task]
    for name in found:
        assert page.locator(f"section#{name} > h2").inner_text() != ""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_STICKS_OUT) == []
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.images.length") > 10
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(_WEAK_CONTRAST) == []
        papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2
    opened.close()


def test_the_matrix_sorts_by_click(browser: Any, files: dict[str, Path]) -> None:
    opened = Opened(browser, files["multiclass"])
    page = opened.page
    assert opened.rows() == list(NAMES)
    before = opened.cells()
    heads = page.locator("#matrix thead th[aria-sort]")
    heads.nth(0).locator("button").click()
    assert opened.rows() == [NAMES[i] for i in (2, 3, 1, 4, 0)]
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    # The columns follow, so what is right stays on the diagonal.
    order = [NAMES.index(name) for name in opened.rows()]
    assert opened.cells() == [[before[i][j] for j in order] for i in order]
    assert page.locator("#matrix thead th.col").all_inner_texts() == opened.rows()
    heads.nth(0).locator("button").click()
    assert heads.nth(0).get_attribute("aria-sort") == "descending"
    assert opened.rows() == [NAMES[i] for i in reversed(order)]
    heads.nth(2).locator("button").click()
    recalls = [float(text.rstrip("%")) for text in page.locator("#matrix td.recall").all_inner_texts()]
    assert recalls == sorted(recalls)
    assert heads.nth(0).get_attribute("aria-sort") == "none"
    heads.nth(1).locator("button").click()
    counts = [int(text) for text in page.locator("#matrix td.total").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    opened.close()


def test_the_matrix_sorts_and_turns_into_shares_by_key(browser: Any, files: dict[str, Path]) -> None:
    opened = Opened(browser, files["multiclass"])
    page = opened.page
    before = opened.cells()
    buttons = page.locator("[data-cells=matrix] button")
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    assert [buttons.nth(i).get_attribute("aria-pressed") for i in (0, 1)] == ["false", "true"]
    for shares, counts in zip(opened.cells(), before, strict=True):
        total = sum(map(int, counts))
        for share, count in zip(shares, counts, strict=True):
            assert float(share) == pytest.approx(100 * int(count) / total, abs=0.5)
    # The next stop of the keyboard is the matrix itself, which may have to be scrolled; then its heads.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Confusion matrix"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    order = [NAMES.index(name) for name in opened.rows()]
    assert order != [0, 1, 2, 3, 4]
    buttons.nth(0).focus()
    page.keyboard.press("Space")
    assert opened.cells() == [[before[i][j] for j in order] for i in order]
    opened.close()


def test_the_table_of_classes_sorts_what_is_not_defined_last(browser: Any, files: dict[str, Path]) -> None:
    opened = Opened(browser, files["multiclass"])
    page = opened.page
    page.evaluate("document.querySelector('#classes tbody tr').cells[3].dataset.v = ''")
    button = page.locator("#classes thead button").nth(3)
    values = "[...document.querySelectorAll('#classes tbody tr')].map(row => row.cells[3].dataset.v)"
    for is_ascending in (True, False):
        button.click()
        found = page.evaluate(values)
        assert found[-1] == ""
        numbers = [float(text) for text in found[:-1]]
        assert numbers == sorted(numbers, reverse=not is_ascending)
    opened.close()


def test_without_the_script_it_says_the_same(browser: Any, files: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["multiclass"].as_uri())
    assert page.locator("#matrix tbody th").all_inner_texts() == list(NAMES)
    assert page.locator("main > section").count() == len(SECTIONS)
    context.close()


def test_the_keyboard_skips_to_the_report_and_reaches_every_section(browser: Any, files: dict[str, Path]) -> None:
    opened = Opened(browser, files["multiclass"], viewport={"width": 390, "height": 800})
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    for name in SECTIONS:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == f"#{name}"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#model"
    opened.close()


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_a_screen_reader_finds_its_way(browser: Any, files: dict[str, Path], task: str) -> None:
    opened = Opened(browser, files[task])
    page = opened.page
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(head => Number(head.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(level <= before + 1 for before, level in pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert page.locator(f"body > {landmark}").count() == 1
    assert page.evaluate(_UNNAMED) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    wanted = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')].flatMap(e => e.getAttribute('aria-labelledby').split(' '))"
    )
    assert set(wanted) <= set(ids)
    opened.close()


def test_on_paper_there_is_no_navigation_and_nothing_is_folded(browser: Any, files: dict[str, Path]) -> None:
    opened = Opened(browser, files["multiclass"], color_scheme="dark")
    page = opened.page
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.metrics").get_attribute("open") is not None
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.metrics").get_attribute("open") is None
    assert page.pdf(format="A4").startswith(b"%PDF")
    opened.close()


# What reaches over the right edge, though it is in nothing that scrolls.
_STICKS_OUT = """
[...document.querySelectorAll('body *')].filter(element => {
  for (let e = element.parentElement; e; e = e.parentElement) {
    const overflow = getComputedStyle(e).overflowX;
    if (['auto', 'scroll', 'hidden'].includes(overflow) && e.clientWidth <= innerWidth) return false;
  }
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.right > innerWidth + 0.5 && !element.closest('svg');
}).map(element => element.className || element.tagName)
"""

# Pictures, drawings, buttons, tables that scroll and cells' heads without a name or a scope.
_UNNAMED = """
[
  ...[...document.images].filter(image => !image.alt),
  ...[...document.querySelectorAll('svg')].filter(svg => svg.getAttribute('aria-hidden') !== 'true'
    && !svg.getAttribute('aria-labelledby') && !svg.getAttribute('aria-label') && !svg.closest('[aria-hidden=true]')),
  ...[...document.querySelectorAll('button')].filter(button => !button.textContent.trim()),
  ...[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex !== 0 || !e.getAttribute('aria-label')),
  ...[...document.querySelectorAll('th')].filter(head => !head.scope),
].map(element => element.outerHTML.slice(0, 120))
"""

# WCAG 2.2, 1.4.3: the contrast of every text against what lies behind it, at least 4.5, or 3 where it is large.
# Colours that are not opaque are laid over what is behind them; a gradient counts as its first colour.
_WEAK_CONTRAST = """
(() => {
  const parse = text => { const [r, g, b, a = 1] = text.match(/[0-9.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = rgb => rgb.slice(0, 3).map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    if (!element) return parse(getComputedStyle(document.documentElement).backgroundColor)[3] ? [255, 255, 255, 1]
      : [255, 255, 255, 1];
    const style = getComputedStyle(element), color = parse(style.backgroundColor);
    const below = color[3] === 1 ? color : over(color, behind(element.parentElement));
    const first = style.backgroundImage.match(/rgba?\\([^)]*\\)/);
    return first ? over(parse(first[0]), below) : below;
  };
  const weak = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, isText = walker.currentNode.textContent.trim() !== '';
    if (!isText || !element.checkVisibility() || element.closest('script, style, title, desc')) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest('svg') ? style.fill : style.color), paper = behind(element);
    const [a, b] = [light(over(ink, paper)), light(paper)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if ((a + 0.05) / (b + 0.05) < (isLarge ? 3 : 4.5)) weak.add(`${element.tagName}.${element.className}: `
      + `${element.textContent.trim().slice(0, 30)} ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return [...weak];
})()
"""

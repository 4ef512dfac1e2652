"""The report as text: whole in one file, small, safe with any name, the same for the same run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tellapart.data.sources import ArraySource
from tellapart.data.splits import Split
from tellapart.evaluation.metrics import evaluate_predictions
from tellapart.reporting import classes, model_section, page
from tellapart.reporting.axes import STYLES, Axis, scale_of, thinned
from tellapart.reporting.charts import Bars, Chart, Line, draw
from tellapart.reporting.classes import weakest
from tellapart.reporting.confusion import MOST_CLASSES, confused_pairs, hits, most_confused
from tellapart.reporting.page import SECTIONS, render_page
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import number, percent
from tests.reporting.made_facts import NAMES, SIDE, made_facts, made_predictions, made_source, made_split

EVIL = "<script>alert(1)</script>"
HOSTILE = (
    EVIL,
    "\"><img src=x onerror='alert(1)'>",
    "a\x1b[31m\u202eb",
    "日本語 & émoji 👩‍🔬",
    "{{ 7 * 7 }}",
    "x" * 300,
)
IDS = {
    "multiclass": ["answer", "curves", "confusion", "classes", "mistakes", "calibration", "data", "model"],
    "multilabel": ["answer", "curves", "confusion", "classes", "mistakes", "calibration", "data", "model"],
    "regression": ["answer", "curves", "mistakes", "data", "model"],
}


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one number of the page that is measured while it is made."""
    monkeypatch.setattr(model_section, "latency_s", lambda classifier: 0.001)


def section_ids(text: str) -> list[str]:
    return re.findall(r'<section id="([a-z-]+)"', text)


def without_script(text: str) -> str:
    return re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_every_task_has_its_sections_in_order(task: str) -> None:
    text = render_page(made_facts(task, () if task == "regression" else NAMES))
    assert section_ids(text) == IDS[task]
    assert [href for href in re.findall(r'<a href="#([a-z-]+)">', text) if href in IDS[task]] == IDS[task]
    assert text.startswith("<!DOCTYPE html>")
    assert len(text) < 5_000_000


def test_the_page_needs_nothing_else() -> None:
    text = render_page(made_facts(names=HOSTILE))
    attributes = without_script(text)
    assert re.findall(r"""(?:src|href|action|data|poster|srcset)=["'](?!data:|#)[^"']*""", attributes) == []
    assert "@import" not in text
    assert re.findall(r"url\(", text) == []
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert text.count("<script") == 1
    assert "http://" not in text
    assert "https://" not in text


def test_names_of_strangers_are_text() -> None:
    # A classic of those who write names: a path, a class and the run itself.
    facts = replace(made_facts(names=HOSTILE, paths=(f"{EVIL}.png", "evil\x07/\u202egnp.exe")), name=EVIL)
    facts = replace(facts, source_problem=f"{EVIL} could not be opened", path=f"runs/{EVIL}")
    findings = [{"kind": "leak", "severity": "error", "message": EVIL, "advice": EVIL, "examples": [], "count": 1}]
    text = render_page(replace(facts, findings=findings))
    assert text.count("<script") == 1
    assert "onerror='" not in text
    assert "&lt;script&gt;alert(1)" in text
    for letter in ("\x1b", "\x07", "\u202e"):
        assert letter not in text
    assert r"\x1b[31m\u202eb" in text
    assert "{{ 7 * 7 }}" in text
    assert "日本語 &amp; émoji" in text


def test_the_same_run_gives_the_same_bytes() -> None:
    facts = made_facts()
    assert render_page(facts) == render_page(facts)


def test_a_run_that_lacks_what_may_be_missing() -> None:
    bare = made_facts(with_test=False, source=None, history=[], result={}, environment={}, looks=[])
    bare = replace(bare, source_problem="There are no pictures in this page: the disk is gone.")
    text = render_page(bare)
    assert section_ids(text) == [name for name in IDS["multiclass"] if name != "curves"]
    assert "the disk is gone" in text
    assert "<img" not in text
    assert "Accuracy on val" in text


def test_one_epoch_and_many() -> None:
    one, many = (render_page(made_facts(num_epochs=count)) for count in (1, 500))
    for text in (one, many):
        assert text.count('class="chart"') >= 5
        assert "NaN" not in without_script(text)
        assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", without_script(text).lower())
    curves = re.findall(r'<section id="curves".*?</section>', many, flags=re.DOTALL)[0]
    assert len(curves) < 60_000
    assert "best: 499" in curves


def test_two_classes() -> None:
    text = render_page(made_facts(names=("no", "yes")))
    assert text.count('data-k="1"') == 4  # a head, a row, two cells


def test_a_thousand_classes_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"class {k}" for k in range(1000))
    source = made_source("multiclass", names, 4000)
    many = replace(
        made_facts(), predictions={"test": made_predictions(source, np.arange(4000), skill=0.5)}, source=source
    )
    matrix = page.confusion.section(many, Pictures.of(many))
    assert matrix is not None
    assert "Of 1,000 classes, the" in matrix.html
    assert matrix.html.count("<tr") <= 1 + MOST_CLASSES
    assert len(matrix.html) < 200_000
    row = {name: 0.5 for key in classes._COLUMNS for name in (key, f"{key}_low", f"{key}_high")}
    monkeypatch.setattr(
        classes, "per_class_table", lambda table, seed: [{"class": name, "support": 4, **row} for name in names]
    )
    table = page.classes.section(many, Pictures.of(many))
    assert table is not None
    assert "850 others are left out" in table.html
    assert len(table.html) < 300_000


def test_hits_and_misses_of_several_labels() -> None:
    facts = made_facts("multilabel")
    table = facts.predictions["test"]
    truth, said = np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32)
    truth[:3, 0], said[1:, 0] = 1, 0.9
    small = replace(
        table, targets=truth, outputs=said, indices=table.indices[:4], paths=table.paths[:4], num_given=4, thresholds=()
    )
    first, *others = hits(small)
    assert first == {"name": "cat", "hits": 2, "misses": 1, "alarms": 1, "wrong": 2}
    assert [row["wrong"] for row in others] == [0, 0]


def test_without_a_mistake_there_is_no_pair() -> None:
    facts = made_facts(n=400)
    table = facts.predictions["test"]
    right = replace(table, outputs=np.eye(3, dtype=np.float32)[table.targets])
    perfect = replace(
        facts,
        predictions={**facts.predictions, "test": right},
        metrics={**facts.metrics, "test": evaluate_predictions(right)},
    )
    text = render_page(perfect)
    assert "None of the 100 test images was taken for another class." in text
    assert "Most confused" not in text


def test_the_most_confused_of_many_classes_are_shown_with_what_they_were_taken_for() -> None:
    matrix = np.diag(np.full(100, 9))
    for k in range(0, 80, 2):
        matrix[k, k + 1] = 80 - k
    shown = most_confused(matrix)
    assert shown == list(range(MOST_CLASSES))
    assert confused_pairs(matrix)[:2] == [(0, 1), (2, 3)]
    assert most_confused(matrix[:20, :20]) == list(range(20))


def test_equally_many_mistakes_are_worse_in_a_small_class() -> None:
    assert confused_pairs(np.array([[90, 10, 0], [0, 100, 0], [0, 10, 20]])) == [(2, 1), (0, 1)]


def test_the_weakest_of_many_classes_are_shown() -> None:
    rows: list[dict[str, Any]] = [{"class": str(k), "f1": (k % 7) / 7} for k in range(300)]
    rows[5]["f1"] = None
    shown = weakest(rows, 50)
    assert len(shown) == 50
    assert {row["f1"] for row in shown} == {0.0, 1 / 7}
    assert weakest(rows, 300) == rows


# --- pictures --------------------------------------------------------------------------------------------------------


def pictures(source: Any, split: Split, **more: Any) -> Pictures:
    return Pictures(source, split, made_facts().classifier.module.preprocess, **more)


def test_pictures_are_made_once_within_a_budget() -> None:
    facts = made_facts()
    shown = Pictures.of(facts)
    first = shown.uri(0)
    assert first.startswith("data:image/webp;base64,")
    assert shown.uri(0) is first
    assert shown.uri_of_path(facts.split.paths[0]) is first
    assert shown.uri(None) == shown.uri_of_path("no such image") == ""
    assert shown.is_pixelated
    small = pictures(facts.source, facts.split, max_bytes=1)
    assert small.uri(0) == first
    assert small.is_spent
    assert small.uri(1) == small.uri_of_pixels(np.zeros((3, 4, 4), np.uint8)) == ""
    assert pictures(facts.source, facts.split, max_seconds=0.0).uri(0) == ""
    assert pictures(None, facts.split).uri(0) == ""


def test_an_image_that_is_another_one_by_now_is_not_shown() -> None:
    source = made_source("multiclass", NAMES, 6)
    split = made_split(source, ["val"] * 6)
    other = made_source("multiclass", NAMES, 6, seed=5)
    assert pictures(source, split).uri(2) != ""
    assert pictures(other, split).uri(2) == ""
    files = ArraySource([b"no image", b"x", b"y"], list("aba"))
    unknown = Split(tuple(files.paths), ("a", "b", "a"), ("val",) * 3, ("",) * 3)
    assert pictures(files, unknown).uri(0) == ""
    assert pictures(files, replace(unknown, paths=("p", "q", "r"))).uri(0) == ""


def test_pixels_of_one_channel_and_of_three() -> None:
    shown = Pictures.of(made_facts())
    for channels in (1, 3):
        assert shown.uri_of_pixels(np.zeros((channels, SIDE, SIDE), np.uint8)).startswith("data:image/webp;base64,")


# --- charts ----------------------------------------------------------------------------------------------------------


def chart(*layers: Line | Bars, **more: Any) -> str:
    return draw(Chart("c", "A chart", layers, Axis("epoch", style="count"), Axis(""), "what it shows", **more))


def test_a_line_breaks_where_a_value_is_missing() -> None:
    text = chart(Line("a", [1, 2, 3, 4], [1.0, None, 3.0, float("nan")]))
    (path,) = re.findall(r'class="line " d="([^"]*)"', text)
    assert path.count("M") == 2
    assert text.count("<circle") == 2


def test_a_chart_of_one_point_and_of_none() -> None:
    text = chart(Line("a", [1], [0.5], [0.4], [0.6]))
    assert text.count("<circle") == 1
    assert 'class="band"' in text
    assert "<circle" not in chart(Line("a", [1], [None]))


def test_bars_stand_on_zero() -> None:
    text = chart(Bars("n", [0, 1, 2], [1, 3]))
    heights = [float(height) for height in re.findall(r'class="bar" [^>]*height="([0-9.]+)"', text)]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)


def test_a_chart_says_what_it_shows_to_who_cannot_see_it() -> None:
    text = chart(Line("a", [1, 2], [0.5, 0.25], [0.4, 0.2], [0.6, 0.3]))
    assert 'role="img" aria-labelledby="c-t c-d"' in text
    assert '<desc id="c-d">what it shows</desc>' in text
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", text)
    assert cells == ["epoch", "a", "a, 95% from", "to", "1", "0.500", "0.400", "0.600", "2", "0.250", "0.200", "0.300"]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.123, 0.456), (-3.0, 1e6), (5e-9, 6e-9), (2.0, 2.0)])
def test_a_scale_has_a_few_round_ticks_within_it(low: float, high: float) -> None:
    scale = scale_of(Axis(""), [low, high], 200.0, 10.0, is_x=False)
    assert 2 <= len(scale.ticks) <= 6
    assert scale.low <= low <= high <= scale.high
    assert all(10.0 <= scale(tick) <= 200.0 for tick in scale.ticks)
    texts = [STYLES["number"](tick, scale.step) for tick in scale.ticks]
    assert len(set(texts)) == len(texts)


def test_epochs_are_whole_numbers() -> None:
    scale = scale_of(Axis("epoch", style="count"), [1, 2, 3], 0.0, 100.0, is_x=True)
    assert scale.ticks == (1.0, 2.0, 3.0)


def test_thinned_keeps_ends_and_peaks() -> None:
    xs = list(range(10_000))
    ys: list[float | None] = [0.0] * 10_000
    ys[1234] = 50.0
    places = thinned(xs, ys, 100)
    assert len(places) == len(set(places)) == 100
    assert places == sorted(places)
    assert {0, 1234, 9999} <= set(places)


def test_what_is_not_defined_is_a_dash() -> None:
    assert percent(None) == percent(float("nan")) == number(None) == number(float("nan")) == "–"


def test_templates_are_packaged() -> None:
    folder = Path(page.__file__).parent / "templates"
    assert {"page.html", "style.css", "script.js", "macros.html"} <= {path.name for path in folder.iterdir()}
    assert len(SECTIONS) == 9

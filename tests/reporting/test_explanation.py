"""The page of explanations: whole in one file, safe with any name, legible at any width; and the words beside it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.errors import DataError
from tellapart.evaluation.gradcam import SpatialLayer
from tellapart.exporting.classifier import Prediction
from tellapart.reporting.explanation import Explanation, HeatMap, Neighbour, Unreadable, as_text, headline
from tellapart.reporting.explanation_page import MAX_BYTES, render_page, write_page
from tellapart.reporting.heat_pictures import PageImages, as_rows, colours, css_gradient, overlay, resized
from tests.browser import WEAK_CONTRAST

EVIL = "<script>alert(1)</script>"
LONG = "a_class_with_a_name_that_has_no_place_to_break_it_" * 2
LAYER = SpatialLayer("stages.3.1", (4, 4))
RNG = np.random.default_rng(0)


def picture(number: int, side: int = 64, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (channels, side, side), dtype=np.uint8)


def heat_map(name: str = "bee", role: str = "predicted", corner: tuple[int, int] = (0, 0), side: int = 64) -> HeatMap:
    grid = np.zeros((4, 4), np.float32)
    grid[corner] = 3.0
    return HeatMap(name, role, grid, side, LAYER)


def neighbours(*labels: str) -> tuple[Neighbour, ...]:
    return tuple(Neighbour(n, f"train/{label}/{n}.jpg", label, 0.9 - n / 100) for n, label in enumerate(labels))


def explained(label: str = "bee", prob: float = 0.8, **changes: Any) -> Explanation:
    others = {"ant": 0.6, "bee": 0.3, "cat": 0.1}
    left = {name: share for name, share in others.items() if name != label}
    scale = (1 - prob) / sum(left.values())
    probs = {label: prob} | {name: share * scale for name, share in left.items()}
    made = Explanation(
        path="photos/one.jpg",
        task="multiclass",
        prediction=Prediction(label, prob, probs),
        predicted=(label,),
        truth=None,
        is_right=None,
        picture=picture(0),
        heats=(heat_map(label),),
        neighbours=neighbours("bee", "bee", "ant"),
    )
    return replace(made, **changes)


def number(value: float = 2.5, labels: tuple[str, ...] = ("2", "3.5")) -> Explanation:
    prediction = Prediction(f"{value:g}", float("nan"), {"0": value})
    heats = (heat_map("0", "value"),)
    return explained(
        task="regression", prediction=prediction, predicted=(), heats=heats, neighbours=neighbours(*labels)
    )


@pytest.fixture(scope="module")
def messy() -> list[Explanation | Unreadable]:
    return [
        explained(truth="bee", is_right=True),
        explained("ant", truth="bee", is_right=False, heats=(heat_map("ant"), heat_map("bee", "true", (3, 3)))),
        explained(
            EVIL,
            path=f"photos/{EVIL}\x1b[31m\u202e.png",
            trained_on=(f"train/{EVIL}.png",),
            neighbours=neighbours(EVIL, LONG, LONG),
        ),
        explained(LONG, path=f"photos/{LONG * 2}.png", truth=EVIL, is_right=False),
        explained(heats=(replace(heat_map(), grid=np.zeros((4, 4), np.float32)),), neighbours=()),
        explained(picture=picture(3, channels=1), heats=()),
        replace(number(), truth="3"),
        Unreadable(f"photos/{EVIL}.png", "not an image"),
    ]


def render(images: list[Explanation | Unreadable], **arguments: Any) -> str:
    about: dict[str, Any] = {"title": "run: explained", "subtitle": "resnet18 at 64 px", "layer": LAYER}
    return render_page(images, ["No neighbours: a reason."], **{**about, **arguments})


def pictures_of(row: int) -> np.ndarray | None:
    return None if row == 1 else picture(row)


def test_the_page_needs_nothing_else(messy: list[Explanation | Unreadable]) -> None:
    page = render(messy, picture_of=pictures_of)
    assert page.count("<script>") == 1  # the frame's own, whose hash the policy has
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert r"\x1b[31m\u202e" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert len(page) < 5_000_000


def test_what_is_said_is_there(messy: list[Explanation | Unreadable]) -> None:
    page = render(messy, picture_of=pictures_of)
    assert page.count('<section id="image-') == 7
    assert "Adebayo et al. 2018" in page
    assert "stages.3.1" in page
    assert "4 by 4 places" in page
    assert "2. ant, but it is bee" in page
    assert re.search(r"upper left, \d+% of the picture holds 80% of the heat", page)
    assert "zero everywhere" in page
    assert "This very image was trained on" in page
    assert "The neighbours disagree" in page
    assert "No neighbours: a reason." in page
    assert "cannot be read: not an image" in page
    assert "no picture" in page  # of the neighbour whose file is gone
    assert 'alt="Heat over one.jpg for bee: upper left' in page


def test_pictures_end_with_the_budget_and_the_page_with_100_images() -> None:
    many: list[Explanation | Unreadable] = [explained(picture=picture(n), path=f"{n}.png") for n in range(105)]
    page = render(many, picture_of=pictures_of, max_bytes=40_000)
    assert page.count('<section id="image-') == 100
    assert "The page shows the first 100 of 105 images." in page
    shown = sum(len(found) for found in re.findall(r"base64,([^\"]+)", page))
    assert shown < 40_000 * 4 / 3 + 30_000
    # Of the largest page: the budget, a third more as base64, and text.
    assert MAX_BYTES * 4 / 3 + len(page) - shown < 4_900_000


def test_nothing_to_show_is_a_page_with_the_reasons() -> None:
    page = render([Unreadable("a.png", "not an image")], layer=None)
    assert "a.png: cannot be read: not an image" in page
    assert "How to read this" not in page


def test_a_page_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    about: dict[str, Any] = {"title": "t", "subtitle": "s", "layer": LAYER}
    with pytest.raises(DataError, match="cannot be written"):
        write_page(tmp_path / "no" / "where.html", [explained()], [], **about)
    write_page(tmp_path / "page.html", [explained()], [], **about)
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# --- words -----------------------------------------------------------------------------------------------------------


def test_headlines() -> None:
    assert headline(explained()) == "bee 80.0%"
    assert headline(explained(truth="bee", is_right=True)) == "bee 80.0% (right)"
    assert headline(explained(truth="ant", is_right=False)) == "bee 80.0% (wrong: it is ant)"
    assert headline(number()) == "2.5"
    assert headline(replace(number(), truth="3")) == "2.5 (true: 3)"
    several = explained(task="multilabel", predicted=("bee", "ant"))
    assert headline(several) == "bee 80.0%, ant 17.1%"
    assert headline(replace(several, predicted=(), truth="", is_right=True)) == "none of the classes (right)"
    assert headline(replace(several, truth="", is_right=False)) == "bee 80.0%, ant 17.1% (wrong: it is none)"


@pytest.mark.parametrize(
    ("labels", "agrees"),
    [
        (("bee",), True),
        (("bee", "bee", "ant"), True),
        (("bee", "ant"), False),
        (("ant", "cat", "ant"), False),
        ((), True),
    ],
)
def test_neighbours_that_disagree(labels: tuple[str, ...], agrees: bool) -> None:
    found = explained(neighbours=neighbours(*labels)).remarks()
    assert (found == []) == agrees
    if labels == ("ant", "cat", "ant"):
        assert found == [
            "The neighbours disagree: 0 of the 3 nearest training images are of what was predicted; most of the others "
            "are 'ant'."
        ]


def test_neighbours_with_several_labels_or_none() -> None:
    several = explained(task="multilabel", predicted=("bee",), neighbours=neighbours("ant|bee", "bee"))
    assert several.remarks() == []
    assert "disagree" in replace(several, neighbours=neighbours("ant|cat", "")).remarks()[0]
    nothing = replace(several, predicted=(), neighbours=neighbours("", ""))
    assert nothing.remarks() == []
    assert "'ant'" in replace(nothing, neighbours=neighbours("ant", "")).remarks()[0]


def test_numbers_beyond_their_neighbours() -> None:
    assert number().remarks() == []
    assert number(9.0).remarks() == [
        "The prediction, 9, lies outside of what the nearest training images have: 2 to 3.5."
    ]
    assert number(labels=("odd", "2")).remarks() == []
    assert number(labels=()).remarks() == []


def test_the_terminal() -> None:
    lines = as_text(explained(truth="ant", is_right=False)).splitlines()
    assert lines[0] == "photos/one.jpg: bee 80.0% (wrong: it is ant)"
    assert re.fullmatch(r"  looks for 'bee' at: upper left, \d+% of the picture holds 80% of the heat", lines[1])
    assert lines[2] == "  nearest training images: 2 bee, 1 ant"
    assert lines[3] == "     0.90  bee  train/bee/0.jpg"
    cold = explained(heats=(replace(heat_map(), grid=np.zeros((4, 4), np.float32)),))
    assert "zero everywhere" in as_text(cold)
    assert "looks for" not in as_text(cold)
    assert as_text(Unreadable("a\x1b.png", "b\n")) == r"a\x1b.png: cannot be read: b\n"
    assert "\x1b" not in as_text(explained(path="a\x1b[2J.png", trained_on=("\x1b",), neighbours=neighbours("\x1b")))
    assert all(len(line) <= 80 for line in as_text(explained("ant", trained_on=("train/x.png",))).splitlines())


def test_the_grid_in_json_is_scaled() -> None:
    described = heat_map(corner=(2, 1)).as_dict()
    assert described["grid"][2] == [0.0, 1.0, 0.0, 0.0]
    assert described["place"] == "centre"
    assert 0 < described["area_share"] < 0.3
    cold = replace(heat_map(), grid=np.full((4, 4), np.nan, np.float32)).as_dict()
    assert cold["place"] is None
    assert cold["grid"] == [[0.0] * 4] * 4


# --- pictures --------------------------------------------------------------------------------------------------------


def test_colours_rise_in_lightness() -> None:
    """CIE 1976 L*, which is how light people see a colour, whatever hues they see."""
    shown = colours(np.linspace(0, 1, 101)).astype(float) / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(light > 0.008856, 116 * np.cbrt(light) - 16, 903.3 * light)
    steps = np.diff(lightness)
    assert (steps > 0).all()
    assert lightness[-1] - lightness[0] > 90
    assert steps.max() < 2.5 * steps.mean()
    assert css_gradient().startswith("linear-gradient(to right, #000004, ")


def test_colours_are_those_of_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    places = np.linspace(0, 1, 256)
    expected = 255 * matplotlib.colormaps["magma"](places)[:, :3]
    assert np.abs(colours(places) - expected).max() < 3.5


@given(st.integers(1, 70), st.integers(16, 80))
def test_sizes_of_pictures(side: int, wanted: int) -> None:
    shown = resized(as_rows(picture(side, side)), wanted)
    assert shown.shape[0] == shown.shape[1]
    assert shown.shape[0] <= max(wanted, side)
    if side <= wanted:
        assert shown.shape[0] % side == 0
        np.testing.assert_array_equal(
            shown[:: shown.shape[0] // side, :: shown.shape[0] // side], as_rows(picture(side, side))
        )


def test_an_overlay_is_light_where_it_is_hot() -> None:
    grey = np.full((8, 8, 3), 128, np.uint8)
    warm = np.zeros((8, 8))
    warm[:, 4:] = 1.0
    shown = overlay(grey, warm).astype(int).sum(-1)
    assert shown[:, 4:].min() > shown[:, :4].max() + 300
    assert overlay(grey, warm).dtype == np.uint8
    one, other = overlay(np.zeros_like(grey), warm), overlay(grey, warm)
    assert (one != other).any()  # the picture shows through


def test_pictures_are_made_until_the_budget_is_spent() -> None:
    images = PageImages(1)
    assert images.uri(None) == ""
    assert images.uri(as_rows(picture(0))).startswith("data:image/webp;base64,")
    assert images.uri(as_rows(picture(0))) == ""


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")])
def test_in_a_browser(
    messy: list[Explanation | Unreadable], browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "page.html"
    file.write_text(render(messy, picture_of=pictures_of), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5"
        " && !e.closest('svg')).map(e => e.className || e.tagName)"
    )
    assert wide == []
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.images.length") > 15
    assert page.evaluate("[...document.images].every(image => image.alt.length > 10)")
    assert page.locator("section[id^=image-]").count() == 7
    assert page.evaluate("document.querySelectorAll('.x-bars rect').length") > 10
    narrow = page.evaluate("Math.min(...[...document.querySelectorAll('.x-bars svg')].map(s => s.clientWidth))")
    assert narrow > 60
    names = ["p", ".soft", ".path", ".tag", "figcaption", "small", ".other", ".x-remarks li", "code"]
    assert page.evaluate(WEAK_CONTRAST, names) == []
    page.close()


def test_the_keyboard_reaches_every_image(messy: list[Explanation | Unreadable], browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(render(messy), encoding="utf-8")
    page = browser.new_page(viewport={"width": 360, "height": 900})
    page.goto(file.as_uri())
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#image-1"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#image-1"
    page.close()

"""Harder images in the report: every number in its place, losses coloured, and what is damaged left out."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from tellapart.reporting import robustness
from tellapart.reporting.page import render_page
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.robustness import is_ood, is_robustness
from tests.reporting.made_facts import made_facts, made_ood, made_robustness, made_share

EVIL = "<script>alert(1)</script>\x1b[31m"


def html_of(**fields: Any) -> str:
    facts = made_facts(**fields)
    section = robustness.section(facts, Pictures.of(facts))
    assert section is not None
    assert (section.id, section.title) == ("robustness", "On harder images")
    return " ".join(str(section.html).split())


def test_nobody_asked() -> None:
    facts = made_facts()
    assert robustness.section(facts, Pictures.of(facts)) is None


def test_every_accuracy_is_in_its_cell() -> None:
    html = html_of(robustness=made_robustness())
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", html)
    cells = {name: re.findall(r"<td[^>]*>([^<]*)", row) for name, row in rows}
    assert list(cells) == ["Gaussian noise", "JPEG", "mean of all"]
    # Without corruption, the five strengths, their mean.
    assert cells["Gaussian noise"] == ["90.0", "90.0", "80.0", "60.0", "30.0", "0.0", "52.0% "]
    assert cells["JPEG"] == ["90.0", "90.0", "90.0", "92.0", "90.0", "90.0", "90.4% "]
    assert cells["mean of all"] == ["90.0", "", "71.2% "]
    assert "50.0% to 54.0%" in rows[0][1]
    assert "As they are, 90.0% of 60 test images are right (88.0% to 92.0%)" in html
    assert "71.2% are right on average (69.2% to 73.2%)" in html
    assert "suffers most from Gaussian noise: 52.0% on average, 0.0% at the strongest" in html
    assert "not the mean corruption error (mCE)" in html
    assert "over 2 of the 15 corruptions" in html
    assert "Images of something else" not in html


def test_a_cell_is_the_stronger_the_more_is_lost() -> None:
    html = html_of(robustness=made_robustness())
    noise, jpeg = (re.findall(r'<td class="m"( style="[^"]*")?', row) for row in html.split("<tr>")[2:4])
    # The roots of the lost ninths 0, 1, 3, 6 and 9.
    assert noise == ["", *(f' style="--h:{heat}"' for heat in (".33", ".58", ".82", "1.00"))]
    # What is gained has no colour either.
    assert jpeg == [""] * 5


def test_where_nothing_is_right_nothing_is_lost() -> None:
    none = made_robustness(clean=made_share(0.0))
    for kind in none["corruptions"].values():
        kind["strengths"] = [{"strength": k, **made_share(0.0)} for k in range(1, 6)]
    assert "--h" not in html_of(robustness=none)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 20, "is_drawn": True}, "20 of 60 test images (drawn by the seed) are right"),
        ({"n": 59}, "59 of 60 test images (all that could be read) are right"),
        ({"split": "new", "data": "new"}, "60 images of new are right"),
        ({"split": "val"}, "those of val, which chose the weights"),
        ({"tta": "flip"}, "the mean over several views of the image (--tta flip)"),
    ],
)
def test_which_images_they_were(changes: dict[str, Any], words: str) -> None:
    assert words in html_of(robustness=made_robustness(**changes))
    assert words not in html_of(robustness=made_robustness())


def test_the_unknown_in_words_and_numbers() -> None:
    html = html_of(ood=made_ood())
    assert "Asked to tell 40 images of insects from 60 of test by the largest probability" in html
    assert "in 90.0% of all pairs (88.0% to 92.0%)" in html
    assert "lets 25.0% of the others through (15.0% to 35.0%)" in html
    assert "guessing" not in html
    assert 'class="warning"' not in html
    cells = re.findall(r'<th scope="row">([a-z ]+)</th><td>([\d.]+)<small>(.*?)</small></td><td>([\d.]+)%', html)
    assert cells == [
        ("largest probability", "0.900", "0.880 to 0.920", "25.0"),
        ("largest logit", "0.910", "0.890 to 0.930", "25.0"),
        ("energy", "0.920", "0.900 to 0.940", "25.0"),
    ]
    assert 'id="corruptions"' not in html


def test_a_score_of_one_label_and_what_speaks_against_it() -> None:
    def of(area: float, **changes: Any) -> str:
        scores = {"max_logit": {"auroc": made_share(area), "fpr95": made_share(0.9), "threshold": 1.0}}
        return html_of(ood=made_ood(scores=scores, **changes))

    assert "by the largest logit" in of(0.9)
    assert "cannot be told from guessing" in of(0.51)
    assert "worse than guessing" in of(0.3)
    assert "are 3 that the run was trained on" in of(0.9, num_trained_on=3)
    assert "2 of them could not be read" in of(0.9, num_given=42)


def test_intervals_that_lack() -> None:
    open_ended = {"value": 0.5, "low": None, "high": None}
    score = {"auroc": open_ended, "fpr95": open_ended, "threshold": 1.0}
    html = html_of(ood=made_ood(scores={"energy": score}), robustness=made_robustness(mean=open_ended))
    assert "None" not in html
    assert "nan" not in html.replace("dominant", "")


def test_names_of_strangers_are_text() -> None:
    kinds = {EVIL: made_robustness()["corruptions"]["jpeg"]}
    harder = made_robustness(split=EVIL, data=EVIL, parameters=EVIL, tta=EVIL, corruptions=kinds)
    others = made_ood(known=EVIL, data=EVIL, tta=EVIL, num_trained_on=1, num_given=50)
    text = render_page(made_facts(robustness=harder, ood=others))
    assert text.count("<script") == 1
    assert "\x1b" not in text


def spoilt(whole: dict[str, Any]) -> list[Any]:
    """Return copies of plain JSON in each of which one value, at any depth, is gone or of another kind."""
    found = []

    def walk(place: tuple[Any, ...], value: Any) -> None:
        for wrong in (None, "x", -7, [], {}, float("nan")):
            changed = copy.deepcopy(whole)
            at = changed
            for key in place[:-1]:
                at = at[key]
            at[place[-1]] = wrong
            found.append(changed)
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, each in inner:
            walk((*place, key), each)

    for key, value in whole.items():
        walk((key,), value)
    return found


def test_what_counts_as_whole_can_be_shown_and_the_rest_is_refused() -> None:
    facts = made_facts()
    pictures = Pictures.of(facts)
    for name, is_whole, whole in (
        ("robustness", is_robustness, made_robustness()),
        ("ood", is_ood, made_ood()),
    ):
        assert is_whole(whole)
        assert not is_whole({})
        judged = [(is_whole(each), each) for each in spoilt(whole)]
        assert {verdict for verdict, _ in judged} == {True, False}
        for verdict, each in judged:
            if verdict:
                shown = made_facts(**{name: each})
                assert robustness.section(shown, pictures) is not None
        required = ("n", "num_given", "data" if name == "ood" else "split")
        for key in required:
            assert not is_whole({inner: value for inner, value in whole.items() if inner != key})

"""The galleries: the right images in the right order, with what was said of them, for every task."""

from __future__ import annotations

import base64
import io
import re
import sys
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tellapart.auditing.label_suspects import find_label_suspects
from tellapart.evaluation.predictions import Predictions
from tellapart.reporting import gallery
from tellapart.reporting.gallery import (
    MOST_SHOWN,
    chance,
    largest_errors,
    least_confident_hits,
    most_confident_mistakes,
    most_wrong_labels,
    narrowest_hits,
    no_mistakes,
)
from tellapart.reporting.pictures import Pictures
from tests.reporting.made_facts import made_facts

EVIL = '<script>alert("1")</script>'


def table(task: str, outputs: Any, targets: Any, **more: Any) -> Predictions:
    outputs = np.array(outputs, np.float32)
    n, k = outputs.shape
    kind = np.int64 if task == "multiclass" else np.float32
    names = tuple("abcdef"[:k])
    paths = [f"{row}.png" for row in range(n)]
    return Predictions(task, names, np.arange(n), paths, np.array(targets, kind), outputs, n, **more)


def test_mistakes_by_confidence_and_hits_by_lack_of_it() -> None:
    probs = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55], [0.5, 0.5], [0.01, 0.99]]
    predictions = table("multiclass", probs, [1, 0, 0, 1, 1, 1])
    # 0 says a at 90%, 2 says b at 80%, 4 is a tie, which goes to a.
    assert most_confident_mistakes(predictions).tolist() == [0, 2, 4]
    assert least_confident_hits(predictions).tolist() == [3, 1, 5]


def test_equally_confident_ones_keep_their_order() -> None:
    predictions = table("multiclass", [[0.3, 0.7]] * 5, [0, 1, 0, 1, 0])
    assert most_confident_mistakes(predictions).tolist() == [0, 2, 4]
    assert least_confident_hits(predictions).tolist() == [1, 3]


def test_the_most_wrong_label_decides() -> None:
    probs = [[0.9, 0.1, 0.2], [0.6, 0.4, 0.1], [0.7, 0.7, 0.01], [0.45, 0.2, 0.1]]
    targets = [[1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]]
    predictions = table("multilabel", probs, targets)
    # 2 misses c by 0.99; 1 has a too many by 0.6; right are 3, whose a is 0.05 below its threshold, and 0.
    assert most_wrong_labels(predictions).tolist() == [2, 1]
    assert narrowest_hits(predictions).tolist() == [3, 0]
    moved = replace(predictions, thresholds=(0.4, 0.5, 0.5))
    assert most_wrong_labels(moved).tolist() == [2, 1, 3]


def test_the_largest_errors_first_each_number_by_its_spread() -> None:
    predictions = table("regression", [[1.0, 100], [2.0, 300], [5.0, 250]], [[1, 100], [2, 200], [3, 300]])
    # 100 is 1.22 standard deviations of the second number, 2 is 2.45 of the first.
    assert largest_errors(predictions).tolist() == [2, 1, 0]


def test_no_mistakes_says_what_that_proves() -> None:
    # 1 - 1 / (1 + z^2 / n), Wilson's upper end for none of 100.
    assert "fewer than 3.7% of such images" in no_mistakes(100, "test")
    facts = made_facts(skill=1.0)
    html = str(gallery.section(facts, Pictures.of(facts)).html)  # pyright: ignore[reportOptionalMemberAccess]
    assert "No mistakes among 60 images of test" in html
    assert "The most confident mistakes" not in html


@pytest.mark.parametrize(("prob", "words"), [(1.0, "over 99.9%"), (0.9994, "99.9%"), (0.0, "under 0.1%")])
def test_a_chance_is_never_certain(prob: float, words: str) -> None:
    assert chance(prob) == words


def shown(html: str, group: str) -> list[str]:
    """Return the HTML of each card of a group."""
    part = html.split(f'<h3 id="{group}">')[1].split("<h3")[0]
    return re.findall(r"<figure class=\"shot\">.*?</figure>", part, re.DOTALL)


def pixels_of(card: str) -> np.ndarray:
    encoded = re.findall(r'src="data:image/\w+;base64,([^"]+)"', card)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[0]))).convert("RGB")).astype(float)


def test_the_pictures_are_those_of_the_images_named() -> None:
    facts = made_facts(n=240)
    section = gallery.section(facts, Pictures.of(facts))
    assert section is not None
    assert section.id == "mistakes"
    assert facts.source is not None
    assert facts.source.images is not None
    predictions = facts.predictions["test"]
    cards = shown(str(section.html), "most-confident")
    wanted = most_confident_mistakes(predictions)[:MOST_SHOWN]
    assert len(cards) == len(wanted) > 5
    for card, place in zip(cards, wanted, strict=True):
        pixels = pixels_of(card)
        distances = np.abs(facts.source.images.astype(float) - pixels).mean(axis=(1, 2, 3))
        assert distances.argmin() == predictions.indices[place]
        probs = predictions.outputs[place]
        first, label = predictions.classes[probs.argmax()], predictions.classes[predictions.targets[place]]
        alt = re.findall(r'alt="([^"]+)"', card)[0]
        assert (
            alt == f"{predictions.paths[place]}: labelled {label}, predicted {first} with {chance(float(probs.max()))}"
        )
        assert re.findall(r'class="prob">([^<]+)<', card) == [
            chance(float(probs.max())),
            chance(float(probs[predictions.targets[place]])),
        ]
    stated = [float(re.findall(r'class="prob">([\d.]+)%', card)[0]) for card in cards]
    assert stated == sorted(stated, reverse=True)


def test_the_suspects_are_those_of_the_judged_split_and_none_is_shown_twice() -> None:
    facts = made_facts(n=800, skill=0.5)
    html = str(gallery.section(facts, Pictures.of(facts)).html)  # pyright: ignore[reportOptionalMemberAccess]
    predictions = facts.predictions["test"]
    path_of = dict(zip(predictions.indices.tolist(), predictions.paths, strict=True))
    suspects = [path_of[suspect.row] for suspect in find_label_suspects(predictions)]
    mistakes = [re.findall(r'class="path">([^<]+)<', card)[0] for card in shown(html, "most-confident")]
    doubted = [re.findall(r'class="path">([^<]+)<', card)[0] for card in shown(html, "label-suspects")]
    assert len(suspects) > MOST_SHOWN
    assert doubted == [path for path in suspects if path not in mistakes][:MOST_SHOWN]
    assert f"{len(suspects):,} images of 200 of test have a label that the probabilities contradict" in html
    marked = [path for path, card in zip(mistakes, shown(html, "most-confident"), strict=True) if "in doubt" in card]
    assert marked == [path for path in mistakes if path in suspects]


def test_without_cleanlab_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    facts = made_facts()
    html = str(gallery.section(facts, Pictures.of(facts)).html)  # pyright: ignore[reportOptionalMemberAccess]
    assert "cleanlab is not installed" in html
    assert shown(html, "most-confident")


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_names_of_strangers_are_words(task: str) -> None:
    names = (EVIL, "\u202egpj", "a|b")
    facts = made_facts(task, names, skill=0.5, paths=tuple(f"{EVIL}\x1b[2J{n}.png" for n in range(120)))
    section = gallery.section(facts, Pictures.of(facts))
    assert section is not None
    html = str(section.html)
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert r"\x1b[2J" in unescape(html)
    assert f"{EVIL}" in unescape(html)


def test_without_the_images_they_are_named() -> None:
    facts = made_facts(source=None)
    html = str(gallery.section(facts, Pictures.of(facts)).html)  # pyright: ignore[reportOptionalMemberAccess]
    assert "<img" not in html
    assert "no longer to be had" in html
    assert facts.predictions["test"].paths[most_confident_mistakes(facts.predictions["test"])[0]] in html


def test_numbers_have_their_own_form() -> None:
    facts = made_facts("regression")
    section = gallery.section(facts, Pictures.of(facts))
    assert section is not None
    assert section.title == "The largest errors"
    html = str(section.html)
    predictions = facts.predictions["test"]
    drawn = re.findall(r"M[\d.]+ [\d.]+h0", html.split('class="points"')[1])
    assert len(drawn) == len(predictions)
    first = largest_errors(predictions)[0]
    assert predictions.paths[first] in shown(html, "largest-errors")[0]
    middle = float(np.median(np.abs(predictions.outputs - predictions.targets)))
    assert f"off by no more than {middle:.4g}" in html


def test_several_labels_name_the_one_furthest_off() -> None:
    facts = made_facts("multilabel", skill=0.3)
    html = str(gallery.section(facts, Pictures.of(facts)).html)  # pyright: ignore[reportOptionalMemberAccess]
    predictions = facts.predictions["test"]
    place = most_wrong_labels(predictions)[0]
    is_wrong = predictions.predicted()[place] != (predictions.targets[place] > 0)
    distance = np.where(is_wrong, np.abs(predictions.outputs[place] - predictions.targets[place]), -1)
    chosen = int(distance.argmax())
    who = "missed" if predictions.targets[place][chosen] else "too many"
    assert re.search(rf'{who}</span> <span class="prob">', shown(html, "most-confident")[0])
    assert f'<b title="{predictions.classes[chosen]}">' in shown(html, "most-confident")[0]


def test_one_image_and_none() -> None:
    facts = made_facts()
    one = table("multiclass", [[0.2, 0.5, 0.3]], [1])
    shown_one = gallery.section(replace(facts, predictions={"val": one}), Pictures.of(facts))
    assert shown_one is not None
    assert "No mistakes among 1 image of val" in str(shown_one.html)
    none = replace(one, indices=one.indices[:0], paths=[], targets=one.targets[:0], outputs=one.outputs[:0])
    assert gallery.section(replace(facts, predictions={"val": none}), Pictures.of(facts)) is None

"""The images behind the number: sure and wrong, right by a hair, and those whose labels are in doubt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tellapart.auditing.findings import counted, printable, share, verb
from tellapart.auditing.label_suspects import find_label_suspects
from tellapart.errors import MissingError
from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.predictions import THRESHOLD, Predictions
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.figures import scatter_chart
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, number, render

MOST_SHOWN = 12
_MOST_DRAWN = 4
_SHORT = 9
# Below this a network doubts so many labels that most of its doubts are its own fault.
_WEAK_ACCURACY = 0.9


def chance(prob: float) -> str:
    """Return a probability that is never rounded to nothing or to certainty.

    >>> chance(0.9732), chance(0.99999), chance(0.0)
    ('97.3%', 'over 99.9%', 'under 0.1%')
    """
    if prob < 0.0005:
        return "under 0.1%"
    return "over 99.9%" if prob >= 0.9995 else f"{prob:.1%}"


@dataclass(frozen=True)
class Words:
    """One line below a picture: who says it, what, how probable it is, and whether it is `wrong`, `right` or plain."""

    who: str
    what: str
    prob: float | None = None
    kind: str = ""

    @property
    def chance(self) -> str:
        """The probability in words."""
        return "" if self.prob is None else chance(self.prob)

    @property
    def is_short(self) -> bool:
        """Whether all of it fits on a line below a small picture."""
        return self.prob is None and len(self.what) <= _SHORT


@dataclass(frozen=True)
class Card:
    """A picture and what is said of it."""

    uri: str
    alt: str
    path: str
    words: tuple[Words, ...]


@dataclass(frozen=True)
class Group:
    """Pictures that belong together; `text` stands above them, and alone where there are none."""

    id: str
    title: str
    text: str
    cards: tuple[Card, ...] = ()


def section(facts: RunFacts, pictures: Pictures) -> Section | None:
    """Return the galleries of the split that the answer is of, in the form that fits the task; None where it is empty.

    Nothing in it comes from images that were trained on.
    """
    predictions = facts.predictions.get(facts.judged_on)
    if predictions is None or not len(predictions):
        return None
    title, groups, charts = _FORMS[predictions.task](predictions.sorted_by_index(), pictures, facts.judged_on)
    html = render("gallery.html", groups=groups, charts=charts, has_pictures=pictures.source is not None)
    return Section("mistakes", title, html)


Form = tuple[str, list[Group], list[Any]]


def _multiclass(predictions: Predictions, pictures: Pictures, split: str) -> Form:
    suspects = _found_suspects(predictions)
    mistakes = most_confident_mistakes(predictions)
    groups = [_mistakes(predictions, pictures, split, mistakes, suspects)]
    places = least_confident_hits(predictions)[:MOST_SHOWN]
    if len(places):
        text = "Right, and less sure of it than of any other: what lies at the border of what it knows."
        cards = tuple(_class_card(predictions, place, pictures) for place in places)
        groups.append(Group("least-confident", "The least confident correct ones", text, cards))
    groups.append(_suspects(predictions, pictures, split, suspects, mistakes[:MOST_SHOWN]))
    return "Mistakes and doubts", groups, []


def _mistakes(
    predictions: Predictions, pictures: Pictures, split: str, places: np.ndarray, suspects: list[int] | str
) -> Group:
    n, doubted = len(predictions), set(suspects) if isinstance(suspects, list) else set()
    name, title = "most-confident", "The most confident mistakes"
    if not len(places):
        return Group(name, "No mistakes", no_mistakes(n, split))
    text = (
        f"{len(places):,} of {counted(n, 'image')} of {split} {verb(len(places), 'was', 'were')} given another class "
        f"than {verb(len(places), 'its', 'their')} label, {share(len(places), n)}. These are those it was surest of: "
        "either the label is wrong, or the network has learnt something that is."
    )
    return Group(
        name,
        title,
        text,
        tuple(
            _class_card(predictions, place, pictures, is_doubted=int(place) in doubted) for place in places[:MOST_SHOWN]
        ),
    )


def no_mistakes(n: int, split: str) -> str:
    """Return what it proves that none of `n` images was wrong.

    >>> no_mistakes(180, "val").split(". ")[1]
    'With 95% confidence it proves no more than that fewer than 2.1% of such images go wrong'
    """
    high = wilson(0, n)[1]
    return (
        f"No mistakes among {counted(n, 'image')} of {split}. With 95% confidence it proves no more than that fewer "
        f"than {high:.1%} of such images go wrong. More test images would narrow that."
    )


def most_confident_mistakes(predictions: Predictions) -> np.ndarray:
    """Return the places of the images that are given a wrong class, int64, the most probable mistakes first."""
    predicted = predictions.predicted()
    wrong = np.flatnonzero(predicted != predictions.targets)
    return wrong[np.argsort(-predictions.outputs[wrong, predicted[wrong]], kind="stable")]


def least_confident_hits(predictions: Predictions) -> np.ndarray:
    """Return the places of the images that are given their own class, int64, the least probable first."""
    predicted = predictions.predicted()
    right = np.flatnonzero(predicted == predictions.targets)
    return right[np.argsort(predictions.outputs[right, predicted[right]], kind="stable")]


def _class_card(predictions: Predictions, place: int, pictures: Pictures, *, is_doubted: bool = False) -> Card:
    """Return an image with its label, what was predicted, and, where that is right, what came second."""
    probs, target = predictions.outputs[place], int(predictions.targets[place])
    order = np.argsort(-probs, kind="stable")
    # Ties go to the lower class, as in `predicted`.
    first = int(probs.argmax())
    names = [printable(name) for name in predictions.classes]
    if first == target and len(order) < 2:
        words = (Words("predicted", names[first], float(probs[first]), "right"),)
    elif first == target:
        second = next(int(k) for k in order if k != first)
        words = (
            Words("predicted", names[first], float(probs[first]), "right"),
            Words("next", names[second], float(probs[second])),
        )
    else:
        words = (
            Words("predicted", names[first], float(probs[first]), "wrong"),
            Words("label, in doubt" if is_doubted else "label", names[target], float(probs[target])),
        )
    path = printable(predictions.paths[place])
    alt = f"{path}: labelled {names[target]}, predicted {names[first]} with {chance(float(probs[first]))}"
    return Card(pictures.uri_of_path(predictions.paths[place]), alt, path, words)


def _found_suspects(predictions: Predictions) -> list[int] | str:
    """Return the places of the images whose labels are in doubt, the most doubtful first, or why that is not known."""
    try:
        found = find_label_suspects(predictions)
    except MissingError:
        return "Labels were not doubted: cleanlab is not installed (pip install 'tellapart[audit]')."
    except ValueError as error:
        return f"Labels could not be doubted: {printable(str(error))}"
    place_of = {int(index): place for place, index in enumerate(predictions.indices)}
    return [place_of[suspect.row] for suspect in found]


def _suspects(
    predictions: Predictions, pictures: Pictures, split: str, found: list[int] | str, shown: np.ndarray
) -> Group:
    """Return the images with doubtful labels, less those `shown` already, or a sentence where there are none."""
    name, title, n = "label-suspects", "Doubtful labels", len(predictions)
    if isinstance(found, str):
        return Group(name, title, found)
    if not found:
        return Group(name, title, f"The probabilities contradict none of the {n:,} labels of {split}.")
    text = (
        f"{counted(len(found), 'image')} of {n:,} of {split} {verb(len(found), 'has', 'have')} a label that the "
        "probabilities contradict, by confident learning. Look at each: what is hard is not all mislabelled."
    )
    if predictions.task == "multiclass" and _accuracy(predictions) < _WEAK_ACCURACY:
        text += " A network that is wrong as often as this one doubts many labels that are right."
    before = set(shown.tolist())
    rest = [place for place in found if place not in before]
    if len(rest) < len(found):
        count = len(found) - len(rest)
        text += f" {count:,} of them {verb(count, 'stands', 'stand')} among the mistakes above" + (
            "; these are the most doubtful of the others." if rest else "."
        )
    make = _class_card if predictions.task == "multiclass" else _labels_card
    return Group(name, title, text, tuple(make(predictions, place, pictures) for place in rest[:MOST_SHOWN]))


def _accuracy(predictions: Predictions) -> float:
    return float((predictions.predicted() == predictions.targets).mean())


# --- several labels an image -----------------------------------------------------------------------------------------


def _multilabel(predictions: Predictions, pictures: Pictures, split: str) -> Form:
    n, places = len(predictions), most_wrong_labels(predictions)
    shown = places[:MOST_SHOWN]
    if len(places):
        text = (
            f"{len(places):,} of {counted(n, 'image')} of {split} {verb(len(places), 'has', 'have')} a label too many "
            f"or too few, {share(len(places), n)}. These are those whose most wrong label is the furthest off."
        )
        cards = tuple(_labels_card(predictions, place, pictures) for place in shown)
        groups = [Group("most-confident", "The most wrong labels", text, cards)]
    else:
        groups = [Group("most-confident", "No mistakes", no_mistakes(n, split))]
    places = narrowest_hits(predictions)[:MOST_SHOWN]
    if len(places):
        text = "Every label right, and one of them by a narrow margin."
        cards = tuple(_labels_card(predictions, place, pictures) for place in places)
        groups.append(Group("least-confident", "The least confident correct ones", text, cards))
    doubts = _suspects(predictions, pictures, split, _found_suspects(predictions), shown)
    return "Mistakes and doubts", [*groups, doubts], []


def most_wrong_labels(predictions: Predictions) -> np.ndarray:
    """Return the places of the images with any label wrong, int64, that with the most wrong label first."""
    targets = predictions.targets > 0
    is_wrong = predictions.predicted() != targets
    distance = np.where(is_wrong, np.abs(targets - predictions.outputs), -1.0).max(axis=1, initial=-1.0)
    wrong = np.flatnonzero(is_wrong.any(axis=1))
    return wrong[np.argsort(-distance[wrong], kind="stable")]


def narrowest_hits(predictions: Predictions) -> np.ndarray:
    """Return the places of the images with every label right, int64, that with the narrowest margin first."""
    margin = np.abs(predictions.outputs - _thresholds(predictions)).min(axis=1, initial=1.0)
    right = np.flatnonzero((predictions.predicted() == (predictions.targets > 0)).all(axis=1))
    return right[np.argsort(margin[right], kind="stable")]


def _thresholds(predictions: Predictions) -> np.ndarray:
    return np.array(predictions.thresholds or THRESHOLD, np.float64)


def _labels_card(predictions: Predictions, place: int, pictures: Pictures) -> Card:
    """Return an image with its labels, those predicted, and the one that is furthest off, or nearest to being so."""
    probs, targets = predictions.outputs[place], predictions.targets[place] > 0
    predicted = predictions.predicted()[place]
    is_wrong = predicted != targets
    if is_wrong.any():
        chosen = int(np.where(is_wrong, np.abs(targets - probs), -1.0).argmax())
    else:
        chosen = int(np.abs(probs - _thresholds(predictions)).argmin())
    names = [printable(name) for name in predictions.classes]
    had, given = _listed(names, targets), _listed(names, predicted)
    who = "missed" if is_wrong[chosen] and targets[chosen] else "too many" if is_wrong[chosen] else "nearest"
    words = (
        Words("labels", had),
        Words("predicted", given),
        Words(who, names[chosen], float(probs[chosen]), "wrong" if is_wrong[chosen] else "right"),
    )
    path = printable(predictions.paths[place])
    alt = f"{path}: labelled {had}, predicted {given}; {names[chosen]} with {chance(float(probs[chosen]))}"
    return Card(pictures.uri_of_path(predictions.paths[place]), alt, path, words)


def _listed(names: Sequence[str], chosen: Iterable[bool]) -> str:
    return ", ".join(name for name, is_set in zip(names, chosen, strict=True) if is_set) or "none"


# --- numbers ---------------------------------------------------------------------------------------------------------


def _regression(predictions: Predictions, pictures: Pictures, split: str) -> Form:
    errors = np.abs(predictions.outputs.astype(np.float64) - predictions.targets)
    places = largest_errors(predictions)[:MOST_SHOWN]
    middle = ", ".join(number(float(value)) for value in np.median(errors, axis=0))
    text = f"Half of the {counted(len(predictions), 'image')} of {split} are off by no more than {middle}. "
    text += "These are off by the most."
    if predictions.outputs.shape[1] > 1:
        text = text[:-1] + ", each number measured by how much it varies."
    cards = tuple(_number_card(predictions, place, pictures) for place in places)
    charts = [_scatter(predictions, column) for column in range(min(_MOST_DRAWN, predictions.outputs.shape[1]))]
    return "The largest errors", [Group("largest-errors", "Furthest off", text, cards)], charts


def largest_errors(predictions: Predictions) -> np.ndarray:
    """Return the places of all images, int64, the largest error first; several numbers in standard deviations each."""
    targets = predictions.targets.astype(np.float64)
    spread = targets.std(axis=0)
    error = np.abs(predictions.outputs - targets) / np.where(spread > 0, spread, 1.0)
    return np.argsort(-error.max(axis=1, initial=0.0), kind="stable")


def _number_card(predictions: Predictions, place: int, pictures: Pictures) -> Card:
    true, found = predictions.targets[place].astype(np.float64), predictions.outputs[place].astype(np.float64)
    wanted, given = (", ".join(number(float(value)) for value in values) for values in (true, found))
    off = ", ".join(f"{number(float(value))}" for value in found - true)
    words = (Words("true", wanted), Words("predicted", given), Words("off by", off, kind="wrong"))
    path = printable(predictions.paths[place])
    return Card(
        pictures.uri_of_path(predictions.paths[place]), f"{path}: true {wanted}, predicted {given}", path, words
    )


def _scatter(predictions: Predictions, column: int) -> Any:
    name = printable(predictions.classes[column]) if predictions.classes else ""
    title = f"Predicted against true: {name}" if name else "Predicted against true"
    true, found = predictions.targets[:, column].astype(np.float64), predictions.outputs[:, column].astype(np.float64)
    return scatter_chart(f"scatter-{column}", title, true, found)


_FORMS = {"multiclass": _multiclass, "multilabel": _multilabel, "regression": _regression}

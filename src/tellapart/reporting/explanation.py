"""What is said of one image: the prediction, where the network looks, which training images it resembles."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tellapart.auditing.findings import counted, printable
from tellapart.evaluation.gradcam import Place, SpatialLayer, heat, place_of
from tellapart.exporting.classifier import Prediction

_TOP = 3


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where in the picture the score of one output comes from.

    Attributes:
        name: the class, or of numbers which one, "0" first.
        role: "predicted", "true", "asked" (named by the user), "likeliest" (no class is predicted) or "value".
        grid: as the layer has it, float32 `(h, w)` of at least 0, in no unit.
        side_px: of the picture.
        layer: whose output the map is of.
    """

    name: str
    role: str
    grid: np.ndarray
    side_px: int
    layer: SpatialLayer

    @property
    def heat(self) -> np.ndarray:
        """The map over the picture, float32 `(side_px, side_px)` in [0, 1]; 0 everywhere where there is none."""
        return heat(torch.from_numpy(self.grid)[None], self.side_px)[0].numpy()

    @property
    def place(self) -> Place | None:
        """Where the heat lies, or None where there is none."""
        return place_of(self.heat)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints; the grid is scaled so that its largest number is 1."""
        place, peak = self.place, float(self.grid.max(initial=0.0))
        scaled = self.grid / peak if place is not None else np.zeros_like(self.grid)
        return {
            "class": self.name,
            "role": self.role,
            "place": None if place is None else place.name,
            "area_share": None if place is None else round(place.area_share, 4),
            "grid": [[round(float(value), 4) for value in row] for row in scaled],
        }


@dataclass(frozen=True)
class Neighbour:
    """A training image: its row in the stored division, path, label in words, and the cosine of its features."""

    row: int
    path: str
    label: str
    similarity: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """One image explained.

    Attributes:
        path: where it is, or "image 0" for one that was given as pixels.
        task: "multiclass", "multilabel" or "regression".
        prediction: what the classifier says.
        predicted: the predicted classes, best first.
        truth: its label in words, or None where it is not known.
        is_right: whether the prediction is the label; None for numbers, and where the label is not known.
        picture: what the network sees, uint8 `(C, S, S)`, before it is normalised.
        heats: a map for each class that was looked into.
        neighbours: the most similar training images, best first, without those of the same pixels.
        trained_on: paths of the training images with the very same pixels.
    """

    path: str
    task: str
    prediction: Prediction
    predicted: tuple[str, ...]
    truth: str | None
    is_right: bool | None
    picture: np.ndarray
    heats: tuple[HeatMap, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    trained_on: tuple[str, ...] = ()

    def remarks(self) -> list[str]:
        """Return sentences about what does not fit together, and what takes the worth from the rest."""
        said = [f"This very image was trained on: {path}" for path in self.trained_on[:1]]
        said += [
            f"The heat map for {self.title_of(each)} is zero everywhere: nothing in the picture speaks for it."
            for each in self.heats
            if each.place is None
        ]
        return said + [text for text in [_disagreement(self)] if text]

    def title_of(self, found: HeatMap) -> str:
        """Return what a heat map is of, in words."""
        if self.task != "regression":
            return f"'{printable(found.name)}'"
        return "the value" if len(self.prediction.probs) == 1 else f"value {found.name}"

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        is_number = self.task == "regression"
        top = [] if is_number else [{"class": n, "prob": p} for n, p in self.prediction.top(_TOP)]
        return {
            "path": self.path,
            "class": self.prediction.label,
            "prob": None if math.isnan(self.prediction.prob) else self.prediction.prob,
            "top": top,
            **({"values": list(self.prediction.probs.values())} if is_number else {}),
            "true": self.truth,
            "is_right": self.is_right,
            "heat": [each.as_dict() for each in self.heats],
            "neighbours": [
                {"path": n.path, "label": n.label, "similarity": round(n.similarity, 4)} for n in self.neighbours
            ],
            "trained_on": list(self.trained_on),
            "remarks": self.remarks(),
        }


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be explained, because it cannot be read."""

    path: str
    error: str
    task: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {"path": self.path, "error": self.error}


def _disagreement(found: Explanation) -> str:
    """Return a sentence where most of the nearest training images are not what was predicted, or ""."""
    if not found.neighbours:
        return ""
    if found.task == "regression":
        return _beyond(found)
    wanted = set(found.predicted)
    labels = [
        set(n.label.split("|")) | {n.label} if found.task == "multilabel" else {n.label} for n in found.neighbours
    ]
    num_agreeing = sum(bool(wanted & each) or (not wanted and each == {""}) for each in labels)
    if 2 * num_agreeing > len(labels):
        return ""
    others = Counter(n.label for n, each in zip(found.neighbours, labels, strict=True) if not wanted & each)
    common = others.most_common(1)[0][0]
    what = f"'{label_words(common, found.task)}'" if common else "without a label"
    return (
        f"The neighbours disagree: {num_agreeing} of the {counted(len(labels), 'nearest training image')} "
        f"{'is' if num_agreeing == 1 else 'are'} of what was predicted; most of the others are {what}."
    )


def _beyond(found: Explanation) -> str:
    try:
        known = np.array([[float(text) for text in n.label.split(", ")] for n in found.neighbours])
    except ValueError:
        return ""
    values = np.array(list(found.prediction.probs.values()))
    if known.shape[1] != len(values):
        return ""
    for number, (value, low, high) in enumerate(zip(values, known.min(axis=0), known.max(axis=0), strict=True)):
        if not low <= value <= high:
            which = "The prediction" if len(values) == 1 else f"Value {number}"
            return f"{which}, {value:.6g}, lies outside of what the nearest training images have: {low:g} to {high:g}."
    return ""


def label_words(label: str, task: str) -> str:
    """Return a label as it is shown; several labels are joined by commas."""
    return printable(label.replace("|", ", ") if task == "multilabel" else label)


def headline(found: Explanation) -> str:
    """Return the prediction and, where it is known, the label, in a line."""
    if found.task == "regression":
        said = found.prediction.label
    elif found.predicted:
        said = ", ".join(f"{printable(name)} {found.prediction.probs[name]:.1%}" for name in found.predicted)
    else:
        said = "none of the classes"
    if found.truth is None:
        return said
    truth = label_words(found.truth, found.task) or "none"
    if found.is_right is None:
        return f"{said} (true: {truth})"
    return f"{said} (right)" if found.is_right else f"{said} (wrong: it is {truth})"


def as_text(found: Explanation | Unreadable) -> str:
    """Return what the terminal shows of an image."""
    if isinstance(found, Unreadable):
        return f"{printable(found.path)}: cannot be read: {printable(found.error)}"
    lines = [f"{printable(found.path)}: {headline(found)}"]
    for each in found.heats:
        if each.place is not None:
            lines.append(f"  looks for {found.title_of(each)} at: {each.place}")
    if found.neighbours:
        counts = Counter(n.label for n in found.neighbours)
        names = ", ".join(
            f"{count} {label_words(label, found.task) or 'no label'}" for label, count in counts.most_common(5)
        )
        lines.append(
            f"  nearest training images: {names}" if found.task != "regression" else "  nearest training images:"
        )
        shown = [(label_words(n.label, found.task), n) for n in found.neighbours]
        width = min(24, max(len(label) for label, _ in shown))
        lines += [f"    {n.similarity:5.2f}  {label:{width}}  {printable(n.path)}" for label, n in shown]
    said = (textwrap.fill(printable(text), 80, initial_indent="  ", subsequent_indent="  ") for text in found.remarks())
    return "\n".join([*lines, *said])

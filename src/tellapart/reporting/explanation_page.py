"""Explanations as one page that needs nothing else: picture, heat, probabilities and neighbours of each image."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tellapart.auditing.findings import printable
from tellapart.errors import DataError
from tellapart.evaluation.gradcam import SpatialLayer, heat
from tellapart.reporting.explanation import Explanation, HeatMap, Neighbour, Unreadable, label_words
from tellapart.reporting.heat_pictures import PageImages, as_rows, css_gradient, overlay, resized
from tellapart.reporting.page import frame
from tellapart.reporting.section import Section, render

# A page of over 5 MB is slow to open on a phone; base64 adds a third to the pictures, and text comes on top of it.
MAX_BYTES = 3_200_000
# Each image is some kilobytes of text even where the pictures have run out.
_MOST_SHOWN = 100
_SIDES_PX = ((12, 256), (40, 192), (_MOST_SHOWN, 128))
_TILE_PX = 112
_MOST_BARS = 5
_PIXELATED_PX = 64
_TITLE_LENGTH = 60

PictureOf = Callable[[int], "np.ndarray | None"]


def write_page(path: Path, images: Sequence[Explanation | Unreadable], notes: Sequence[str], **about: Any) -> None:
    """Write the page, under a temporary name first; `about` is what `render_page` takes.

    Raises:
        DataError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(render_page(images, notes, **about), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"--out {path}: cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def render_page(
    images: Sequence[Explanation | Unreadable],
    notes: Sequence[str],
    *,
    title: str,
    subtitle: str,
    layer: SpatialLayer | None,
    picture_of: PictureOf | None = None,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Return the page as HTML: one file, no address outside of it. Names and paths come from strangers.

    Args:
        images: what was said of each; the first 100 that could be read are shown.
        notes: sentences that stand above.
        title: the heading.
        subtitle: a line below it.
        layer: whose maps are shown, if any.
        picture_of: returns what the network sees of a training image, uint8 `(C, S, S)`, by its row; or None.
        max_bytes: what the pictures may take.
    """
    found = [each for each in images if isinstance(each, Explanation)]
    failed = [each for each in images if isinstance(each, Unreadable)]
    shown = found[:_MOST_SHOWN]
    side_px = next(side for most, side in _SIDES_PX if len(shown) <= most)
    pictures = PageImages(max_bytes)
    sections = [_image(each, number, side_px, pictures, picture_of) for number, each in enumerate(shown, 1)]
    said = list(notes)
    if len(found) > len(shown):
        said.append(f"The page shows the first {len(shown)} of {len(found):,} images.")
    said += [f"{each.path}: cannot be read: {each.error}" for each in failed]
    if shown:
        html = render("explanation_reading.html", layer=layer, gradient=css_gradient())
        sections = [Section("reading", "How to read this", html), *sections]
    is_pixelated = bool(shown) and shown[0].picture.shape[-1] <= _PIXELATED_PX
    return frame(
        title=title,
        subtitle=subtitle,
        sections=sections,
        notes=said,
        made_by="tellapart explain",
        is_pixelated=is_pixelated,
    )


def _image(
    found: Explanation, number: int, side_px: int, pictures: PageImages, picture_of: PictureOf | None
) -> Section:
    name = printable(found.path.rstrip("/").rpartition("/")[2] or found.path)
    picture = resized(as_rows(found.picture), side_px)
    html = render(
        "explanation.html",
        name=name,
        number=number,
        path=found.path,
        verdict=_verdict(found),
        size_px=found.picture.shape[-1],
        uri=pictures.uri(picture),
        heats=[_heat(found, each, picture, pictures) for each in found.heats],
        bars=_bars(found),
        num_others=max(0, len(found.prediction.probs) - _MOST_BARS) if found.task != "regression" else 0,
        values=list(found.prediction.probs.items()) if found.task == "regression" else [],
        remarks=found.remarks(),
        neighbours=[_neighbour(found, each, pictures, picture_of) for each in found.neighbours],
        truth=found.truth,
    )
    return Section(f"image-{number}", f"{number}. {_title(found)}", html)


def _title(found: Explanation) -> str:
    """Return the prediction in a few words, for headings and the page's navigation."""
    text = label_words(found.prediction.label, found.task) or "none"
    if found.is_right is False:
        text += f", but it is {label_words(found.truth or '', found.task) or 'none'}"
    return text if len(text) <= _TITLE_LENGTH else f"{text[: _TITLE_LENGTH - 1]}…"


def _heat(found: Explanation, each: HeatMap, picture: np.ndarray, pictures: PageImages) -> dict[str, Any]:
    # The heat is drawn as finely as the picture is shown, not as coarsely as a small network sees.
    fine = heat(torch.from_numpy(each.grid)[None], picture.shape[0])[0].numpy()
    roles = {"predicted": "predicted", "true": "its label", "asked": "asked for", "likeliest": "likeliest", "value": ""}
    return {
        "uri": pictures.uri(overlay(picture, fine)),
        "title": "the value" if found.task == "regression" else each.name,
        "role": roles[each.role],
        "place": None if each.place is None else str(each.place),
    }


def _verdict(found: Explanation) -> dict[str, str] | None:
    if found.truth is None:
        return None
    if found.is_right is None:
        return {"kind": "soft", "text": f"its label is {label_words(found.truth, found.task)}"}
    if found.is_right:
        return {"kind": "good", "text": "right"}
    return {"kind": "error", "text": f"wrong: it is {label_words(found.truth, found.task) or 'none of the classes'}"}


def _bars(found: Explanation) -> list[dict[str, Any]]:
    """Return the most probable classes, and the true one where it is not among them."""
    if found.task == "regression":
        return []
    top = found.prediction.top(_MOST_BARS)
    names = {name for name, _ in top}
    truths = {found.truth} if found.task == "multiclass" else set((found.truth or "").split("|"))
    top += [(name, prob) for name, prob in found.prediction.probs.items() if name in truths - names]
    return [
        {"name": name, "prob": prob, "is_predicted": name in found.predicted, "is_true": name in truths}
        for name, prob in top
    ]


def _neighbour(
    found: Explanation, each: Neighbour, pictures: PageImages, picture_of: PictureOf | None
) -> dict[str, Any]:
    pixels = None if picture_of is None or pictures.left_bytes <= 0 else picture_of(each.row)
    agrees = None if found.task == "regression" else bool({each.label, *each.label.split("|")} & set(found.predicted))
    return {
        "uri": "" if pixels is None else pictures.uri(resized(as_rows(pixels), _TILE_PX)),
        "label": label_words(each.label, found.task),
        "path": each.path,
        "similarity": each.similarity,
        "agrees": agrees,
    }

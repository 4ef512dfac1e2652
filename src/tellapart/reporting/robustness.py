"""On harder images: what corruptions leave of the accuracy, and whether it notices what it was never shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tellapart.auditing.findings import counted
from tellapart.evaluation.corruptions import STRENGTHS
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, percent, render

_CORRUPTION_NAMES = {"gaussian-noise": "Gaussian noise", "jpeg": "JPEG"}
_NUM_PUBLISHED = 15
# The first that is there is the one of the sentence: what everybody has at hand, not the best of those tried.
_SCORE_NAMES = {"max_softmax": "largest probability", "max_logit": "largest logit", "energy": "energy"}
_GUESSING = 0.5


def section(facts: RunFacts, pictures: Pictures) -> Section | None:
    """Return what `tellapart evaluate --corruptions` and `--ood` found; None where neither was asked for."""
    harder, others = facts.robustness, facts.ood
    if not harder and not others:
        return None
    html = render(
        "robustness.html",
        harder=_corruptions(harder) if harder else None,
        others=_unknown(others) if others else None,
        strengths=STRENGTHS,
    )
    return Section("robustness", "On harder images", html)


def is_robustness(found: Mapping[str, Any]) -> bool:
    """Return whether this is a whole robustness.json, so that a page can be made of it.

    >>> is_robustness({"split": "test"})
    False
    """
    kinds = found.get("corruptions")
    return (
        _has_words(found, "split", "parameters")
        and _has_counts(found, "n", "num_given", "side_px")
        and all(_is_share(found.get(name)) for name in ("clean", "mean"))
        and isinstance(kinds, Mapping)
        and bool(kinds)
        and all(isinstance(kind, Mapping) and _is_kind(kind) for kind in kinds.values())
    )


def is_ood(found: Mapping[str, Any]) -> bool:
    """Return whether this is a whole ood.json, so that a page can be made of it.

    >>> is_ood({"data": "cats", "scores": {}})
    False
    """
    scores = found.get("scores")
    return (
        _has_words(found, "known", "data")
        and _has_counts(found, "n", "num_given", "num_known", "num_trained_on")
        and isinstance(scores, Mapping)
        and any(name in scores for name in _SCORE_NAMES)
        and all(
            isinstance(score, Mapping) and _is_share(score.get("auroc")) and _is_share(score.get("fpr95"))
            for score in scores.values()
        )
    )


def _is_kind(kind: Mapping[str, Any]) -> bool:
    cells = kind.get("strengths")
    return (
        _is_share(kind.get("mean"))
        and isinstance(cells, Sequence)
        and all(_is_share(cell) for cell in cells)
        and [cell.get("strength") for cell in cells] == list(STRENGTHS)
    )


def _is_share(found: Any) -> bool:
    """Return whether this is a share from 0 to 1 with its interval, whose ends may lack."""
    if not isinstance(found, Mapping):
        return False
    low, high = found.get("low"), found.get("high")
    return _is_number(found.get("value")) and all(end is None or _is_number(end) for end in (low, high))


def _is_number(found: Any) -> bool:
    # Rounding may leave an end of an interval a hair outside.
    return isinstance(found, int | float) and not isinstance(found, bool) and -1e-6 <= found <= 1 + 1e-6


def _has_words(found: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(found.get(name), str) for name in names)


def _has_counts(found: Mapping[str, Any], *names: str) -> bool:
    return all(type(found.get(name)) is int and found[name] >= 0 for name in names)


def _corruptions(found: Mapping[str, Any]) -> dict[str, Any]:
    clean = found["clean"]["value"]
    rows = [
        {
            "name": _CORRUPTION_NAMES.get(name, name.replace("-", " ")),
            "cells": [{**cell, "heat": _heat(clean, cell["value"])} for cell in kind["strengths"]],
            "mean": kind["mean"],
        }
        for name, kind in found["corruptions"].items()
    ]
    return {
        "rows": rows,
        "clean": found["clean"],
        "mean": found["mean"],
        "worst": min(rows, key=lambda row: row["mean"]["value"]),
        "images": _images(found),
        "views": _views(found),
        "parameters": found["parameters"],
        "side_px": found["side_px"],
        "num_published": _NUM_PUBLISHED,
        "is_of_val": found["split"] == "val" and not found.get("data"),
    }


def _heat(clean: float, value: float) -> str:
    """Return how strong a cell's colour is: the root of the share of the clean accuracy that is lost, as CSS has it.

    The root, as for the mistakes of the confusion matrix: a small loss is to be told from none.
    """
    lost = max(0.0, clean - value) / clean if clean > 0 else 0.0
    return f"{math.sqrt(lost):.2f}".lstrip("0") if lost >= 5e-5 else ""


def _images(found: Mapping[str, Any]) -> str:
    """Return in words what was corrupted."""
    whose = f"{found['split']} images" if not found.get("data") else f"images of {found['data']}"
    n, given = found["n"], found["num_given"]
    if n == given:
        return f"{n:,} {whose}"
    how = "drawn by the seed" if found.get("is_drawn") else "all that could be read"
    return f"{n:,} of {given:,} {whose} ({how})"


def _views(found: Mapping[str, Any]) -> str:
    """Return a sentence where several views of an image were averaged, which is not what ships."""
    tta = found.get("tta") or "none"
    return "" if tta == "none" else f"Each answer is the mean over several views of the image (--tta {tta})."


def _unknown(found: Mapping[str, Any]) -> dict[str, Any]:
    scores = found["scores"]
    rows = [{"name": name, **scores[key]} for key, name in _SCORE_NAMES.items() if key in scores]
    said = rows[0]
    area, through = said["auroc"], said["fpr95"]
    others = f"{counted(found['n'], 'image')} of {found['data']}"
    sentence = (
        f"Asked to tell {others} from {found['num_known']:,} of {found['known']} by the {said['name']}, it puts "
        f"the known image above the other in {percent(area['value'])} of all pairs{_ends(area)}, and a bar that 95% of "
        f"the known ones pass lets {percent(through['value'])} of the others through{_ends(through)}."
    )
    return {
        "rows": rows,
        "sentence": sentence,
        "verdict": _verdict(area),
        "views": _views(found),
        "data": found["data"],
        "num_trained_on": found["num_trained_on"],
        "num_unread": max(0, found["num_given"] - found["n"]),
    }


def _verdict(area: Mapping[str, Any]) -> str:
    """Return a warning where guessing would do as well, or better."""
    if area["high"] is not None and area["high"] < _GUESSING:
        return "That is worse than guessing: what it does not know looks more familiar to it than its own images."
    if area["low"] is not None and area["low"] <= _GUESSING:
        return "That cannot be told from guessing, which is right for half of the pairs."
    return ""


def _ends(found: Mapping[str, Any]) -> str:
    if found["low"] is None or found["high"] is None:
        return ""
    return f" ({percent(found['low'])} to {percent(found['high'])})"

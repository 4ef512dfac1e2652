"""Lines for a terminal about what an evaluation adds on request: corruptions, selective answers, the unknown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from tellapart.reporting.sparklines import shortened

WIDTH = 80
_NUM_NAMED = 10
_SCORE_NAMES = {"max_softmax": "largest probability", "max_logit": "largest logit", "energy": "energy"}


def robustness_lines(found: Mapping[str, Any], *, width: int = WIDTH) -> list[str]:
    """Return a table of accuracies: a line a corruption, a column a strength, and their means.

    Args:
        found: as in `robustness.json`.
        width: cells of a line.
    """
    drawn = f", drawn from {found['num_given']:,}" if found["is_drawn"] else ""
    lines = [
        f"accuracy under corruptions, in percent (n = {found['n']:,}{drawn}):",
        f"  {'':14} {'none':>5}  {'1':>5} {'2':>5} {'3':>5} {'4':>5} {'5':>5}  mean of the five",
    ]
    clean = 100 * found["clean"]["value"]
    for name, each in found["corruptions"].items():
        cells = " ".join(f"{100 * one['value']:>5.1f}" for one in each["strengths"])
        lines.append(f"  {name:14} {clean:>5.1f}  {cells}  {_percent(each['mean'])}")
    lines.append(f"  {'mean of all':14} {clean:>5.1f}  {'':29}  {_percent(found['mean'])}")
    worst = min(found["corruptions"], key=lambda name: found["corruptions"][name]["mean"]["value"])
    return lines + wrapped(
        f"It suffers most from {worst.replace('-', ' ')}. Strengths 1 (faint) to 5 are those of "
        f"{found['parameters']} (Hendrycks and Dietterich 2019), on images of {found['side_px']} px; the interval of "
        "each number is in robustness.json.",
        width,
    )


def selective_lines(found: Mapping[str, Any], split: str) -> list[str]:
    """Return what answering only for images that the classifier is sure of brings, as sentences.

    Args:
        found: as `selective_results` gives it.
        split: what was evaluated.
    """
    area = found["aurc"]
    tail = (
        f"Area under the risk-coverage curve: {area['value']:.4f} ({_ends(area, '.4f')}); the mean share of wrong "
        "answers over all ways to be choosy, and 0 is the best."
    )
    chosen, judged = found.get("chosen_on_val"), found.get("judged")
    if chosen is None:
        text = "No confidence was chosen: that takes the predictions on val of a run."
    elif judged is None:
        wanted = f"{100 * chosen['accuracy_wanted']:g}%"
        text = f"val cannot support a confidence for {wanted} accuracy: {chosen['why_none']}."
    else:
        text = _choice_in_words(chosen, judged, split, found["is_judged_on_what_chose"])
    return wrapped(f"answering only when sure: {text} {tail}")


def _choice_in_words(chosen: Mapping[str, Any], judged: Mapping[str, Any], split: str, is_same: bool) -> str:
    where = f"On {split}" if not is_same else "On these same images, which is too good to be expected of others"
    reached = judged["accuracy"]
    accuracy = (
        "so nothing can be said of them" if reached["value"] is None else f"of these {_percent(reached)} are right"
    )
    return (
        f"for {100 * chosen['accuracy_wanted']:g}% accuracy, act only where the probability is at least "
        f"{chosen['confidence']:.4f} (chosen on val: {chosen['num_right']:,} of {chosen['num_answered']:,} right). "
        f"{where}: {_percent(judged['coverage'])} of the images are that sure, and {accuracy} "
        f"(n = {judged['num_answered']:,})."
    )


def ood_lines(found: Mapping[str, Any], split: str) -> list[str]:
    """Return how well images of the known classes are told from others: a line a score.

    Args:
        found: as in `ood.json`.
        split: where the known images are from.
    """
    name = shortened(found["data"], 30)
    lines = [
        f"noticing the unknown: {found['num_known']:,} images of {shortened(split, 20)} against {found['n']:,} "
        f"of {name}",
        f"  {'score':20} {'AUROC':>6}  {'95% interval':15} {'let through at 95%':>19}  95% interval",
    ]
    for key, each in found["scores"].items():
        area, through = each["auroc"], each["fpr95"]
        lines.append(
            f"  {_SCORE_NAMES[key]:20} {area['value']:>6.3f}  {_ends(area, '.3f'):15} {through['value']:>19.1%}  "
            f"{_percent(through).split('(')[1].rstrip(')')}"
        )
    lines += wrapped(
        "AUROC: how often a known image scores higher than an unknown one. Let through: the share of unknown images "
        "that pass a bar which 95% of the known ones pass."
    )
    if found["num_trained_on"]:
        lines += wrapped(
            f"warning: {found['num_trained_on']:,} of the images of {name} are among those that the run was trained on."
        )
    return lines + unreadable_lines(found["unreadable"])


def overlap_lines(found: Mapping[str, Any], n: int, new: str) -> list[str]:
    """Return one sentence about images that the run has seen before.

    Args:
        found: `Overlap.as_dict`.
        n: how many images were evaluated.
        new: the headline metric of the others, in words; "" where there are none.
    """
    seen = []
    if found["num_trained_on"]:
        seen.append(f"{found['num_trained_on']:,} of these {n:,} images are among those that the run was trained on")
    if found["num_chosen_by"]:
        whose = "are" if seen else f"of these {n:,} images are"
        seen.append(f"{found['num_chosen_by']:,} {whose} in its val, which chose its weights")
    rest = f"without these: {new}" if new else "no others are left, so this is no number for new images"
    return wrapped(f"warning: {', and '.join(seen)}; {rest}.")


def unreadable_lines(unreadable: Mapping[str, str]) -> list[str]:
    """Return the images that could not be read, by name; more than ten are counted."""
    if not unreadable:
        return []
    lines = [f"not evaluated, because they cannot be read: {len(unreadable):,}"]
    lines += [f"  {path}: {reason}" for path, reason in list(unreadable.items())[:_NUM_NAMED]]
    more = len(unreadable) - _NUM_NAMED
    return lines + ([f"  and {more:,} more"] if more > 0 else [])


def _percent(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "-"
    return f"{100 * found['value']:.1f}% ({_ends(found, '.1f', 100)})"


def _ends(found: Mapping[str, Any], form: str, factor: float = 1) -> str:
    if found["low"] is None or found["high"] is None:
        return "-"
    return f"{factor * found['low']:{form}} to {factor * found['high']:{form}}"


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Return a sentence as lines, those after the first indented."""
    return textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)

"""What speaks against a run's number, in sentences, worst first; a healthy run has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from tellapart.auditing.findings import SEVERITIES, counted, share, verb
from tellapart.auditing.label_suspects import find_label_suspects
from tellapart.errors import MissingError
from tellapart.evaluation.metrics import HEADLINE, HIGHER_IS_BETTER, reliability
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.section import percent

# A loss on val that is so much above its least is no noise of a few images.
_RISE = 1.1
# Wider intervals than this, ten points, leave a number coarse.
_WIDE = 0.10
_FEW_IMAGES = 10
# One class with ten times the images of another, as the audit has it.
_UNEVEN = 10
# A calibration error of three points changes no decision; its interval has to lie above that.
_MISCALIBRATED = 0.03
_NUM_NAMED = 5
_GOOD_ENOUGH_TO_DOUBT = 0.9
_MANY_DOUBTS = 0.01
# Findings of the audit that bear on the number itself; the others stand with the data.
_FINDINGS = ("leak", "near-leak", "group-leak", "conflict", "near-conflict", "label-suspect", "class-absent")


@dataclass(frozen=True)
class Concern:
    """Something to know before believing the number: an "error" makes it wrong, a "warning" may, a "note" does not."""

    kind: str
    severity: str
    text: str
    advice: str = ""


def concerns(facts: RunFacts) -> list[Concern]:
    """Return what speaks against the number, worst first."""
    found = [concern for look in _LOOKS for concern in look(facts)]
    return sorted(found, key=lambda concern: SEVERITIES.index(concern.severity))


def _audited(facts: RunFacts) -> Iterator[Concern]:
    for finding in facts.findings:
        if finding.get("kind") in _FINDINGS:
            is_error = finding.get("severity") == "error"
            severity = "error" if is_error else "note" if finding.get("severity") == "note" else "warning"
            yield Concern(str(finding["kind"]), severity, str(finding["message"]), str(finding.get("advice", "")))


def _no_better_than_guessing(facts: RunFacts) -> Iterator[Concern]:
    table, found = facts.predictions[facts.judged_on], facts.metrics[facts.judged_on]
    if table.task == "regression":
        if "r2" in found and found["r2"].low <= 0:
            yield Concern(
                "guessing", "error", "It is not shown to be better than always answering with the mean (R² may be 0)."
            )
        return
    if table.task != "multiclass":
        return
    counts = np.bincount(table.targets, minlength=len(table.classes))
    commonest = int(counts.argmax())
    guess = counts[commonest] / len(table)
    if found["top1"].low <= guess:
        yield Concern(
            "guessing",
            "error",
            f"It is not shown to be better than always answering '{table.classes[commonest]}', which would be right "
            f"for {percent(guess)} of these images: the interval begins at {percent(found['top1'].low)}.",
            "Train longer, with more images, or start from pretrained weights.",
        )


def _looked_at_test(facts: RunFacts) -> Iterator[Concern]:
    # A look at other images (--data) is a look at another test.
    looks = [look for look in facts.looks if look.get("split") == "test" and not look.get("data")]
    num_weights = len({look.get("weights") for look in looks})
    if num_weights > 1:
        yield Concern(
            "test-looks",
            "warning",
            f"Test was looked at {len(looks)} times, with {num_weights} different weights. Whatever was chosen after a "
            "look makes the next number flatter than the truth.",
            "For a number that can be published, judge once more on images that nobody has looked at.",
        )
    elif len(looks) > 1:
        yield Concern("test-looks", "note", f"Test was looked at {len(looks)} times, each time with the same weights.")
    shipped = facts.classifier.info.get("files", {}).get("model.safetensors")
    if looks and shipped and "test" in facts.predictions and looks[-1].get("weights") not in (None, shipped):
        yield Concern(
            "other-weights",
            "error",
            "The number on test is that of other weights than those that are shipped.",
            f"Look again: tellapart evaluate {facts.path} --split test",
        )


def _splits_disagree(facts: RunFacts) -> Iterator[Concern]:
    if facts.judged_on != "test" or "top1" not in facts.metrics["test"]:
        return
    val, test = (facts.metrics[name]["top1"].value for name in ("val", "test"))
    sizes = [len(facts.predictions[name]) for name in ("val", "test")]
    error = math.sqrt(sum(max(p * (1 - p), 1 / n) / n for p, n in zip((val, test), sizes, strict=True)))
    # Three standard errors: choosing the best epoch on val alone makes a difference of about one.
    if val - test > max(3 * error, 0.02):
        yield Concern(
            "splits-disagree",
            "warning",
            f"Accuracy is {percent(val)} on val but {percent(test)} on test, more than chance makes of it.",
            "Either test holds other kinds of images, or images of val have near copies in train.",
        )


def _doubtful_labels(facts: RunFacts) -> Iterator[Concern]:
    """Count labels that a good network contradicts; a weak one doubts whatever it finds hard.

    Some mistakes of any network are sure ones. Where most are, the labels are the likelier cause.
    """
    table, found = facts.predictions[facts.judged_on], facts.metrics[facts.judged_on]
    if table.task != "multiclass" or found["top1"].value < _GOOD_ENOUGH_TO_DOUBT:
        return
    try:
        suspects = find_label_suspects(table)
    except (MissingError, ValueError):
        return  # The gallery says why labels were not doubted.
    num_mistakes = int((table.predicted() != table.targets).sum())
    if len(suspects) > max(_MANY_DOUBTS * len(table), num_mistakes / 2):
        yield Concern(
            "label-suspects",
            "note",
            f"{len(suspects):,} of {len(table):,} {facts.judged_on} labels ({share(len(suspects), len(table))}) are in "
            "doubt: a label that is wrong counts as a mistake of the network, or hides one.",
            "Look at those below, under Doubtful labels; tellapart check --run lists all.",
        )


def _uneven(facts: RunFacts) -> Iterator[Concern]:
    table, found = facts.predictions[facts.judged_on], facts.metrics[facts.judged_on]
    if table.task != "multiclass":
        return
    names = np.array(facts.split.classes)[facts.split.rows("train")]
    classes, counts = np.unique(names, return_counts=True)
    if len(counts) < 2 or counts.max() < _UNEVEN * counts.min():
        return
    most, least = int(counts.argmax()), int(counts.argmin())
    accuracy, balanced = found["top1"].value, found["balanced_accuracy"].value
    flatters = accuracy - balanced > 0.05
    text = (
        f"Classes are uneven: '{classes[most]}' has {counts[most]:,} training images, '{classes[least]}' "
        f"{counts[least]:,}."
    )
    if flatters:
        text += f" Accuracy, {percent(accuracy)}, flatters: the mean recall of the classes is {percent(balanced)}."
    yield Concern(
        "imbalance",
        "warning" if flatters else "note",
        text,
        "Judge by the recall of each class; --loss.class-weights balanced weighs them alike.",
    )


def _overfitting(facts: RunFacts) -> Iterator[Concern]:
    """Compare each loss with itself over time: train and val are computed differently, so their gap says nothing."""
    epochs = epochs_of(facts)
    losses = [(e["epoch"], e.get("train/loss"), e.get("val/loss")) for e in epochs]
    known = [(at, train, val) for at, train, val in losses if train is not None and val is not None]
    if len(known) < 4:
        return
    best = min(range(len(known)), key=lambda i: known[i][2])
    after = known[best + 1 :]
    if len(after) < 3:
        return
    now_train, now_val = (median(line[place] for line in after[-3:]) for place in (1, 2))
    at, train, val = known[best]
    if now_val <= _RISE * abs(val) or now_train >= train:
        return
    chosen = facts.result.get("best_epoch")
    shipped = next((line[2] for line in known if line[0] == chosen), None)
    is_spared = facts.config.train.select == "best" and shipped is not None and shipped <= _RISE * abs(val)
    yield Concern(
        "overfitting",
        "note" if is_spared else "warning",
        f"It learnt the training images by heart: since epoch {at} the loss on val rose from {val:.3g} to "
        f"{now_val:.3g} while that on train fell from {train:.3g} to {now_train:.3g}."
        + (f" The weights of epoch {chosen} are shipped, from before most of that." if is_spared else ""),
        "Fewer epochs, stronger augmentation or more images.",
    )


def _still_improving(facts: RunFacts) -> Iterator[Concern]:
    epochs = epochs_of(facts)
    task = facts.predictions["val"].task
    key, sign = f"val/{HEADLINE[task]}", 1 if HIGHER_IS_BETTER[HEADLINE[task]] else -1
    values = [(e["epoch"], sign * e[key]) for e in epochs if e.get(key) is not None]
    if len(values) < 2 or facts.result.get("best_epoch") != values[-1][0]:
        return
    last, before = values[-1][1], max(value for _, value in values[:-1])
    n = len(facts.predictions["val"])
    noise = math.sqrt(max(last * (1 - last), 0.0) / n) if task == "multiclass" else 0.02 * abs(before)
    if last - before > noise:
        yield Concern(
            "still-improving",
            "note",
            f"The last epoch, {values[-1][0]}, was the best by more than chance: it was still improving.",
            f"More epochs may help: --epochs {2 * values[-1][0]}",
        )


def _calibration(facts: RunFacts) -> Iterator[Concern]:
    found = facts.metrics[facts.judged_on].get("ece")
    if found is None or not math.isfinite(found.low):
        return
    if found.low > _MISCALIBRATED:
        table = facts.predictions[facts.judged_on]
        excess = sum(row["count"] * (row["confidence"] - row["accuracy"]) for row in reliability(table) if row["count"])
        # Of several labels, a probability that is too high is no confidence in what is said.
        which = "" if table.task == "multilabel" else ", too sure" if excess > 0 else ", not sure enough"
        yield Concern(
            "calibration",
            "warning",
            f"Its probabilities are not to be taken at their word: they are {percent(found.value)} off on average "
            f"({percent(found.low)} to {percent(found.high)}){which}.",
            "Do not put thresholds on them before looking at the reliability diagram.",
        )


def _few_images(facts: RunFacts) -> Iterator[Concern]:
    table, split = facts.predictions[facts.judged_on], facts.judged_on
    if table.task == "regression":
        return
    found = facts.metrics[split][HEADLINE[table.task]]
    if math.isfinite(found.low) and found.high - found.low > _WIDE:
        yield Concern(
            "few-images",
            "note",
            f"The number is coarse: {counted(len(table), 'image')} leave an interval of "
            f"{100 * (found.high - found.low):.0f} points.",
            "More images to judge by make it narrower; four times as many halve it.",
        )
    positives = table.targets if table.task == "multilabel" else np.eye(len(table.classes), dtype=bool)[table.targets]
    support = (positives > 0).sum(axis=0)
    small = [k for k in np.argsort(support, kind="stable").tolist() if support[k] < _FEW_IMAGES]
    if small:
        named = ", ".join(f"{table.classes[k]} {support[k]}" for k in small[:_NUM_NAMED])
        more = f" and {len(small) - _NUM_NAMED:,} more" if len(small) > _NUM_NAMED else ""
        yield Concern(
            "small-classes",
            "note",
            f"{len(small):,} of {counted(len(table.classes), 'class')} {verb(len(small), 'has', 'have')} fewer than "
            f"{_FEW_IMAGES} {split} images ({named}{more}): what is said of each says little.",
        )


def _unreadable(facts: RunFacts) -> Iterator[Concern]:
    table, split = facts.predictions[facts.judged_on], facts.judged_on
    missing = table.num_given - len(table)
    if missing > 0:
        yield Concern(
            "unreadable",
            "warning" if missing > 0.01 * table.num_given else "note",
            f"{missing:,} of {table.num_given:,} {split} images ({share(missing, table.num_given)}) could not be read "
            "and are in no number here.",
            "Mend them: in use, such images come too, and it has no answer to them.",
        )


def epochs_of(facts: RunFacts) -> list[Mapping[str, Any]]:
    """Return the lines of the history that end an epoch, in order."""
    return [line for line in facts.history if line.get("kind") == "epoch"]


_LOOKS: tuple[Callable[[RunFacts], Iterator[Concern]], ...] = (
    _audited,
    _no_better_than_guessing,
    _looked_at_test,
    _splits_disagree,
    _doubtful_labels,
    _uneven,
    _overfitting,
    _calibration,
    _unreadable,
    _few_images,
    _still_improving,
)

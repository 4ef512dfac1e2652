"""Findings about what the images show: nothing, too little light, no sharp edge, a drawn notice; and odd sizes."""

from __future__ import annotations

import re

import numpy as np

from tellapart.auditing.examine import Examination, blank_rows
from tellapart.auditing.findings import Finding, Subject, counted, examples_of, rows_array, verb
from tellapart.data.sources.tree import ending

# Mean luma below or above which little can be seen; what is usual in the data set is not odd.
_DARK, _BRIGHT = 20.0, 240.0
# Robust standard deviations below the median, and the variance of the Laplacian over that of the luma, at 256 px and at
# 32 px. Calibrated on photographs of 500 px and on CIFAR-10: untouched, none of 276 and 8 of 60,000 are found; blurred
# with a Gaussian of 3 px (of 2 px for the small ones), over nine in ten.
_SOFT_OUTLIER = 3.0
_SOFT = {256: 0.015, 32: 0.05}
# A finding that holds for more than this share of the images describes the data set, not its outliers.
_MOST_ODD = 0.1
_NOTICE_FLAT_SHARE = 0.5
_NOTICE_NAME = re.compile(
    r"not[-_ ]?found|placeholder|unavailable|not[-_ ]?available|no[-_ ]?(image|photo|picture)"
    r"|missing[-_ ]?(image|photo)|(image|photo|picture)[-_ ]?(missing|removed|deleted)",
    re.IGNORECASE,
)
_REPEATED = 5
_LARGE_FACTOR = 10
_MAX_ASPECT = 3.0


def picture_findings(subject: Subject, examination: Examination, size_px: int) -> list[Finding]:
    """Return what is odd about the images' content and size.

    Args:
        subject: what is audited.
        examination: the result of reading it.
        size_px: the side in pixels that a network would be trained at; 0 if that is not known.
    """
    readable = examination.readable()
    if not len(readable):
        return []
    blank = blank_rows(examination)
    rest = np.setdiff1d(readable, blank)
    notices = _notices(subject, examination, rest)
    rest = np.setdiff1d(rest, np.array(list(notices), dtype=np.int64))
    return [
        *_blank(subject, blank, len(readable)),
        *_placeholders(subject, notices),
        *_lighting(subject, examination, rest),
        *_blurred(subject, examination, rest),
        *_sizes(subject, examination.measures, readable, size_px),
        *_aspects(subject, examination.measures, readable),
    ]


def _blank(subject: Subject, rows: np.ndarray, total: int) -> list[Finding]:
    if not len(rows):
        return []
    return [
        Finding(
            "blank",
            "warning",
            len(rows),
            f"{len(rows):,} of {counted(total, 'image')} {verb(len(rows), 'shows', 'show')} one colour and no more.",
            "There is nothing to learn from them but a wrong habit. Remove them, unless an empty picture is a class.",
            examples_of(rows, None, subject.max_examples),
            rows,
        )
    ]


def _notices(subject: Subject, examination: Examination, rows: np.ndarray) -> dict[int, str]:
    """Return images that stand for a missing one, with the reason: drawn ones among photographs, names, repetitions."""
    flat, hashes = examination.measures["flat_share"], examination.pixel_hashes
    drawn = rows[flat[rows] >= _NOTICE_FLAT_SHARE]
    found = {}
    if len(drawn) <= max(1, 0.05 * len(rows)):
        found = {int(row): f"drawn: {flat[row]:.0%} of it is one colour" for row in drawn}
    same: dict[str, list[int]] = {}
    for row in rows.tolist():
        same.setdefault(hashes[row], []).append(row)
        stem = subject.source.paths[row].rpartition("/")[2]
        if ending(stem) and _NOTICE_NAME.search(stem):
            found[row] = f"{found[row]}, and named like one" if row in found else "named like a placeholder"
    for members in same.values():
        if len(members) >= _REPEATED:
            found.update({row: f"the same picture {len(members):,} times" for row in members})
    return found


def _placeholders(subject: Subject, notices: dict[int, str]) -> list[Finding]:
    if not notices:
        return []
    rows = sorted(notices, key=lambda row: ("named" not in notices[row], row))
    count = len(rows)
    return [
        Finding(
            "placeholder",
            "warning",
            count,
            f"{counted(count, 'image')} may be a placeholder, such as 'image not found', or a drawing.",
            "Look at them; remove what is no picture of its class.",
            examples_of(rows, [notices[row] for row in rows], subject.max_examples),
            rows_array(rows),
        )
    ]


def _robust_z(values: np.ndarray) -> np.ndarray:
    """Return the distance of each value from the median in robust standard deviations (1.4826 MAD)."""
    median = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - median))
    return (values - median) / max(float(spread), 1e-6)


def _lighting(subject: Subject, examination: Examination, rows: np.ndarray) -> list[Finding]:
    brightness = examination.measures["brightness"][rows]
    found = []
    for kind, is_odd, order in (
        ("dark", brightness < _DARK, brightness),
        ("bright", brightness > _BRIGHT, -brightness),
    ):
        if not 0 < is_odd.sum() <= _MOST_ODD * len(rows):
            continue
        chosen = rows[is_odd][np.argsort(order[is_odd], kind="stable")]
        details = [f"mean brightness {examination.measures['brightness'][row] / 255:.0%}" for row in chosen]
        found.append(
            Finding(
                kind,
                "note",
                len(chosen),
                f"{counted(len(chosen), 'image')} very {kind}.",
                "Look whether their subject can be told; if not, remove them or mend the exposure.",
                examples_of(chosen, details, subject.max_examples),
                rows_array(chosen.tolist()),
            )
        )
    return found


def softness(measures: np.ndarray) -> np.ndarray:
    """Return log10 of the Laplacian's variance over the luma's, float64 `(N,)`: the lower, the more blurred.

    The ratio does not change with contrast, so that a pale picture is not taken for a blurred one.
    """
    variance = np.maximum(measures["contrast"].astype(np.float64) ** 2, 1.0)
    return np.log10(np.maximum(measures["detail"].astype(np.float64), 1e-3) / variance)


def _blurred(subject: Subject, examination: Examination, rows: np.ndarray) -> list[Finding]:
    """An image is blurred if it has little detail both on an absolute scale and against the rest of the data set."""
    measures, side = examination.measures, examination.sharp_px
    if side < 32:
        return []
    # A small image that was enlarged has no fine detail: it is small, not out of focus.
    shorter = np.minimum(measures["width"], measures["height"])[rows]
    rows = rows[shorter >= side // 2]
    if len(rows) < 20:
        return []
    soft = softness(measures[rows])
    limit = np.interp(np.log(side), np.log(sorted(_SOFT)), np.log10([_SOFT[size] for size in sorted(_SOFT)]))
    chosen = (soft < limit) & (_robust_z(soft) < -_SOFT_OUTLIER)
    if not 0 < chosen.sum() <= _MOST_ODD * len(rows):
        return []
    blurred = rows[chosen][np.argsort(soft[chosen], kind="stable")]
    return [
        Finding(
            "blurred",
            "note",
            len(blurred),
            f"{counted(len(blurred), 'image')} without a sharp edge: out of focus, shaken, or enlarged.",
            "Look whether their subject can be told; smooth subjects such as a clear sky are listed too.",
            examples_of(blurred, None, subject.max_examples),
            rows_array(blurred.tolist()),
        )
    ]


def _sizes(subject: Subject, measures: np.ndarray, rows: np.ndarray, size_px: int) -> list[Finding]:
    width, height = measures["width"], measures["height"]
    shorter, found = np.minimum(width, height), []
    # Where a network is trained at the images' own size, half of them are below it; what is far below is odd.
    small = rows[shorter[rows] < min(size_px, 0.75 * float(np.median(shorter[rows])))]
    if len(small):
        small = small[np.argsort(shorter[small], kind="stable")]
        is_tiny = shorter[small[0]] * 2 <= size_px
        found.append(
            Finding(
                "small",
                "warning" if is_tiny else "note",
                len(small),
                f"{counted(len(small), 'image')} smaller than the {size_px} px that a network would be trained at.",
                "They are enlarged, which adds no detail. Find larger ones, or train at a lower --preprocess.size-px.",
                examples_of(small, [f"{width[row]} x {height[row]} px" for row in small], subject.max_examples),
                rows_array(small.tolist()),
            )
        )
    longer = np.maximum(width, height)
    median = float(np.median(longer[rows]))
    large = rows[longer[rows] > _LARGE_FACTOR * median]
    if len(large):
        large = large[np.argsort(-longer[large], kind="stable")]
        found.append(
            Finding(
                "large",
                "note",
                len(large),
                f"{counted(len(large), 'image')} over {_LARGE_FACTOR} times as long as the median of {median:.0f} px.",
                "Look whether they are scans or collages; reading them takes most of the time.",
                examples_of(large, [f"{width[row]:,} x {height[row]:,} px" for row in large], subject.max_examples),
                rows_array(large.tolist()),
            )
        )
    return found


def _aspects(subject: Subject, measures: np.ndarray, rows: np.ndarray) -> list[Finding]:
    width, height = (measures[name][rows].astype(np.float64) for name in ("width", "height"))
    aspect = np.maximum(width / height, height / width)
    is_odd = aspect > _MAX_ASPECT * np.median(aspect)
    if not is_odd.any():
        return []
    chosen = rows[is_odd][np.argsort(-aspect[is_odd], kind="stable")]
    details = [f"{measures['width'][row]:,} x {measures['height'][row]:,} px" for row in chosen]
    return [
        Finding(
            "aspect",
            "note",
            len(chosen),
            f"{counted(len(chosen), 'image')} over {_MAX_ASPECT:.0f} times as long and narrow as usual here.",
            "A network sees the middle square of them only. Cut out what matters, or use --preprocess.fit squash.",
            examples_of(chosen, details, subject.max_examples),
            rows_array(chosen.tolist()),
        )
    ]

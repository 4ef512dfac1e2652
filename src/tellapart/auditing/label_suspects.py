"""Which labels a model doubts, by confident learning, from predictions for images that it was not trained on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tellapart.auditing.findings import LabelSuspect
from tellapart.errors import MissingError, RunError
from tellapart.evaluation.predictions import Predictions


def find_label_suspects(predictions: Predictions) -> list[LabelSuspect]:
    """Return the images whose labels the predictions contradict, the most doubtful first; `row` is the table's index.

    A probability counts as confident where it is above the mean probability that images of that class get for it; an
    image is doubted where the class that is confident is not its own. What a model finds hard is not all mislabelled:
    look at each.

    Args:
        predictions: of held-out images only (val, test, or the folds of a k-fold run): a model agrees with the labels
            that it was trained on. One class an image, or several.

    Raises:
        MissingError: cleanlab is not installed.
        RunError: the predictions are numbers, for which there is no such estimate.

    Source: Northcutt, Jiang, Chuang 2021, "Confident learning", arXiv 1911.00068, section 3.1 (the off-diagonal of
    the confident joint), ranked by normalised margin, as cleanlab computes them.
    """
    if predictions.task == "regression":
        raise RunError("label suspects: the run predicts numbers; only classes can be doubted this way.")
    if not len(predictions):
        return []
    probs = np.asarray(predictions.outputs, dtype=np.float64)
    if predictions.task == "multilabel":
        return _multilabel(predictions, probs)
    given, predicted = predictions.targets, probs.argmax(axis=1)
    if len(np.unique(given)) < 2:
        return []
    ranked = _ranked(given, probs, multilabel=False)
    names = predictions.classes
    return [
        LabelSuspect(
            row=int(predictions.indices[place]),
            given=names[given[place]],
            suggested=names[predicted[place]],
            score=float((1.0 + probs[place, predicted[place]] - probs[place, given[place]]) / 2.0),
        )
        for place in ranked
        if predicted[place] != given[place]
    ]


def _multilabel(predictions: Predictions, probs: np.ndarray) -> list[LabelSuspect]:
    targets, predicted = predictions.targets.astype(bool), predictions.predicted()
    # A class that every image has, or none, leaves nothing to compare.
    varied = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    if not len(varied):
        return []
    lists = [np.flatnonzero(row).tolist() for row in targets[:, varied]]
    ranked = _ranked(lists, probs[:, varied], multilabel=True)
    surprise = np.abs(targets - probs).max(axis=1)
    return [
        LabelSuspect(
            row=int(predictions.indices[place]),
            given=_joined(predictions.classes, targets[place]),
            suggested=_joined(predictions.classes, predicted[place]),
            score=float(surprise[place]),
        )
        for place in ranked
        if (predicted[place] != targets[place]).any()
    ]


def _joined(classes: tuple[str, ...], chosen: np.ndarray) -> str:
    return "|".join(name for name, is_set in zip(classes, chosen, strict=True) if is_set)


def _ranked(labels: Any, probs: np.ndarray, *, multilabel: bool) -> np.ndarray:
    """Return the places that cleanlab doubts, the most doubtful first."""
    try:
        if multilabel:
            from cleanlab.multilabel_classification import filter as cleanlab_filter
        else:
            from cleanlab import filter as cleanlab_filter
    except ImportError as error:
        raise MissingError(
            "finding doubtful labels needs cleanlab, which is not installed. Install it with: "
            "pip install 'tellapart[audit]'; or leave out --run."
        ) from error
    with warnings.catch_warnings():
        # It warns of classes with hardly any images, which the audit counts and names itself.
        warnings.simplefilter("ignore", UserWarning)
        return cleanlab_filter.find_label_issues(
            labels, probs, return_indices_ranked_by="normalized_margin", filter_by="confident_learning", n_jobs=1
        )

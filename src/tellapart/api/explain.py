"""`explain`: where the network looks in an image, and which training images the image resembles."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tellapart.api.asked_images import Asked, given_images, own_images
from tellapart.api.load import load
from tellapart.api.run import Run
from tellapart.api.training_images import TrainingImages, network_inputs, seen
from tellapart.data.decode import ImageError, pixel_hash
from tellapart.data.sources.tree import to_text
from tellapart.errors import DataError, RunError, unknown_name
from tellapart.evaluation.gradcam import SpatialLayer, choose_layer, grad_cam, require_captum
from tellapart.evaluation.predictions import THRESHOLD
from tellapart.exporting.classifier import Classifier, Prediction
from tellapart.reporting.explanation import Explanation, HeatMap, Neighbour, Unreadable, as_text
from tellapart.reporting.explanation_page import write_page
from tellapart.training.progress import Progress, make_progress

# Each takes a picture and a few maps in memory, and nobody looks at more at a time.
_MOST_IMAGES = 1000
_MOST_MAPS = 4
_BATCH_SIZE = 16


@dataclass(frozen=True, eq=False)
class Explained:
    """What `explain` found.

    Attributes:
        run: the folder that was asked.
        layer: whose maps were looked at; None where the network has none.
        images: one an image, in the order they were named.
        notes: sentences about what could not be said, and why.
        page: the page that was written.
    """

    run: str
    layer: SpatialLayer | None
    images: tuple[Explanation | Unreadable, ...]
    notes: tuple[str, ...] = ()
    page: Path | None = None

    @property
    def explanations(self) -> tuple[Explanation, ...]:
        """Those of the images that could be read."""
        return tuple(each for each in self.images if isinstance(each, Explanation))

    @property
    def num_unreadable(self) -> int:
        """How many images could not be read."""
        return len(self.images) - len(self.explanations)

    def as_dict(self) -> dict[str, Any]:
        """Return what `explain --json` prints."""
        layer = self.layer
        return {
            "run": self.run,
            "layer": None if layer is None else {"name": layer.name, "grid": list(layer.grid)},
            "images": [each.as_dict() for each in self.images],
            "notes": list(self.notes),
            "page": None if self.page is None else str(self.page),
        }

    def __str__(self) -> str:
        notes = "\n".join(textwrap.fill(note, 80, break_long_words=False) for note in self.notes)
        return "\n\n".join([*map(as_text, self.images), *filter(None, [notes])])


def explain(
    run: str | os.PathLike[str] | Run,
    images: Any = (),
    *,
    split: str | None = None,
    mistakes: int | None = None,
    index: Sequence[int] = (),
    class_name: str | None = None,
    layer: str | None = None,
    neighbours: int = 6,
    data: Any = None,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    progress: bool | Progress = True,
) -> Explained:
    """Return, for each image, the prediction, where the network looks, and the training images most like it.

    Args:
        run: a run, its folder, or a bundle, which knows no training images.
        images: one or several of: path, folder, encoded bytes, uint8 array `(H, W)` or `(H, W, C)`.
        split: take the most confident mistakes of this split, as `evaluate` stored them.
        mistakes: how many of them; 10 by default.
        index: rows of the run's split.parquet to explain.
        class_name: look for this class, in the place of the predicted and the true one.
        layer: dotted name of the layer to look at; by default the last one with a map of the picture.
        neighbours: how many training images to name for each; 0 leaves them out, and reads none.
        data: the data again, for a run that was trained on arrays.
        out: where to write a page with the pictures.
        device: where to compute.
        progress: whether to show a progress bar.

    Raises:
        RunError: no such run, class, layer, split or row.
        DataError: no images, too many, or the run's own data cannot be opened where it is asked for.
        MissingError: captum is not installed.

    Source: Selvaraju et al. 2017 (Grad-CAM); nearest neighbours by the cosine of what enters the last layer.
    """
    if neighbours < 0:
        raise DataError(f"neighbours: expected 0 or more, found {neighbours}.")
    page = None if out is None else _checked_page(Path(out))
    classifier = load(run, device=device)
    folder = run.path if isinstance(run, Run) else Path(run)
    notes: list[str] = []
    known = _training_images(folder, classifier, data, neighbours, notes)
    asked = [*given_images(images), *own_images(folder, known, split, mistakes, index, notes)]
    if len(asked) > _MOST_IMAGES:
        raise DataError(f"explain: {len(asked):,} images at once; expected at most {_MOST_IMAGES:,}. Name fewer.")
    display = progress if isinstance(progress, Progress) else make_progress(progress)
    work = _Explainer(
        classifier,
        known,
        None if class_name is None else _class_index(classifier, class_name),
        _choose(classifier, layer, notes),
        neighbours,
        display,
        notes,
    )
    found = work.all_of(asked)
    result = Explained(to_text(str(folder)), work.layer, tuple(found), tuple(dict.fromkeys(notes)), page)
    if page is not None:
        about = classifier.info["model"]
        write_page(
            page,
            found,
            result.notes,
            title=f"{to_text(folder.resolve().name)}: explained",
            subtitle=f"{about['name']} at {about['size_px']} px",
            layer=work.layer,
            picture_of=None if known is None else known.picture,
        )
    return result


@dataclass
class _Explainer:
    classifier: Classifier
    known: TrainingImages | None
    asked_class: int | None
    layer: SpatialLayer | None
    num_neighbours: int
    display: Progress
    notes: list[str]

    def all_of(self, asked: Sequence[Asked]) -> list[Explanation | Unreadable]:
        """Return what is said of each image, some at a time."""
        found: list[Explanation | Unreadable] = []
        for start in range(0, len(asked), _BATCH_SIZE):
            found += self._some(asked[start : start + _BATCH_SIZE])
        return found

    def _some(self, asked: Sequence[Asked]) -> list[Explanation | Unreadable]:
        read = [self._read(each) for each in asked]
        sound = [(each, found) for each, found in zip(asked, read, strict=True) if not isinstance(found, Unreadable)]
        if not sound:
            return [found for found in read if isinstance(found, Unreadable)]
        explained = iter(self._explain([each for each, _ in sound], [found for _, found in sound]))
        return [found if isinstance(found, Unreadable) else next(explained) for found in read]

    def _read(self, asked: Asked) -> tuple[torch.Tensor, str] | Unreadable:
        """Return the reduced image, uint8 `(C, R, R)`, and the hash of its pixels, or why it cannot be read."""
        preprocess = self.classifier.module.preprocess
        try:
            raw = asked.read()
            pixels = preprocess.decode(raw)
            text = pixel_hash(preprocess.hashed_pixels(raw, pixels))
        except (ImageError, DataError) as error:
            return Unreadable(asked.path, str(error))
        except OSError as error:
            return Unreadable(asked.path, error.strerror or str(error))
        return preprocess.reduce(torch.from_numpy(pixels)), text

    def _explain(self, asked: Sequence[Asked], read: Sequence[tuple[torch.Tensor, str]]) -> list[Explanation]:
        classifier, known = self.classifier, self.known
        reduced, hashes = torch.stack([image for image, _ in read]), [text for _, text in read]
        near: list[tuple[Neighbour, ...]] = [()] * len(read)
        if known is not None and self.num_neighbours:
            near = known.neighbours(reduced, hashes, self.num_neighbours, self.display, self.notes)
        found = []
        for number, prediction in enumerate(classifier.predict(list(reduced))):
            each = asked[number]
            if each.stored_label not in (None, prediction.label):
                self.notes.append(
                    "Of some images the stored predictions say something else: they were made with other weights, over "
                    "several views or on another device. Make them again with `tellapart evaluate`."
                )
            found.append(self._explanation(each, prediction, hashes[number], reduced[number], near[number]))
        maps = self._maps(reduced, found)
        return [replace(each, heats=tuple(heats)) for each, heats in zip(found, maps, strict=True)]

    def _explanation(
        self, asked: Asked, prediction: Prediction, text: str, reduced: torch.Tensor, near: tuple[Neighbour, ...]
    ) -> Explanation:
        known, task = self.known, self.classifier.task
        rows = [] if known is None else known.rows_by_hash.get(text, [])
        labels = {known.split.classes[row] for row in rows} if known is not None else set()
        truth = next(iter(labels)) if len(labels) == 1 else None
        if known is not None and asked.row is not None:
            truth = known.split.classes[asked.row]
        return Explanation(
            path=asked.path,
            task=task,
            prediction=prediction,
            predicted=_predicted(self.classifier, prediction),
            truth=truth,
            is_right=None if truth is None or task == "regression" else _same(task, truth, prediction.label),
            picture=seen(self.classifier.module.preprocess, reduced),
            neighbours=near,
            trained_on=() if known is None else tuple(known.split.paths[row] for row in known.trained_on(text)),
        )

    def _maps(self, reduced: torch.Tensor, found: Sequence[Explanation]) -> list[list[HeatMap]]:
        """Return the heat maps of each image, computed together."""
        maps: list[list[HeatMap]] = [[] for _ in found]
        if self.layer is None:
            return maps
        wanted = [(place, *target) for place, each in enumerate(found) for target in self._targets(each)]
        names = self.classifier.classes
        for start in range(0, len(wanted), _BATCH_SIZE):
            some = wanted[start : start + _BATCH_SIZE]
            inputs = network_inputs(self.classifier, reduced[[place for place, _, _ in some]])
            targets = torch.tensor([output for _, output, _ in some])
            grids = grad_cam(self.classifier.module.network, inputs, targets, self.layer).numpy()
            for (place, output, role), grid in zip(some, grids, strict=True):
                name = names[output] if names else str(output)
                maps[place].append(HeatMap(name, role, grid, found[place].picture.shape[-1], self.layer))
        return maps

    def _targets(self, found: Explanation) -> list[tuple[int, str]]:
        """Return which outputs to look into, and why."""
        if self.asked_class is not None:
            return [(self.asked_class, "asked")]
        if found.task == "regression":
            return [(number, "value") for number in range(min(_MOST_MAPS, len(found.prediction.probs)))]
        place = {name: number for number, name in enumerate(self.classifier.classes)}
        chosen = [(place[name], "predicted") for name in found.predicted]
        if not chosen:
            chosen = [(place[found.prediction.top(1)[0][0]], "likeliest")]
        true = [found.truth or ""] if found.task == "multiclass" else (found.truth or "").split("|")
        known = {number for number, _ in chosen}
        missed = [(place[name], "true") for name in true if name in place and place[name] not in known]
        return [*chosen[: _MOST_MAPS - min(1, len(missed))], *missed][:_MOST_MAPS]


def _checked_page(path: Path) -> Path:
    if path.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"--out {to_text(str(path))}: expected a name that ends in .html.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise DataError(f"--out {to_text(str(path))}: expected the name of a file in a folder that is there.")
    return path


def _class_index(classifier: Classifier, name: str) -> int:
    count = classifier.info["model"]["num_classes"]
    names = list(classifier.classes) or [str(number) for number in range(count)]
    if name not in names:
        raise RunError(unknown_name("class", name, names))
    return names.index(name)


def _choose(classifier: Classifier, name: str | None, notes: list[str]) -> SpatialLayer | None:
    """Return the layer to look at; None, and a note, where the network has none and none was asked for."""
    about = classifier.info["model"]
    try:
        layer = choose_layer(classifier.module.network, about["in_channels"], about["size_px"], name)
    except RunError as error:
        if name is not None:
            raise
        notes.append(f"No heat maps: {error}")
        return None
    require_captum()
    return layer


def _training_images(
    folder: Path, classifier: Classifier, data: Any, num_neighbours: int, notes: list[str]
) -> TrainingImages | None:
    if not (folder / "split.parquet").is_file():
        if num_neighbours:
            notes.append("No neighbours: a bundle does not know what it was trained on; name its run instead.")
        return None
    known = TrainingImages(Run(folder), classifier, data)
    if num_neighbours and known.problem:
        notes.append(known.without())
    return known


def _predicted(classifier: Classifier, prediction: Prediction) -> tuple[str, ...]:
    if classifier.task == "multiclass":
        return (prediction.label,)
    if classifier.task == "regression":
        return ()
    thresholds = classifier.thresholds or (THRESHOLD,) * len(classifier.classes)
    chosen = {
        name for name, least in zip(classifier.classes, thresholds, strict=True) if prediction.probs[name] > least
    }
    return tuple(name for name, _ in prediction.top(len(classifier.classes)) if name in chosen)


def _same(task: str, truth: str, label: str) -> bool:
    # The source may list the classes in another order than the classifier does.
    return truth == label or (task == "multilabel" and set(truth.split("|")) == set(label.split("|")))

"""The classifier: every kind of image in, the same answer out, and that of the network run by hand."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tellapart.data.decode import ImageError
from tellapart.data.preprocess import Preprocess
from tellapart.errors import ConfigError, DataError
from tellapart.exporting.classifier import Classifier, Prediction
from tellapart.exporting.module import ClassifierModule
from tellapart.models import create_model

CLASSES = ("ant", "bee", "cat")
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
COLOUR = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)


def make_classifier(task: str = "multiclass", channels: int = 3, classes: tuple[str, ...] = CLASSES) -> Classifier:
    torch.manual_seed(0)
    network = create_model("cnn", num_classes=3, in_channels=channels, size_px=8)
    preprocess = Preprocess(8, MEAN[:channels], STD[:channels])
    mean, std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([1.0, 2.0, 3.0])
    scale = (mean, std) if task == "regression" else (None, None)
    module = ClassifierModule(preprocess, network, task, *scale).eval()
    return Classifier(module, () if task == "regression" else classes, {}, torch.device("cpu"))


def logits_by_hand(classifier: Classifier, image: np.ndarray) -> torch.Tensor:
    inputs = (
        torch.from_numpy(image).permute(2, 0, 1).float() / 255 - torch.tensor(MEAN)[:, None, None]
    ) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        return classifier.module.network(inputs[None])[0]


def probs(predictions: list[Prediction]) -> np.ndarray:
    return np.array([list(prediction.probs.values()) for prediction in predictions])


def assert_all_as(expected: Prediction, found: list[Prediction], count: int) -> None:
    """A batch of another size may be added up in another order, so the last bits may differ."""
    assert [prediction.label for prediction in found] == [expected.label] * count
    np.testing.assert_allclose(probs(found), probs([expected] * count), rtol=1e-4, atol=1e-6)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_equal_to_the_network_run_by_hand() -> None:
    classifier = make_classifier()
    expected = logits_by_hand(classifier, COLOUR).softmax(0).numpy()
    found = classifier.predict(COLOUR)
    assert len(found) == 1
    np.testing.assert_allclose(probs(found)[0], expected, rtol=1e-5, atol=1e-6)
    assert found[0].label == CLASSES[int(expected.argmax())]
    assert found[0].prob == max(found[0].probs.values())
    assert list(found[0].probs) == list(CLASSES)
    assert math.isclose(sum(found[0].probs.values()), 1.0, rel_tol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_by_hand(temperature: float) -> None:
    classifier = make_classifier()
    logits = logits_by_hand(classifier, COLOUR)
    classifier.module.calibrate(temperature)
    assert classifier.temperature == temperature
    found = classifier.predict(COLOUR)
    np.testing.assert_allclose(probs(found)[0], (logits / temperature).softmax(0).numpy(), rtol=1e-5, atol=1e-6)
    assert found[0].label == CLASSES[int(logits.argmax())]
    many = make_classifier("multilabel")
    many.module.calibrate(temperature)
    wanted = (logits_by_hand(many, COLOUR) / temperature).sigmoid().numpy()
    np.testing.assert_allclose(probs(many.predict(COLOUR))[0], wanted, rtol=1e-5, atol=1e-6)


def test_numbers_have_no_temperature() -> None:
    classifier = make_classifier("regression")
    expected = classifier.predict(COLOUR)[0].probs
    classifier.module.calibrate(3.0)
    assert classifier.predict(COLOUR)[0].probs == expected


def test_each_class_has_its_threshold() -> None:
    classifier = make_classifier("multilabel")
    found = np.array(list(classifier.predict(COLOUR)[0].probs.values()), np.float32)
    # Above its threshold, not at it: the first is just missed, the second just taken, the third far from either.
    classifier.module.calibrate(1.0, np.array([found[0], np.nextafter(found[1], np.float32(0)), 1.0]))
    assert classifier.predict(COLOUR)[0].label == "bee"
    assert list(classifier.predict(COLOUR)[0].probs.values()) == found.tolist()


BATCH = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8))


def test_without_views_the_bits_are_those_of_the_module() -> None:
    classifier = make_classifier()
    classifier.module.calibrate(1.6)
    with torch.inference_mode():
        assert torch.equal(classifier.outputs(BATCH), classifier.module.from_reduced(BATCH))
        assert torch.equal(classifier.logits(BATCH), classifier.module.logits(BATCH))
        assert torch.equal(classifier.outputs(BATCH), (classifier.logits(BATCH) / torch.tensor(1.6)).softmax(1))


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_each_view_is_the_transformed_image_run_by_itself(task: str) -> None:
    classifier = make_classifier(task)
    classifier.module.calibrate(2.0)
    padded = np.pad(BATCH.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    first, last = (torch.from_numpy(padded[..., start : start + 8, start : start + 8].copy()) for start in (0, 2))
    with torch.inference_mode():
        alone, *others = (
            classifier.module.logits(view) for image in (BATCH, first, last) for view in (image, image.flip(-1))
        )
    assert torch.equal(classifier.logits(BATCH, tta="none"), alone)
    assert torch.equal(classifier.logits(BATCH, tta="flip"), 0.5 * alone + 0.5 * others[0])
    expected = 0.25 * alone + 0.25 * others[0]
    for view in others[1:]:
        expected = expected + 0.125 * view
    assert torch.equal(classifier.logits(BATCH, tta="flip-shift"), expected)
    assert torch.equal(classifier.outputs(BATCH, tta="flip-shift"), classifier.module.from_logits(expected))


def test_predict_takes_the_views() -> None:
    classifier = make_classifier()
    image = BATCH[0]
    found = classifier.predict([image], tta="flip")[0]
    assert list(found.probs.values()) == classifier.outputs(BATCH[:1], tta="flip")[0].tolist()
    assert found.probs != classifier.predict([image])[0].probs
    # A mirrored image has the same two views.
    mirrored = classifier.predict([image.flip(-1)], tta="flip")[0]
    assert list(mirrored.probs.values()) == pytest.approx(list(found.probs.values()), abs=1e-6)


def test_an_unknown_name_of_views_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match=r"unknown tta 'flop'\. Did you mean 'flip'"):
        make_classifier().predict("no-such-file.jpg", tta="flop")


def test_multilabel_by_hand() -> None:
    classifier = make_classifier("multilabel")
    expected = logits_by_hand(classifier, COLOUR).sigmoid().numpy()
    found = classifier.predict(COLOUR)[0]
    np.testing.assert_allclose(list(found.probs.values()), expected, rtol=1e-5, atol=1e-6)
    assert found.label == "|".join(name for name, prob in zip(CLASSES, expected, strict=True) if prob > 0.5)


def test_a_label_of_exactly_one_half_is_not_given_as_in_the_metrics() -> None:
    classifier = make_classifier("multilabel")
    head = classifier.module.network.get_submodule("head")[-1]  # type: ignore[index]
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    found = classifier.predict(COLOUR)[0]
    assert set(found.probs.values()) == {0.5}
    assert found.label == ""


def test_regression_by_hand() -> None:
    classifier = make_classifier("regression")
    logits = logits_by_hand(classifier, COLOUR).numpy()
    expected = logits * [1.0, 2.0, 3.0] + [10.0, 20.0, 30.0]
    found = classifier.predict(COLOUR)[0]
    np.testing.assert_allclose(list(found.probs.values()), expected, rtol=1e-5)
    assert list(found.probs) == ["0", "1", "2"]
    assert [float(text) for text in found.label.split(", ")] == pytest.approx(expected, rel=1e-5)
    assert math.isnan(found.prob)


def test_every_kind_of_image_gives_the_same_answer(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(COLOUR))
    tensor = torch.from_numpy(COLOUR).permute(2, 0, 1)
    single: list[Any] = [
        path,
        str(path),
        path.read_bytes(),
        Image.fromarray(COLOUR),
        COLOUR,
        tensor,
        tensor.contiguous(),
    ]
    classifier = make_classifier()
    expected = classifier.predict(COLOUR)[0]
    for image in single:
        assert classifier.predict(image) == [expected], type(image)
        assert_all_as(expected, classifier.predict([image, image]), 2)
    several: list[Any] = [np.stack([COLOUR] * 2), torch.stack([tensor] * 2), (COLOUR, path), iter([COLOUR, tensor])]
    for images in several:
        assert_all_as(expected, classifier.predict(images), 2)
    assert_all_as(expected, classifier.predict(single), len(single))
    assert classifier.predict([]) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_of_every_shape(channels: int, tmp_path: Path) -> None:
    classifier = make_classifier(channels=channels)
    path = tmp_path / "grey.png"
    path.write_bytes(png(GREY))
    tensor = torch.from_numpy(GREY)
    images: list[Any] = [GREY, GREY[:, :, None], tensor, tensor[None], Image.fromarray(GREY), path]
    expected = classifier.predict(GREY)[0]
    for image in images:
        assert classifier.predict([image]) == [expected]
    # A stack of grey images is several, unless its shape is also that of one image in colour.
    stack = np.stack([GREY] * 5)
    assert_all_as(expected, classifier.predict(stack), 5)
    assert_all_as(expected, classifier.predict(torch.from_numpy(stack)), 5)
    assert len(classifier.predict(np.zeros((8, 8, 3), np.uint8))) == 1
    assert len(classifier.predict(torch.zeros((3, 8, 8), dtype=torch.uint8))) == 1


def test_an_image_alone_is_the_same_as_in_a_batch() -> None:
    classifier = make_classifier()
    images = [np.random.default_rng(n).integers(0, 256, (8, 8, 3), dtype=np.uint8) for n in range(70)]
    together = probs(classifier.predict(images))
    alone = np.concatenate([probs(classifier.predict(image)) for image in images])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-6)
    for batch_size in (1, 7, 70, 1000):
        found = classifier.predict(images, batch_size=batch_size)
        np.testing.assert_allclose(probs(found), together, rtol=1e-4, atol=1e-6)


def test_images_of_different_sizes_go_together() -> None:
    sizes = [(8, 8), (20, 9), (5, 31)]
    images = [np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8) for n, size in enumerate(sizes)]
    classifier = make_classifier()
    together = probs(classifier.predict(images))
    for image, row in zip(images, together, strict=True):
        np.testing.assert_allclose(probs(classifier.predict(image))[0], row, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"<html>", "HTML page"), (png(COLOUR)[:-30], "truncated PNG"), (None, "No such file")],
)
def test_an_image_that_cannot_be_read_is_named(content: bytes | None, reason: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    classifier = make_classifier()
    for path in (bad, str(bad)):
        with pytest.raises(DataError, match=rf"bad\.png: .*{reason}"):
            classifier.predict([COLOUR, path])
    with pytest.raises(DataError, match=rf"bad\.png: .*{reason}"):
        classifier.predict(bad)


def test_bytes_that_cannot_be_read_are_named_by_their_place() -> None:
    with pytest.raises(DataError, match="image 2: truncated PNG"):
        make_classifier().predict([COLOUR, png(COLOUR), png(COLOUR)[:-30]])


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is a directory"):
        make_classifier().predict(tmp_path)


def test_predict_each_goes_on_after_a_bad_image(tmp_path: Path) -> None:
    classifier = make_classifier()
    images = [COLOUR, b"", COLOUR, tmp_path / "none.png", COLOUR]
    for batch_size in (1, 2, 64):
        results = list(classifier.predict_each(images, batch_size))
        assert [image for image, _ in results] == images
        assert [isinstance(result, ImageError) for _, result in results] == [False, True, False, True, False]
        good = [result for _, result in results if isinstance(result, Prediction)]
        np.testing.assert_allclose(probs(good), probs(classifier.predict([COLOUR] * 3)), rtol=1e-4)


def test_predict_each_reads_no_further_than_a_batch_ahead() -> None:
    taken: list[int] = []

    def images() -> Any:
        for number in range(100):
            taken.append(number)
            yield COLOUR

    stream = make_classifier().predict_each(images(), 4)
    next(stream)
    assert len(taken) <= 8


@pytest.mark.parametrize("thing", [5, None, [1, 2], [None], COLOUR / 255.0, COLOUR.astype(np.int32), "a\0b", object()])
def test_what_is_no_image_is_a_data_error(thing: Any) -> None:
    with pytest.raises(DataError):
        make_classifier().predict(thing)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="at least 1"):
        make_classifier().predict([COLOUR], batch_size=0)


def test_top_k_is_best_first_and_stable() -> None:
    prediction = Prediction("b", 0.4, {"a": 0.2, "b": 0.4, "c": 0.2, "d": 0.2})
    assert prediction.top(3) == [("b", 0.4), ("a", 0.2), ("c", 0.2)]
    assert len(prediction.top(9)) == 4

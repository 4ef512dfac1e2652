"""Arrays, lists and .npz files as sources: shapes, dtypes, and what the label values mean."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.data.decode import decode
from tellapart.data.sources.arrays import ArraySource, open_npz
from tellapart.data.sources.labels import understand
from tellapart.data.sources.tasks import change_task
from tellapart.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("error")

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
GREY = COLOUR[..., 0].copy()
LABELS = [0, 1, 1, 0]


# --- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "num_channels"),
    [
        (COLOUR, 3),
        (COLOUR.transpose(0, 3, 1, 2), 3),
        (torch.from_numpy(COLOUR), 3),
        (torch.from_numpy(COLOUR).permute(0, 3, 1, 2), 3),
        (list(COLOUR), 3),
        ([torch.from_numpy(image).permute(2, 0, 1) for image in COLOUR], 3),
        ([Image.fromarray(image) for image in COLOUR], 3),
        (GREY, 1),
        (GREY[..., None], 1),
        (GREY[:, None], 1),
        (torch.from_numpy(GREY), 1),
    ],
    ids=[
        "NHWC",
        "NCHW",
        "tensor-NHWC",
        "tensor-NCHW",
        "list",
        "list-of-tensors",
        "pillow",
        "NHW",
        "NHW1",
        "N1HW",
        "tensor-NHW",
    ],
)
def test_every_layout_gives_the_same_pixels(images: object, num_channels: int) -> None:
    source = ArraySource(images, LABELS)
    assert source.num_channels == num_channels
    for index in range(4):
        expected = decode(COLOUR[index] if num_channels == 3 else GREY[index], num_channels)
        assert np.array_equal(decode(source.read(index), num_channels), expected)
    assert source.notes == []


def test_a_table_of_images_is_offered_whole_and_a_list_is_not() -> None:
    assert ArraySource(COLOUR, LABELS).images is COLOUR
    assert ArraySource(list(COLOUR), LABELS).images is None


def test_channels_on_either_axis_are_told_by_kind_and_noted() -> None:
    images = RANDOM.integers(0, 256, (2, 3, 8, 3), dtype=np.uint8)
    array, tensor = ArraySource(images, [0, 1]), ArraySource(torch.from_numpy(images), [0, 1])
    assert np.array_equal(array.read(0), images[0])
    assert np.array_equal(tensor.read(0), images[0].transpose(1, 2, 0))
    assert "last axis" in array.notes[0]
    assert "second axis" in tensor.notes[0]


def test_floats_in_0_to_1_and_bools_are_scaled_and_noted() -> None:
    values = np.array([[[0.0, 0.5, 1.0]], [[0.1, 0.2, 0.3]]])
    for images in (values, values.astype(np.float32), torch.from_numpy(values)):
        source = ArraySource(images, [0, 1])
        assert np.asarray(source.read(0)).tolist() == [[0, 128, 255]]
        assert "multiplied by 255" in source.notes[0]
    assert np.array_equal(np.asarray(ArraySource(GREY / np.float32(255), LABELS).images), GREY)
    source = ArraySource(values > 0.25, [0, 1])
    assert np.asarray(source.read(1)).tolist() == [[0, 0, 255]]
    assert "bool" in source.notes[0]


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (GREY.astype(np.float32), "float32 with values"),
        (GREY.astype(np.int64), "int64 with values"),
        (GREY.astype(np.uint16) * 257, "uint16 with values"),
        (np.full((4, 2, 2), np.nan), "float64 with values nan"),
        (np.full((4, 2, 2), -0.5), "values -0.5"),
        (np.zeros((4, 12)), r"found \(4, 12\)"),
        (np.zeros((4, 5, 6, 7), np.uint8), r"found \(4, 5, 6, 7\)"),
        (np.zeros((4, 0, 6), np.uint8), r"found \(4, 0, 6\)"),
        (["a.jpg"] * 4, "image 0: .* found str"),
        (np.array(["a"] * 4), "found"),
    ],
)
def test_other_pixels_are_refused(images: object, found: str) -> None:
    with pytest.raises(DataError, match=found):
        ArraySource(images, LABELS)


def test_lists_may_mix_sizes_kinds_and_encoded_bytes() -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY[0]).save(buffer, "PNG")
    clear = Image.new("LA", (3, 2), (0, 0))
    source = ArraySource([COLOUR[0], GREY[1, :3], buffer.getvalue(), clear], LABELS)
    shapes = [decode(source.read(index), 3).shape for index in range(4)]
    assert shapes == [(3, 6, 5), (3, 3, 5), (3, 6, 5), (3, 2, 3)]
    assert (decode(source.read(3), 1) == 255).all()


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="4 images but 3 targets"):
        ArraySource(COLOUR, [0, 1, 1])
    with pytest.raises(DataError, match="4 images but a single value"):
        ArraySource(COLOUR, 1)
    with pytest.raises(DataError, match="found none"):
        ArraySource([], [])


# --- labels --------------------------------------------------------------------------------------------------------


def test_whole_numbers_are_classes_named_after_them() -> None:
    source = ArraySource(COLOUR, [2, 7, 2, 10])
    assert source.classes == ("2", "7", "10")
    assert source.targets.dtype == np.int64
    assert source.targets.tolist() == [0, 1, 0, 2]
    assert source.label_name(3) == "10"
    assert "named after them" in source.notes[0]
    assert ArraySource(COLOUR, LABELS).notes == []


def test_strings_are_classes_in_sorted_order() -> None:
    for targets in (["b", "a", "b", "c"], np.array(["b", "a", "b", "c"], object), np.array([b"b", b"a", b"b", b"c"])):
        source = ArraySource(COLOUR, targets)
        assert source.classes == ("a", "b", "c")
        assert [source.label_name(index) for index in range(4)] == ["b", "a", "b", "c"]


def test_given_classes_keep_their_order_and_their_gaps() -> None:
    source = ArraySource(COLOUR, LABELS, classes=["z", "y", "x"])
    assert source.classes == ("z", "y", "x")
    assert source.label_name(1) == "y"
    assert ArraySource(COLOUR, ["y", "z", "z", "y"], classes=["z", "y"]).targets.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("targets", "classes", "message"),
    [
        ([0, 1, 2, 3], ["a", "b", "c"], "label 3 is 3; expected 0 to 2 for 3 classes"),
        ([0, -1, 0, 0], ["a", "b"], "label 1 is -1"),
        (["a", "b", "a", "cc"], ["a", "b", "c"], "unknown class 'cc'"),
        ([0, 1, 1, 0], ["a", "a"], "more than one 'a'"),
        ([0, 0, 0, 0], None, "at least two classes .* found one: '0'"),
        ([[0, 2], [0, 1], [1, 0], [1, 1]], None, "must be 0 or 1"),
        (np.eye(4, 2, dtype=int), ["a", "b", "c"], "3 class names but 2 columns"),
        ([0.0, np.nan, 1.0, 2.0], None, "target 1 is nan"),
        ([0.0, 1e300, 1.0, 2.0], None, "target 1 is 1e"),
        (np.zeros((4, 2, 2)), None, "shape"),
        (np.array([None] * 4), None, "object"),
        (np.zeros((4, 0)), None, "no columns"),
        (np.array([["a", "b"]] * 4), None, "found <U1 of shape"),
    ],
)
def test_labels_of_no_use_are_refused(targets: object, classes: list[str] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ArraySource(COLOUR, targets, classes)


def test_a_table_of_0_and_1_is_multilabel() -> None:
    table = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    for targets in (table, table.astype(bool), table.astype(np.float32), torch.from_numpy(table)):
        source = ArraySource(COLOUR, targets, classes=["a", "b", "c"])
        assert (source.task, source.targets.dtype) == ("multilabel", np.float32)
        assert source.targets.tolist() == table.tolist()
        assert [source.label_name(index) for index in range(4)] == ["a|c", "", "a|b|c", "b"]


def test_floats_are_regression() -> None:
    source = ArraySource(COLOUR, [0.5, 1.5, -2.0, 3.0])
    assert (source.task, source.classes, source.targets.dtype) == ("regression", (), np.float32)
    assert source.targets.tolist() == [[0.5], [1.5], [-2.0], [3.0]]
    assert source.label_name(2) == "-2"
    two = ArraySource(COLOUR, torch.rand(4, 2, dtype=torch.bfloat16))
    assert (two.task, two.targets.shape) == ("regression", (4, 2))
    whole = ArraySource(COLOUR, [0.0, 1.0, 2.0, 3.0])
    assert whole.task == "regression"
    assert "would be classes" in whole.notes[0]


@pytest.mark.parametrize(
    ("targets", "task", "expected", "classes"),
    [
        ([3, 1, 3, 5], "regression", [[3], [1], [3], [5]], ()),
        (["3", "1.5", "3", "5"], "regression", [[3], [1.5], [3], [5]], ()),
        ([0, 1, 2, 1], "multilabel", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]], ("0", "1", "2")),
        ([0.0, 1.0, 2.0, 1.0], "multiclass", [0, 1, 2, 1], ("0", "1", "2")),
        ([[1, 0], [0, 1], [1, 0], [0, 1]], "multiclass", [0, 1, 0, 1], ("0", "1")),
        ([[1, 0], [1, 1], [0, 0], [0, 1]], "regression", [[1, 0], [1, 1], [0, 0], [0, 1]], ()),
        ([[7, 0], [1, 1], [0, 0], [0, 1]], "regression", [[7, 0], [1, 1], [0, 0], [0, 1]], ()),
        ([[1], [0], [0], [1]], "auto", [1, 0, 0, 1], ("0", "1")),
        ([[1], [0], [0], [1]], "multilabel", [[1], [0], [0], [1]], ("0",)),
    ],
)
def test_the_task_can_be_set_where_it_fits(
    targets: list[object], task: str, expected: list[object], classes: tuple[str, ...]
) -> None:
    source = ArraySource(COLOUR, targets, task=task)
    assert source.targets.tolist() == expected
    assert source.classes == classes
    assert source.task == (task if task != "auto" else "multiclass")
    assert source.targets.dtype == (np.int64 if source.task == "multiclass" else np.float32)


@pytest.mark.parametrize(
    ("targets", "task", "message"),
    [
        (["a", "b", "a", "b"], "regression", "class name 'a' is no number"),
        ([[1, 1], [0, 1], [1, 0], [0, 1]], "multiclass", "arrays/0000 has 2 classes"),
        ([0.5, 1.0, 1.5, 2.0], "multiclass", "not one whole number"),
        ([0.5, 1.0, 1.5, 2.0], "multilabel", "not all 0 or 1"),
        ([0, 1, 0, 1], "multi-class", "Did you mean 'multiclass'"),
    ],
)
def test_the_task_is_refused_where_it_does_not_fit(targets: list[object], task: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArraySource(COLOUR, targets, task=task)


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=20).filter(lambda values: len(set(values)) > 1))
@settings(max_examples=50, deadline=None)
def test_names_of_numbers_lead_back_to_the_numbers(values: list[int]) -> None:
    labels = understand(np.array(values), None, "auto", "x")
    assert [int(labels.classes[target]) for target in labels.targets] == values
    assert [int(name) for name in labels.classes] == sorted(set(values))
    source = ArraySource(np.zeros((len(values), 2, 2), np.uint8), values)
    change_task(source, "regression")
    assert source.targets[:, 0].tolist() == values
    change_task(source, "multiclass")
    assert [source.label_name(index) for index in range(len(values))] == [str(value) for value in values]


def test_parts_are_kept_and_checked() -> None:
    source = ArraySource(COLOUR, LABELS, parts=["train", "Validation", "test", ""])
    assert source.parts == ["train", "val", "test", ""]
    assert ArraySource(COLOUR, LABELS).parts == [""] * 4
    with pytest.raises(DataError, match="unknown part 'holdout'"):
        ArraySource(COLOUR, LABELS, parts=["train", "holdout", "", ""])
    with pytest.raises(DataError, match="4 images but 1 entries"):
        ArraySource(COLOUR, LABELS, parts=["train"])


# --- .npz ----------------------------------------------------------------------------------------------------------


def test_npz_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "pets.npz"
    parts = ["train", "train", "val", "test"]
    np.savez(path, images=COLOUR, labels=LABELS, classes=["cat", "dog"], split=parts, id=[1])
    source = open_npz(path)
    assert (source.name, source.classes, source.parts) == ("pets.npz", ("cat", "dog"), parts)
    assert np.array_equal(np.asarray(source.images), COLOUR)
    assert source.paths[3] == "pets.npz/0003"
    assert source.notes == ["pets.npz also holds id, which nothing reads."]


def test_npz_with_targets(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=GREY, targets=[0.1, 0.2, 0.3, 0.4])
    assert open_npz(str(tmp_path / "a.npz")).task == "regression"


def test_npz_that_lacks_an_array_or_is_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=COLOUR, y_train=LABELS)
    with pytest.raises(DataError, match=r"expected arrays named 'images' and 'labels' .* found x_train, y_train"):
        open_npz(str(tmp_path / "a.npz"))
    raw = (tmp_path / "a.npz").read_bytes()
    np.save(tmp_path / "single.npy", GREY)
    flipped = raw[:200] + bytes([raw[200] ^ 1]) + raw[201:]
    single = (tmp_path / "single.npy").read_bytes()
    for number, damaged in enumerate((b"", b"text", raw[:100], raw[: len(raw) // 2], flipped, single)):
        path = tmp_path / f"damaged{number}.npz"
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
            open_npz(str(path))


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_npz_runs_no_pickle(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", images=np.array([_Trap(trace)], object), labels=[0])
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        open_npz(str(tmp_path / "a.npz"))
    assert not trace.exists()
    with np.load(tmp_path / "a.npz", allow_pickle=True) as archive:
        _ = archive["images"]
    assert trace.exists(), "the trap itself must work, or the test proves nothing"

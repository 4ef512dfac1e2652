from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tellapart.errors import ConfigError, DataError
from tellapart.optim import LOSSES, create_loss

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 4.0, 0.25])


def draw(num_images: int = 12, num_classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (float64), hard labels and soft targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    soft = torch.rand(num_images, num_classes, generator=generator, dtype=torch.float64)
    return logits, labels, soft / soft.sum(1, keepdim=True)


@pytest.mark.parametrize("is_soft", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(is_soft: bool, weights: Tensor | None, smoothing: float) -> None:
    logits, labels, soft = draw()
    targets = soft if is_soft else labels
    loss = create_loss("cross-entropy", label_smoothing=smoothing, class_weights=weights)
    double_weights = None if weights is None else weights.double()
    expected = F.cross_entropy(logits, targets, weight=double_weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, targets), expected)


def test_cross_entropy_with_class_weights_by_hand() -> None:
    # Probabilities 3/4 and 1/4 for both images; labels 0 and 1, which weigh 1 and 3.
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    loss = create_loss("cross-entropy", class_weights=torch.tensor([1.0, 3.0]))
    expected = (1 * math.log(4 / 3) + 3 * math.log(4)) / (1 + 3)
    assert float(loss(logits, torch.tensor([0, 1]))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_binary_cross_entropy_equals_torch(weights: Tensor | None) -> None:
    logits, _, _ = draw()
    targets = (torch.arange(60).reshape(12, 5) % 3 == 0).double()
    loss = create_loss("binary-cross-entropy", class_weights=weights)
    pos_weight = None if weights is None else weights.double()
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight)
    torch.testing.assert_close(loss(logits, targets), expected)


def test_binary_cross_entropy_smooths_towards_one_half() -> None:
    logits = torch.tensor([[0.3, -0.2]])
    smoothed = create_loss("binary-cross-entropy", label_smoothing=0.2)(logits, torch.tensor([[1.0, 0.0]]))
    plain = create_loss("binary-cross-entropy")(logits, torch.tensor([[0.9, 0.1]]))
    torch.testing.assert_close(smoothed, plain)


def test_mean_squared_error_equals_torch() -> None:
    logits, _, soft = draw()
    torch.testing.assert_close(create_loss("mean-squared-error")(logits, soft), F.mse_loss(logits, soft))


@pytest.mark.parametrize("name", LOSSES)
def test_hard_labels_mean_their_one_hot_targets(name: str) -> None:
    logits, labels, _ = draw()
    loss = create_loss(name)
    torch.testing.assert_close(loss(logits, labels), loss(logits, F.one_hot(labels, 5).double()))


CONFIGURED = [
    ("cross-entropy", 0.0, False),
    ("cross-entropy", 0.1, True),
    ("binary-cross-entropy", 0.1, True),
    ("mean-squared-error", 0.0, False),
]


@pytest.mark.parametrize(("name", "smoothing", "is_weighted"), CONFIGURED)
@pytest.mark.parametrize("is_soft", [False, True])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 12), max_size=4), seed=st.integers(0, 1000))
def test_parts_of_a_batch_add_up(
    name: str, smoothing: float, is_weighted: bool, is_soft: bool, cuts: list[int], seed: int
) -> None:
    logits, labels, soft = draw(seed=seed)
    targets = soft if is_soft else labels
    loss = create_loss(name, label_smoothing=smoothing, class_weights=WEIGHTS if is_weighted else None)
    whole = logits.clone().requires_grad_()
    value = loss(whole, targets)
    value.backward()

    divided = logits.clone().requires_grad_()
    weight, added, added_weight = loss.weight(targets), 0.0, 0.0
    edges = [0, *sorted(cuts), 12]
    for start, stop in itertools.pairwise(edges):
        total, part_weight = loss.sum_and_weight(divided[start:stop], targets[start:stop])
        (total / weight).backward()
        added, added_weight = added + total.item(), added_weight + part_weight.item()
    assert whole.grad is not None
    assert divided.grad is not None
    torch.testing.assert_close(divided.grad, whole.grad, rtol=1e-12, atol=1e-15)
    assert added / added_weight == pytest.approx(value.item(), rel=1e-6)


def test_a_mean_of_means_would_not_add_up() -> None:
    logits, labels, _ = draw()
    loss = create_loss("cross-entropy", class_weights=WEIGHTS)
    halves = (loss(logits[:6], labels[:6]) + loss(logits[6:], labels[6:])) / 2
    assert abs(float(halves - loss(logits, labels))) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_reductions_agree(name: str) -> None:
    logits, labels, _ = draw()
    loss = create_loss(name)
    each = loss(logits, labels, reduction="none")
    assert each.shape == (12,)
    torch.testing.assert_close(each.sum(), loss(logits, labels, reduction="sum"))
    torch.testing.assert_close(each.mean(), loss(logits, labels))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, labels, soft = draw()
    low = logits.to(dtype)
    loss = create_loss(name)
    for targets in (labels, soft.float(), soft.to(dtype)):
        value = loss(low, targets)
        assert value.dtype == torch.float32
        if targets.dtype != dtype:
            assert torch.equal(value, loss(low.float(), targets))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (torch.zeros(3, dtype=torch.int64), r"int64 \(3,\)"),
        (torch.zeros(4, dtype=torch.int32), r"int32 \(4,\)"),
        (torch.zeros(4), r"float32 \(4,\)"),
        (torch.zeros(4, 4), r"float32 \(4, 4\)"),
        (torch.zeros(4, 5, dtype=torch.int64), r"int64 \(4, 5\)"),
        (torch.zeros(4, 1, dtype=torch.int64), r"int64 \(4, 1\)"),
        (torch.zeros(4, 5, dtype=torch.bool), r"bool \(4, 5\)"),
        (torch.tensor([0, 1, 5, 2]), "from 0 to 5"),
        (torch.tensor([0, -100, 1, 2]), "from -100 to 2"),
    ],
)
def test_wrong_targets_are_named(name: str, targets: Tensor, found: str) -> None:
    with pytest.raises(DataError, match=found):
        create_loss(name)(torch.zeros(4, 5), targets)


def test_torchs_mark_for_left_out_labels_means_nothing_here() -> None:
    # On a GPU the range is not checked, as that would wait for it; then torch itself must stop at -100.
    with pytest.raises(IndexError, match="Target -100 is out of bounds"):
        create_loss("cross-entropy")._per_image(torch.zeros(2, 5), torch.tensor([0, -100]))


def test_wrong_logits_are_named() -> None:
    with pytest.raises(DataError, match=r"expected logits as float \(B, K\), found float32 \(4, 5, 1\)"):
        create_loss("cross-entropy")(torch.zeros(4, 5, 1), torch.zeros(4, dtype=torch.int64))


def test_a_setting_that_a_loss_cannot_honour_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        create_loss("mean-squared-error", label_smoothing=0.1, class_weights=WEIGHTS)
    assert len(caught.value.problems) == 2


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cross-entropy'") as caught:
        create_loss("crossentropy", label_smoothing=1.0, class_weights=torch.tensor([1.0, 0.0]))
    assert len(caught.value.problems) == 3


def test_class_weights_of_another_number_of_classes_are_an_error() -> None:
    with pytest.raises(ConfigError, match="each of the 4 logits, found 5"):
        create_loss("cross-entropy", class_weights=WEIGHTS)(torch.zeros(1, 4), torch.tensor([0]))


def test_class_weights_move_with_the_module_and_are_not_its_state() -> None:
    loss = create_loss("cross-entropy", class_weights=WEIGHTS)
    assert not loss.state_dict()
    assert [name for name, _ in loss.named_buffers()] == ["class_weights"]

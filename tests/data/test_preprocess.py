"""The one preprocessing: against torchvision and Pillow, and the equalities that let its first half be kept."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.data import preprocess as module
from tellapart.data.decode import decode, pixel_hash
from tellapart.data.preprocess import Preprocess, center_crop
from tellapart.errors import ConfigError
from tests.tolerances import tolerance

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = st.integers(1, 40)
FITS = st.sampled_from(["crop", "squash"])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def blank(size_px: int, *, resize_px: int = 0, fit: str = "crop", channels: int = 3) -> Preprocess:
    return Preprocess(size_px, [0.0] * channels, [1.0] * channels, resize_px=resize_px, fit=fit)


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Return the same images with the channels side by side in memory, however many there are."""
    *_, channels, height, width = images.shape
    flat = images.reshape(-1, channels, height, width).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return flat.unflatten(0, images.shape[:-3]) if images.ndim > 3 else flat[0]


def in_floats(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return what other devices than the CPU compute: two passes in float32, here in float64."""
    rows = (module._interpolate(images.double(), images.shape[-2], side) + 0.5).floor()
    return (module._interpolate(rows, side, side) + 0.5).floor().to(torch.uint8)


def largest_difference(one: torch.Tensor, two: torch.Tensor) -> int:
    assert one.shape == two.shape
    return int((one.int() - two.int()).abs().max())


# --- reduce ----------------------------------------------------------------------------------------------------------


@given(SIDES, SIDES, st.integers(1, 24), st.integers(0, 30), FITS)
def test_reduce_makes_squares_and_is_idempotent(height: int, width: int, size: int, resize: int, fit: str) -> None:
    preprocess = blank(size, resize_px=resize, fit=fit)
    reduced = preprocess.reduce(noise(3, height, width))
    side = preprocess.resize_px
    assert reduced.shape == (3, side, side)
    assert reduced.dtype == torch.uint8
    assert torch.equal(preprocess.reduce(reduced), reduced)


@given(st.integers(1, 24), st.integers(0, 30), FITS)
def test_what_has_the_size_already_is_left_alone(size: int, resize: int, fit: str) -> None:
    preprocess = blank(size, resize_px=resize, fit=fit)
    images = noise(2, 3, preprocess.resize_px, preprocess.resize_px)
    assert torch.equal(preprocess.reduce(images), images)


@given(SIDES, SIDES, st.integers(1, 24), FITS)
def test_a_batch_is_reduced_as_its_images_are(height: int, width: int, size: int, fit: str) -> None:
    preprocess = blank(size, fit=fit)
    images = noise(3, 3, height, width)
    together = preprocess.reduce(images)
    assert torch.equal(together, torch.stack([preprocess.reduce(image) for image in images]))
    assert torch.equal(together[1:2], preprocess.reduce(images[1:2]))


@given(SIDES, SIDES, st.integers(1, 24), FITS, st.integers(0, 255))
def test_an_even_colour_stays_as_it_is(height: int, width: int, size: int, fit: str, grey: int) -> None:
    reduced = blank(size, fit=fit, channels=1).reduce(torch.full((1, height, width), grey, dtype=torch.uint8))
    assert reduced.unique().tolist() == [grey]


@given(SIDES, SIDES, st.integers(1, 24))
def test_the_middle_is_the_middle(height: int, width: int, size: int) -> None:
    # Mirroring an image mirrors the result, unless a margin is odd and the middle lies between two pixels.
    preprocess = blank(size)
    image = noise(1, height, width)
    if (height - width) % 2 == 0:
        mirrored = preprocess.reduce(image.flip(-1, -2)).flip(-1, -2)
        assert largest_difference(mirrored, preprocess.reduce(image)) <= 1


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter(fit: str, threads: int) -> None:
    image = noise(3, 400, 300)
    expected = blank(128, fit=fit).reduce(image)
    with num_threads(threads):
        assert torch.equal(blank(128, fit=fit).reduce(image), expected)


@given(SIDES, SIDES, st.integers(1, 24), FITS, st.sampled_from([1, 3]), st.integers(1, 3))
def test_where_the_pixels_lie_in_memory_does_not_matter(
    height: int, width: int, size: int, fit: str, channels: int, count: int
) -> None:
    preprocess, images = blank(size, fit=fit, channels=channels), noise(count, channels, height, width)
    expected = preprocess.reduce(images)
    assert torch.equal(preprocess.reduce(channels_last(images)), expected)
    assert torch.equal(preprocess.reduce(images.mT.contiguous().mT), expected)
    assert torch.equal(preprocess.reduce(torch.cat([images, images], dim=-1)[..., :width]), expected)


# Height, width, side.
SIZES = [(37, 21, 16), (21, 37, 16), (100, 64, 32), (8, 14, 8), (31, 31, 16), (500, 375, 144), (5, 9, 25), (31, 31, 32)]
SIZES += [(1, 1, 8), (1, 9, 8), (9, 1, 8), (2, 2, 3), (63, 65, 9), (200, 300, 1), (32, 32, 64), (28, 28, 32)]


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_reduce_equals_torchvision_within_a_grey_level(fit: str, height: int, width: int, side: int) -> None:
    from torchvision.transforms import v2

    image = noise(3, height, width, seed=height)
    short = min(height, width)
    # In floats: torchvision, too, hands uint8 to the very routine that is to be judged.
    steps = [v2.ToDtype(torch.float32), v2.Resize((side, side), antialias=True)]
    # torchvision takes the later middle where the margin is odd, so the crop is ours; the test below holds it to that.
    square = center_crop(image, short) if fit == "crop" else image
    expected = v2.Compose(steps)(square).add(0.5).floor().to(torch.uint8)
    assert largest_difference(blank(side, fit=fit).reduce(image), expected) <= 1


@pytest.mark.parametrize("short", [1, 2, 7, 8])
@pytest.mark.parametrize("margin", [0, 2, 4, 10])
def test_the_square_is_torchvisions_where_the_middle_is_a_pixel(short: int, margin: int) -> None:
    from torchvision.transforms import v2

    for image in (noise(3, short, short + margin), noise(3, short + margin, short)):
        assert torch.equal(blank(short).reduce(image), v2.CenterCrop(short)(image))


@given(SIDES, SIDES, st.integers(1, 40), FITS, st.sampled_from([1, 3]))
@settings(max_examples=200)
def test_reduce_equals_pillow_within_a_grey_level(height: int, width: int, side: int, fit: str, channels: int) -> None:
    image = noise(channels, height, width, seed=height)
    short = min(height, width)
    square = center_crop(image, short) if fit == "crop" else image
    pixels = square[0].numpy() if channels == 1 else square.permute(1, 2, 0).numpy()
    resized = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    expected = torch.from_numpy(resized.reshape(side, side, channels).copy()).permute(2, 0, 1)
    assert largest_difference(blank(side, fit=fit, channels=channels).reduce(image), expected) <= 1


REAL_SIZES = [(375, 500, 224), (500, 375, 256), (32, 32, 64), (28, 28, 32), (600, 600, 32), (48, 48, 8), (96, 96, 224)]


@pytest.mark.parametrize(("height", "width", "side"), REAL_SIZES)
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_the_integer_routine_equals_the_two_passes_in_floats(fit: str, height: int, width: int, side: int) -> None:
    images = noise(2, 3, height, width)
    square = center_crop(images, min(height, width)) if fit == "crop" else images
    found, expected = blank(side, fit=fit).reduce(images), in_floats(square, side)
    differs = (found.int() - expected.int()).abs()
    assert int(differs.max()) <= 1
    assert float((differs > 0).float().mean()) <= 0.05


@pytest.mark.parametrize(("height", "width", "side"), REAL_SIZES)
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_what_other_devices_run_gives_the_same_within_a_grey_level(
    monkeypatch: pytest.MonkeyPatch, fit: str, height: int, width: int, side: int
) -> None:
    images, preprocess = noise(2, 3, height, width), blank(side, fit=fit)
    expected = preprocess.reduce(images)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # takes the way of other devices on the CPU
    found = preprocess.reduce(images)
    assert found.dtype == torch.uint8
    differs = (found.int() - expected.int()).abs()
    assert int(differs.max()) <= 1
    assert float((differs > 0).float().mean()) <= 0.02
    assert torch.equal(preprocess.reduce(images[1]), found[1])


@given(SIDES, SIDES, st.integers(1, 40))
@settings(max_examples=200)
def test_the_two_passes_in_floats_never_lie_far_away(height: int, width: int, side: int) -> None:
    # Where the first pass rounds two neighbours to another side each, the second can add them up to two levels.
    images = noise(1, 3, height, width, seed=width)
    found = blank(side, fit="squash").reduce(images)
    expected = images if height == width == side else in_floats(images, side)
    differs = (found.int() - expected.int()).abs()
    assert int(differs.max()) <= 2
    assert int((differs > 1).sum()) <= 0.01 * differs.numel() + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("height", "width", "side"), REAL_SIZES)
def test_a_gpu_reduces_as_the_cpu_does(height: int, width: int, side: int) -> None:
    images, preprocess = noise(2, 3, height, width), blank(side)
    differs = (preprocess.reduce(images.cuda()).cpu().int() - preprocess.reduce(images).int()).abs()
    assert int(differs.max()) <= 1
    assert float((differs > 0).float().mean()) <= 0.05


@pytest.mark.parametrize(("height", "width"), [(1, 60_000), (60_000, 1), (3, 5_001), (2, 1)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("side", [1, 64])
def test_a_line_is_reduced_like_any_image(fit: str, height: int, width: int, side: int) -> None:
    image = noise(3, height, width)
    reduced = blank(side, fit=fit).reduce(image)
    assert reduced.shape == (3, side, side)
    square = center_crop(image, min(height, width)) if fit == "crop" else image
    assert largest_difference(reduced, in_floats(square[None], side)[0]) <= 1
    assert blank(side, fit=fit).reduce(torch.full_like(image, 255)).unique().tolist() == [255]


def test_a_line_keeps_its_middle() -> None:
    image = torch.zeros(1, 1, 2001, dtype=torch.uint8)
    image[..., 1000] = 255
    assert blank(9, channels=1).reduce(image).unique().tolist() == [255]


def test_squashing_by_a_whole_number_is_a_triangle_of_weights() -> None:
    # Halved with antialiasing, a pixel takes 1/8, 3/8, 3/8, 1/8 of the four around it.
    image = torch.tensor([0, 0, 0, 80, 0, 0, 0, 0], dtype=torch.uint8).reshape(1, 1, 8).expand(1, 8, 8)
    assert blank(4, channels=1).reduce(image)[0, 2].tolist() == [0, 30, 10, 0]


# --- the two halves --------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(0, 24), SIDES, SIDES, FITS)
def test_forward_is_normalize_of_reduce(size: int, resize: int, height: int, width: int, fit: str) -> None:
    preprocess = Preprocess(size, MEAN, STD, resize_px=resize, fit=fit)
    images = noise(2, 3, height, width)
    whole = preprocess(images)
    assert whole.shape == (2, 3, size, size)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, preprocess.normalize(preprocess.reduce(images)))
    assert torch.equal(whole, preprocess(preprocess.reduce(images)))


@given(st.integers(1, 12), st.integers(0, 6), st.integers(0, 9), st.integers(0, 9))
def test_the_middle_of_the_middle_is_the_middle_of_the_whole(size: int, margin: int, more: int, yet_more: int) -> None:
    resize = size + 2 * margin
    image = noise(3, resize + more, resize + yet_more)
    assert torch.equal(center_crop(center_crop(image, resize), size), center_crop(image, size))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 23), (29, 16)])
def test_a_kept_square_gives_what_the_whole_image_gives(height: int, width: int) -> None:
    images = noise(2, 3, height, width)
    for size in (16, 14, 9, 1):
        preprocess = blank(size, resize_px=16)
        resized = module._resize(center_crop(images, 16), preprocess.resize_px)
        expected = center_crop(resized, size).float() / 255
        torch.testing.assert_close(preprocess(images), expected, **tolerance(torch.float32))


@pytest.mark.parametrize(
    ("size", "resize", "expected"), [(8, 0, 8), (8, 8, 8), (8, 9, 10), (8, 10, 10), (7, 8, 9), (8, 3, 8), (1, 2, 3)]
)
def test_the_margin_is_even(size: int, resize: int, expected: int) -> None:
    assert blank(size, resize_px=resize).resize_px == expected


def test_center_crop_leaves_what_is_smaller() -> None:
    image = noise(3, 4, 9)
    assert torch.equal(center_crop(image, 6), image[:, :, 1:7])
    assert torch.equal(center_crop(image, 10), image)


# --- normalize -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.5,) * 3, (0.5,) * 3), ((0.2,), (0.003,))])
def test_normalize_equals_torchvision(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    from torchvision.transforms import v2

    images = noise(2, len(mean), 9, 9)
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])(images)
    found = Preprocess(9, mean, std).normalize(images)
    torch.testing.assert_close(found, expected, **tolerance(torch.float32))


@given(
    st.integers(1, 70),
    st.integers(0, 3),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.integers(1, 3),
    st.integers(0, 9),
)
@settings(max_examples=200)
def test_normalize_gives_the_same_bits_however_the_channels_lie(
    size: int, margin: int, count: int, channels: int, threads: int, seed: int
) -> None:
    mean, std = np.random.default_rng(seed).uniform(0.05, 0.95, (2, channels)).tolist()
    preprocess = Preprocess(size, mean, std, resize_px=size + 2 * margin)
    images = noise(count, channels, preprocess.resize_px, preprocess.resize_px, seed=seed)
    expected = preprocess.normalize(images)
    with num_threads(threads):
        for other in (images, channels_last(images), images.contiguous(memory_format=torch.channels_last)):
            found = preprocess.normalize(other)
            assert found.shape == (count, channels, size, size)
            assert torch.equal(found, expected)
    one_by_one = torch.cat([preprocess.normalize(channels_last(images[place, None])) for place in range(count)])
    assert torch.equal(one_by_one, expected)


def test_normalize_of_a_large_batch_does_not_depend_on_threads() -> None:
    # Large enough that torch divides the work, at places that cut through rows and vectors.
    preprocess = Preprocess(97, MEAN, STD)
    images = noise(8, 3, 97, 97)
    expected = torch.stack([preprocess.normalize(image[None])[0] for image in images])
    for threads in (1, 2, 3):
        with num_threads(threads):
            assert torch.equal(preprocess.normalize(images), expected)
            assert torch.equal(preprocess.normalize(channels_last(images)), expected)


def test_normalize_keeps_the_channels_last() -> None:
    found = Preprocess(9, MEAN, STD).normalize(channels_last(noise(2, 3, 9, 9)))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_normalize_by_hand() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3).expand(1, 1, 3, 3)
    found = Preprocess(3, [0.2], [0.4])(images)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([-0.5, 0.0, 2.0]), **tolerance(torch.float32))


# --- decoding --------------------------------------------------------------------------------------------------------


def jpeg(height: int, width: int) -> bytes:
    """Return a photograph's stand-in: smooth, with some detail."""
    small = np.random.default_rng(0).integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_the_hash_of_a_photograph_does_not_depend_on_the_size_that_is_trained_at() -> None:
    raw = jpeg(2000, 3000)
    decoded = [blank(size).decode(raw) for size in (32, 64, 128, 224, 256)]
    assert {pixels.shape for pixels in decoded} == {(3, 1000, 1500)}
    assert len({pixel_hash(pixels) for pixels in decoded}) == 1
    assert pixel_hash(decoded[0]) == pixel_hash(blank(16, resize_px=256, fit="squash").decode(raw))


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [(32, 4096, 512), (32, 4095, 512), (32, 4088, 511 * 2), (256, 1024, 512), (257, 1024, 1024), (300, 1200, 600)],
)
def test_a_jpeg_is_decoded_at_least_twice_as_large_as_needed(size: int, side: int, expected: int) -> None:
    assert blank(size).decode(jpeg(side, side + 8)).shape[1] == expected


def test_reduced_scale_looks_as_the_whole_does() -> None:
    raw = jpeg(2000, 3000)
    for preprocess in (blank(64), blank(224), blank(224, fit="squash")):
        reduced = preprocess.reduce(torch.from_numpy(preprocess.decode(raw)))
        whole = preprocess.reduce(torch.from_numpy(decode(raw, 3)))
        differs = (reduced.int() - whole.int()).abs().float()
        assert float(differs.mean()) < 0.5
        assert int(differs.max()) <= 4


def test_transparent_pixels_are_over_the_background_that_the_settings_name() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (3, 3), (9, 9, 9, 0)).save(buffer, "PNG")
    for background, expected in (
        ("white", (255,) * 3),
        ("black", (0,) * 3),
        ("grey", (128,) * 3),
        ("#0a14ff", (10, 20, 255)),
    ):
        made = Preprocess(3, MEAN, STD, background=background)
        again = Preprocess(**json.loads(json.dumps(made.settings())))
        for preprocess in (made, again):
            assert preprocess.decode(buffer.getvalue())[:, 1, 1].tolist() == list(expected)


def test_an_unknown_background_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"preprocess\.background: expected white, black, grey or #rrggbb, found 'sky'"
    ):
        Preprocess(8, MEAN, STD, background="sky")


# --- storing ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 64), st.integers(0, 80), FITS, st.lists(st.floats(0.01, 0.9), min_size=1, max_size=3))
def test_settings_make_an_equal_module(size: int, resize: int, fit: str, mean: list[float]) -> None:
    made = Preprocess(size, mean, [0.1 + value for value in mean], resize_px=resize, fit=fit)
    settings = json.loads(json.dumps(made.settings()))
    again = Preprocess(**settings)
    assert again.settings() == made.settings()
    assert again.num_channels == len(mean)
    images = noise(1, len(mean), 11, 13)
    assert torch.equal(again(images), made(images))


def test_mean_and_std_are_state_and_nothing_is_trained() -> None:
    made = Preprocess(8, MEAN, STD)
    assert set(made.state_dict()) == {"mean", "std"}
    assert list(made.parameters()) == []
    other = blank(8)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(noise(1, 3, 8, 8)), made(noise(1, 3, 8, 8)))


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.fit: expected crop or squash, found 'stretch'"):
        blank(8, fit="stretch")

"""Packing: what is stored of each image, what the shards hold, and that a stopped pack ends with the same bytes."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tellapart.data.decode import decode
from tellapart.data.packing import Reduction, Settings, pack_source, reduce_image, writing
from tellapart.data.packing import folder as folders
from tellapart.data.packing.encode import scaled_size
from tellapart.data.packing.formats import FORMATS, Layout, Row
from tellapart.data.packing.plan import make_plan, probe_rows
from tellapart.data.packing.summary import format_bytes
from tellapart.data.packing.workers import encode_in_order
from tellapart.data.sources import ArraySource, FolderSource, Source
from tellapart.data.sources.shards import part_of_shard
from tellapart.data.unreadable import ImageError
from tellapart.errors import ConfigError, DataError, RunError

LANCZOS = Image.Resampling.LANCZOS


def scene(width: int, height: int, number: int = 0) -> np.ndarray:
    """Return a smooth picture with some noise, uint8 `(height, width, 3)`: what a lossy encoding is made for."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(number).integers(0, 12, (height, width, 3))
    waves = [np.sin(x / (9 + number + channel)) * np.cos(y / 13) * 90 + 110 for channel in range(3)]
    return (np.stack(waves, axis=2) + noise).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def pack(source: Source, out: Path, settings: Settings | None = None, **options: Any) -> dict[str, Any]:
    told: list[str] = options.pop("told", [])
    task = options.pop("task", lambda title, total: nullcontext(lambda count: None))
    settings = settings or Settings()
    return pack_source(source, out, settings, say=told.append, task=task, **{"num_workers": 0, **options})


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


# --- one image -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "ending"),
    [
        ("JPEG", {"quality": 40}, "jpg"),
        ("PNG", {}, "png"),
        ("WEBP", {}, "webp"),
        ("BMP", {}, "bmp"),
        ("GIF", {}, "gif"),
        ("TIFF", {}, "tif"),
        ("PPM", {}, "ppm"),
        ("AVIF", {}, "avif"),
    ],
)
@pytest.mark.parametrize("max_size_px", [0, 40])
def test_an_image_that_is_small_enough_is_not_touched(
    kind: str, options: dict[str, Any], ending: str, max_size_px: int
) -> None:
    raw = saved(scene(90, 40), kind, **options)
    found = reduce_image(raw, Reduction(max_size_px, encode="png"))
    assert (found.data, found.ending, found.action, found.num_bytes_before) == (raw, ending, "kept", len(raw))


def test_a_turned_image_that_is_small_enough_is_copied_with_its_exif() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = saved(scene(30, 20), "JPEG", exif=exif)
    assert reduce_image(raw, Reduction(20)).data == raw


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_scaled_jpeg_is_what_pillow_makes_of_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = saved(scene(90, 60), "JPEG", quality=95, exif=exif)
    found = reduce_image(raw, Reduction(40, quality=93))
    upright = ImageOps.exif_transpose(opened(raw))
    size = (60, 40) if orientation < 5 else (40, 60)
    assert found.data == saved(upright.resize(size, LANCZOS), "JPEG", quality=93)
    assert (found.ending, found.action, found.num_bytes_before) == ("jpg", "scaled", len(raw))


def test_a_scaled_lossless_image_keeps_every_pixel_of_the_scaling() -> None:
    picture = Image.fromarray(scene(101, 77))
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        found = reduce_image(saved(picture, kind), Reduction(50))
        assert found.ending == "png"
        assert np.array_equal(np.asarray(opened(found.data)), np.asarray(picture.resize((66, 50), LANCZOS))), kind


def test_a_large_jpeg_decoded_at_reduced_scale_is_close_to_one_decoded_whole() -> None:
    raw = saved(scene(1600, 1200), "JPEG", quality=95)
    found = np.asarray(opened(reduce_image(raw, Reduction(100, encode="png")).data)).astype(int)
    whole = np.asarray(opened(raw).resize((133, 100), LANCZOS)).astype(int)
    assert found.shape == whole.shape
    assert np.abs(found - whole).mean() < 1
    # It is the proper filter that made it, not the decoder's: point sampling is far off on the same scene.
    assert np.abs(np.asarray(opened(raw).resize((133, 100), Image.Resampling.NEAREST)).astype(int) - whole).mean() > 2


@pytest.mark.parametrize(
    ("options", "ending", "mode"),
    [
        ({"encode": "keep"}, "png", "RGB"),
        ({"encode": "jpeg"}, "jpg", "RGB"),
        ({"encode": "webp"}, "webp", "RGB"),
        ({"encode": "png"}, "png", "RGB"),
    ],
)
def test_what_is_scaled_is_encoded_as_asked(options: dict[str, Any], ending: str, mode: str) -> None:
    found = reduce_image(saved(scene(60, 50), "PNG"), Reduction(20, **options))
    assert found.ending == ending
    image = opened(found.data)
    assert (image.size, image.mode) == ((24, 20), mode)


def test_quality_is_that_of_the_encoding() -> None:
    raw = saved(scene(300, 300), "JPEG", quality=95)
    sizes = [len(reduce_image(raw, Reduction(200, "jpeg", quality)).data) for quality in (10, 50, 90)]
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 < sizes[2]


def test_lossless_webp_stays_lossless_and_lossy_becomes_jpeg() -> None:
    picture = Image.fromarray(scene(60, 60))
    lossless = reduce_image(saved(picture, "WEBP", lossless=True), Reduction(30))
    assert np.array_equal(np.asarray(opened(lossless.data)), np.asarray(picture.resize((30, 30), LANCZOS)))
    exif = Image.Exif()
    exif[0x0112] = 1
    extended = reduce_image(saved(picture, "WEBP", lossless=True, exif=exif), Reduction(30))
    assert (lossless.ending, extended.ending) == ("png", "png")
    assert reduce_image(saved(picture, "WEBP", exif=exif), Reduction(30)).ending == "jpg"


def test_grey_stays_grey_and_colour_that_is_nearly_grey_stays_colour() -> None:
    grey = scene(60, 60)[:, :, 0]
    for kind in ("JPEG", "PNG"):
        assert opened(reduce_image(saved(grey, kind), Reduction(30)).data).mode == "L"
    almost = np.repeat(grey[:, :, None], 3, axis=2)
    almost[50:54, 50:54, 0] ^= 128
    assert opened(reduce_image(saved(almost, "PNG"), Reduction(30)).data).mode == "RGB"


def test_cmyk_becomes_rgb() -> None:
    raw = saved(Image.fromarray(scene(60, 60)).convert("CMYK"), "JPEG", quality=95)
    found = reduce_image(raw, Reduction(30))
    assert (opened(found.data).mode, found.ending) == ("RGB", "jpg")
    wanted = Image.fromarray(decode(raw, 3).transpose(1, 2, 0)).resize((30, 30), LANCZOS)
    assert np.abs(np.asarray(opened(found.data)).astype(int) - np.asarray(wanted)).mean() < 4


def test_transparent_pixels_are_laid_over_white_where_an_image_is_scaled() -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, :10, 3] = 255
    found = np.asarray(opened(reduce_image(saved(pixels, "PNG"), Reduction(10)).data))
    assert found[:, 0].max() == 0
    assert found[:, -1].min() == 255
    kept = reduce_image(saved(pixels, "PNG"), Reduction(20)).data
    assert opened(kept).mode == "RGBA"


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, axis=0)
    found = np.asarray(opened(reduce_image(saved(Image.fromarray(values), "PNG"), Reduction(32)).data))
    assert found.dtype == np.uint8
    assert found[0, 0] < 5
    assert abs(int(found[0, 16]) - 132) < 4


def test_pixels_become_png_and_alpha_is_kept_where_they_are_not_scaled() -> None:
    for shape in ((5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)):
        array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        found = reduce_image(array, Reduction(5))
        assert (found.ending, found.action, found.num_bytes_before) == ("png", "encoded", array.size)
        assert np.array_equal(decode(found.data, 3), decode(array, 3)), shape
        assert np.array_equal(np.asarray(opened(found.data)).reshape(shape), array), shape
    assert opened(reduce_image(np.zeros((5, 7, 4), np.uint8), Reduction(5, "jpeg")).data).mode == "L"
    assert reduce_image(np.zeros((50, 70), np.uint8), Reduction(5)).action == "scaled"


def test_a_side_too_long_for_the_encoding_becomes_png() -> None:
    long = np.zeros((4, 33000), np.uint8)
    assert reduce_image(saved(long, "PNG"), Reduction(2, "webp")).ending == "png"
    assert reduce_image(saved(long[:, :32000], "PNG"), Reduction(2, "webp")).ending == "webp"
    assert reduce_image(np.zeros((1, 65536), np.uint8), Reduction(2, "jpeg")).ending == "png"


@pytest.mark.parametrize("max_size_px", [0, 10, 1000])
def test_what_cannot_be_read_is_refused_even_where_it_would_only_be_copied(max_size_px: int) -> None:
    jpeg, png = saved(scene(100, 100), "JPEG"), bytearray(saved(scene(100, 100), "PNG"))
    png[len(png) // 2] ^= 1
    for raw in (b"", b"text", jpeg[: len(jpeg) // 2], bytes(png)):
        with pytest.raises(ImageError):
            reduce_image(raw, Reduction(max_size_px))


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 600))
def test_scaling_keeps_the_aspect_to_half_a_pixel(width: int, height: int, most: int) -> None:
    new_width, new_height = scaled_size(width, height, most)
    shorter = min(width, height)
    assert min(new_width, new_height) == min(shorter, most)
    scale = min(1, most / shorter)
    assert abs(new_width - width * scale) <= 0.5
    assert abs(new_height - height * scale) <= 0.5


# --- the plan ------------------------------------------------------------------------------------------------------


def noise_source(count: int = 40, side: int = 32, parts: list[str] | None = None) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return ArraySource(images, np.arange(count) % 4, ["a", "b", "c", "d"], parts=parts, name="noise")


def planned(source: Source, settings: Settings) -> Any:
    rows = probe_rows(source)
    probes = [image for images in encode_in_order(source, [rows], settings.reduction, 0) for image in images]
    return make_plan(source, settings, probes)


def test_every_sample_is_in_one_shard_of_its_part() -> None:
    parts = (["train"] * 6 + ["val"] * 2 + ["test", ""]) * 90
    source = noise_source(900, 32, parts)
    settings = Settings(shard_mib=1)
    shards = planned(source, settings).shards(source)
    assert sorted(row for shard in shards for row in shard.rows) == list(range(900))
    for shard in shards:
        assert {source.parts[row] for row in shard.rows} == {part_of_shard(shard.file)}
    files = [shard.file for shard in shards]
    assert files == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "val-00000-of-00001.parquet",
        "test-00000-of-00001.parquet",
        "data-00000-of-00001.parquet",
    ]
    assert [len(shard.rows) for shard in shards] == [270, 270, 180, 90, 90]


def test_the_order_is_a_function_of_the_seed_or_none_at_all() -> None:
    source = noise_source(200)

    def order(**options: Any) -> list[int]:
        return planned(source, Settings(**options)).shards(source)[0].rows.tolist()

    assert order(shuffle=False) == list(range(200))
    assert order() == order()
    assert sorted(order()) == list(range(200)) != order()
    assert order(seed=1) != order()
    first = source.targets[order()[:40]]
    assert set(first) == {0, 1, 2, 3}


def in_blocks(count: int, size: int) -> ArraySource:
    source = noise_source(count, 64)
    source.blocks = np.repeat(np.arange(count // size), size)
    source.seeks = False
    return source


def test_a_source_of_blocks_is_read_block_by_block_and_mixed_all_the_same() -> None:
    source = in_blocks(240, 10)
    assert source.blocks is not None
    shards = planned(source, Settings(shard_mib=1)).shards(source)
    assert len(shards) == 3
    for shard in shards:
        read, written = source.blocks[shard.reading], source.blocks[shard.rows]
        assert sorted(shard.rows) == sorted(shard.reading)
        assert (np.diff(read) != 0).sum() == 7, "each of the eight blocks once"
        assert (np.diff(written) != 0).sum() > 40, "and then mixed"
    visited = source.blocks[np.concatenate([shard.reading for shard in shards])]
    assert visited.tolist() != sorted(visited), "the blocks come in a random order"
    in_order = planned(source, Settings(shard_mib=1, shuffle=False)).shards(source)
    assert np.concatenate([shard.rows for shard in in_order]).tolist() == list(range(240))


def test_what_is_read_block_by_block_is_written_as_planned(tmp_path: Path) -> None:
    source = in_blocks(180, 10)
    pack(source, tmp_path, Settings(shard_mib=1))
    shards = planned(source, Settings(shard_mib=1)).shards(source)
    assert len(shards) == 2
    for shard in shards:
        rows = pq.read_table(tmp_path / shard.file).to_pylist()
        assert [row["image"]["path"] for row in rows] == [source.paths[row] for row in shard.rows]
        assert all(
            np.array_equal(np.asarray(opened(rows[at]["image"]["bytes"])), source.read(shard.rows[at]))
            for at in (0, 30)
        )


class _AskedSource(ArraySource):
    """Encoded images, of which several can be asked for at once, as behind an address."""

    asked: list[int]

    def read_many(self, indices: Sequence[int]) -> list[bytes | np.ndarray | ImageError]:
        self.asked.append(len(indices))
        return super().read_many(indices)

    def read(self, index: int) -> bytes | np.ndarray:
        if index == 7:
            raise ImageError("gone")
        return super().read(index)


def test_several_images_are_asked_for_at_once_where_that_is_possible(tmp_path: Path) -> None:
    raws = [saved(scene(20, 20, number), "PNG") for number in range(150)]
    source = _AskedSource(raws, np.arange(150) % 2)
    source.asked, source.blocks = [], np.arange(150)
    found = pack(source, tmp_path, bad_images="skip")
    assert found["unreadable"] == {source.paths[7]: "gone"}
    assert found["num_images"] == found["num_kept"] == 149
    assert max(source.asked) > 50
    rows = {row["image"]["path"]: row["image"]["bytes"] for row in shard_rows(tmp_path)}
    assert all(rows[source.paths[row]] == raws[row] for row in range(150) if row != 7)


def test_shards_come_out_about_as_large_as_asked(tmp_path: Path) -> None:
    for name in FORMATS:
        pack(noise_source(110, 128), tmp_path / name, Settings(name, shard_mib=1, encode="png"))
        sizes = [
            path.stat().st_size for path in (tmp_path / name).glob("data-*") if path.suffix in (".tar", ".parquet")
        ]
        assert len(sizes) > 3
        assert min(sizes) / 2**20 > 0.75
        assert max(sizes) / 2**20 < 1.35


def test_wrong_settings_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(format="parket", encode="gif", quality=0, shard_mib=0, max_size_px=-1)
    assert len(caught.value.problems) == 5
    assert "Did you mean 'parquet'?" in str(caught.value)


# --- what the shards hold ------------------------------------------------------------------------------------------


def features_of(path: Path) -> dict[str, Any]:
    return json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]


def shard_rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def tar_samples(out: Path) -> dict[str, tuple[str, bytes, dict[str, Any]]]:
    """Return by path: the image's ending and bytes and what is in the JSON, read with the standard library alone."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for image, known in zip(members[::2], members[1::2], strict=True):
                key, _, ending = image.name.partition(".")
                assert known.name == f"{key}.json"
                assert (image.mtime, image.uid, image.uname) == (0, 0, "")
                record = json.loads(read_member(tar, known))
                found[record["path"]] = (ending, read_member(tar, image), record)
    return found


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def multilabel() -> ArraySource:
    return ArraySource(np.zeros((4, 3, 5, 5), np.uint8), [[0, 1], [1, 1], [0, 0], [1, 0]], classes=["wet", "wärm"])


def test_classes_of_parquet_shards(tmp_path: Path) -> None:
    source = noise_source(12)
    source.classes = ("a", "b", "c", "never used")
    source.targets = np.arange(12) % 3
    pack(source, tmp_path)
    features = features_of(next(tmp_path.glob("*.parquet")))
    assert features == {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["a", "b", "c", "never used"]},
    }
    rows = {row["image"]["path"]: row["label"] for row in shard_rows(tmp_path)}
    assert rows == {path: int(target) for path, target in zip(source.paths, source.targets, strict=True)}
    schema = pq.read_schema(next(tmp_path.glob("*.parquet")))
    assert str(schema.field("image").type) == "struct<bytes: binary, path: string>"
    assert str(schema.field("label").type) == "int64"


def test_sets_of_classes(tmp_path: Path) -> None:
    pack(multilabel(), tmp_path / "parquet", Settings(shuffle=False))
    pack(multilabel(), tmp_path / "tar", Settings("webdataset"))
    assert [row["label"] for row in shard_rows(tmp_path / "parquet")] == [[1], [0, 1], [], [0]]
    label = features_of(next((tmp_path / "parquet").glob("*.parquet")))["label"]
    assert label == {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["wet", "wärm"]}}
    found = {path: known["label"] for path, (_, _, known) in tar_samples(tmp_path / "tar").items()}
    assert list(dict(sorted(found.items())).values()) == [["wärm"], ["wet", "wärm"], [], ["wet"]]


@pytest.mark.parametrize(("targets", "kind"), [([0.1, 2.0, -3.5], "float"), ([[0.1, 1], [2, 3], [4, 5]], "list")])
def test_numbers(tmp_path: Path, targets: Any, kind: str) -> None:
    source = ArraySource(np.zeros((3, 5, 5), np.uint8), targets, task="regression")
    pack(source, tmp_path / "parquet", Settings(shuffle=False))
    pack(source, tmp_path / "tar", Settings("webdataset"))
    stored = [row["label"] for row in shard_rows(tmp_path / "parquet")]
    found = tar_samples(tmp_path / "tar")
    in_words = [found[path][2]["label"] for path in source.paths]
    for values in (stored, in_words):
        assert np.array_equal(np.array(values, np.float32).reshape(3, -1), source.targets), "to the last bit"
        assert isinstance(values[0], float if kind == "float" else list)
    value = {"_type": "Value", "dtype": "float32"}
    wanted = value if kind == "float" else {"_type": "Sequence", "feature": value}
    assert features_of(next((tmp_path / "parquet").glob("*.parquet")))["label"] == wanted


def test_groups_and_times_travel_with_the_images(tmp_path: Path) -> None:
    source = noise_source(8)
    source.groups = ["", "p1", "p1", "p2", "", "ü", "p2", "p1"]
    source.times = [f"2026-01-0{row}" for row in range(8)]
    pack(source, tmp_path / "parquet", Settings(shuffle=False))
    pack(source, tmp_path / "tar", Settings("webdataset"))
    rows = shard_rows(tmp_path / "parquet")
    assert [row["group"] for row in rows] == source.groups
    assert [row["time"] for row in rows] == source.times
    assert features_of(next((tmp_path / "parquet").glob("*.parquet")))["group"] == {"_type": "Value", "dtype": "string"}
    found = tar_samples(tmp_path / "tar")
    assert [found[path][2]["group"] for path in source.paths] == source.groups
    assert [found[path][2]["time"] for path in source.paths] == source.times


def test_images_in_tar_shards_have_the_endings_of_their_contents(tmp_path: Path) -> None:
    raws = [saved(scene(20, 20), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP")]
    source = ArraySource(raws, ["a", "b", "a", "b"])
    pack(source, tmp_path, Settings("webdataset"))
    found = tar_samples(tmp_path)
    assert [found[path][:2] for path in source.paths] == list(zip(("jpg", "png", "webp", "bmp"), raws, strict=True))
    assert json.loads((tmp_path / "classes.json").read_text()) == {"task": "multiclass", "classes": ["a", "b"]}
    assert {path.name for path in tmp_path.iterdir()} == {
        *("data-00000.tar", "data-00000.tar.index", "classes.json", "pack.json", "README.md")
    }


# The library leaves its files to the garbage collector, which Python warns of.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_reads_the_tar_shards(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    source = noise_source(60, 128)
    pack(source, tmp_path, Settings("webdataset", shard_mib=1))
    count = len(list(tmp_path.glob("*.tar")))
    assert count > 1
    urls = f"{tmp_path}/data-{{00000..{count - 1:05d}}}.tar"
    found = {
        known["path"]: (picture, known["label"])
        for picture, known in wds.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("png", "json")
    }
    assert len(found) == 60
    for row in (0, 17, 59):
        picture, label = found[source.paths[row]]
        assert np.array_equal(picture, source.read(row))
        assert label == source.label_name(row)
    gc.collect()


def test_row_groups_are_small_enough_to_be_read_one_by_one(tmp_path: Path) -> None:
    source = ArraySource(np.zeros((2500, 4, 4), np.uint8), np.arange(2500) % 2)
    pack(source, tmp_path)
    meta = pq.read_metadata(next(tmp_path.glob("*.parquet")))
    assert [meta.row_group(group).num_rows for group in range(meta.num_row_groups)] == [1000, 1000, 500]
    column = meta.row_group(0).column(0)
    assert column.statistics.null_count == 0, "says that no row is without an image"
    assert (column.path_in_schema, column.compression, column.has_dictionary_page) == (
        "image.bytes",
        "UNCOMPRESSED",
        False,
    )


def test_a_large_row_group_ends_by_its_bytes() -> None:
    buffer = io.BytesIO()
    writer = FORMATS["parquet"].open(buffer, Layout("multiclass", ("a", "b"), 2, False, False))
    for number in range(5):
        writer.add(Row(number, bytes(9 * 2**20), "png", str(number), np.int64(0), "", ""))
    writer.close()
    meta = pq.read_metadata(io.BytesIO(buffer.getvalue()))
    assert [meta.row_group(group).num_rows for group in range(meta.num_row_groups)] == [2, 2, 1]


def test_rot_in_a_parquet_shard_is_noticed(tmp_path: Path) -> None:
    pack(noise_source(12), tmp_path)
    path = next(tmp_path.glob("*.parquet"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"(?i)checksum|crc"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


# --- what is said of it --------------------------------------------------------------------------------------------


def test_pack_json_counts_and_hashes_what_is_there(tmp_path: Path) -> None:
    raws = [saved(scene(60, 60, number), "JPEG") for number in range(3)] + [saved(scene(20, 20), "PNG")]
    source = ArraySource([*raws, np.zeros((9, 9), np.uint8)], ["a", "b", "a", "b", "a"], parts=["train"] * 4 + ["val"])
    found = pack(source, tmp_path, Settings(max_size_px=30))
    assert json.loads((tmp_path / "pack.json").read_text()) == found
    assert (found["num_images"], found["num_scaled"], found["num_kept"], found["num_encoded"]) == (5, 3, 1, 1)
    assert found["num_bytes_before"] == sum(map(len, raws)) + 81
    files = {shard["file"]: shard for shard in found["shards"]}
    assert set(files) == {path.name for path in tmp_path.glob("*.parquet")}
    for name, shard in files.items():
        raw = (tmp_path / name).read_bytes()
        assert (shard["num_bytes"], shard["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert shard["num_images"] == pq.read_metadata(tmp_path / name).num_rows
    assert found["num_bytes"] == sum(shard["num_bytes"] for shard in files.values())
    assert {path.name for path in tmp_path.iterdir()} == {*files, "pack.json", "README.md"}


def test_the_readme_tells_hugging_face_what_lies_where(tmp_path: Path) -> None:
    parts = ["train", "val", "test", "train"]
    pack(noise_source(4, parts=parts), tmp_path / "parts")
    _, front, text = (tmp_path / "parts" / "README.md").read_text().split("---\n")
    assert 'split: train\n    path: "train-*.parquet"\n  - split: validation\n    path: "val-*.parquet"' in front
    assert "4 images in 3 shards" in text
    pack(noise_source(4), tmp_path / "whole", Settings("webdataset"))
    assert '- split: train\n    path: "data-*.tar"' in (tmp_path / "whole" / "README.md").read_text()


def test_the_progress_bar_counts_every_image_once(tmp_path: Path) -> None:
    bars: list[list[Any]] = []

    @contextmanager
    def task(title: str, total: int) -> Any:
        bars.append([total, 0])

        def advance(count: int) -> None:
            bars[-1][1] += count

        yield advance

    told: list[str] = []
    source = noise_source(100)
    pack(source, tmp_path, task=task)
    pack(source, tmp_path, task=task, told=told)
    assert bars == [[100, 100], [100, 100]]
    assert told == ["1 of 1 shards are there already."]


@pytest.mark.parametrize(("count", "words"), [(0, "0 bytes"), (1500, "1.5 kB"), (2.5e12, "2.5 TB")])
def test_sizes_in_words(count: float, words: str) -> None:
    assert format_bytes(count) == words


# --- what cannot be read -------------------------------------------------------------------------------------------


@pytest.fixture
def with_bad(make_folder: Callable[..., Path]) -> Path:
    root = make_folder({"ant": 8, "bee": 8})
    (root / "ant" / "003.png").write_bytes(b"")
    (root / "bee" / "005.png").write_bytes(b"no image")
    return root


def test_all_unreadable_images_are_named_and_nothing_is_published(with_bad: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        pack(FolderSource(with_bad), out)
    text = str(caught.value)
    assert "2 of 16 images cannot be read:" in text
    assert "ant/003.png: an empty file (0 bytes)" in text
    assert "bee/005.png: not an image" in text
    assert "--bad-images skip" in text
    assert [path.name for path in out.iterdir()] == [".packing"]


def test_skipping_leaves_them_out_and_lists_them(with_bad: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError):
        pack(FolderSource(with_bad), out)
    told: list[str] = []
    found = pack(FolderSource(with_bad), out, bad_images="skip", told=told)
    assert told == ["1 of 1 shards are there already."], "what was written before the refusal is used"
    assert found["unreadable"].keys() == {"ant/003.png", "bee/005.png"}
    assert found["num_images"] == 14 == len(shard_rows(out))
    fresh = tmp_path / "fresh"
    assert pack(FolderSource(with_bad), fresh, bad_images="skip") == found
    assert contents(fresh) == contents(out)


def test_a_mended_image_is_packed_by_the_same_command(with_bad: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError):
        pack(FolderSource(with_bad), out)
    for name in ("ant/003.png", "bee/005.png"):
        (with_bad / name).write_bytes(saved(scene(9, 7), "PNG"))
    found = pack(FolderSource(with_bad), out)
    assert (found["num_images"], found["unreadable"]) == (16, {})
    with_bad.joinpath("ant/001.png").unlink()
    with pytest.raises(RunError, match="number of images: 16 then, 15 now"):
        pack(FolderSource(with_bad), out)


def test_a_source_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    source = ArraySource([b"", b"x"], ["a", "b"])
    with pytest.raises(DataError, match="There is nothing to pack"):
        pack(source, tmp_path / "out", bad_images="skip")


def test_bad_images_knows_two_policies(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected fail or skip, found 'drop'"):
        pack(noise_source(4), tmp_path / "out", bad_images="drop")


# --- going on ------------------------------------------------------------------------------------------------------

SMALL = Settings(shard_mib=1, encode="png")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    pack(noise_source(90, 128), out, SMALL)
    return out


def test_processes_and_none_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    for num_workers in (1, 3):
        out = tmp_path / str(num_workers)
        pack(noise_source(90, 128), out, SMALL, num_workers=num_workers)
        assert contents(out) == contents(whole)


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize(
    ("place", "at"),
    [
        ("part", 1),
        ("part", 3),
        ("keep", 2),
        ("keep after", 2),
        ("publish", 1),
        ("beside", 1),
        ("finish", 1),
    ],
)
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, at: int
) -> None:
    out, calls = tmp_path / "out", 0

    def stop_at_call(function: Callable[..., Any], late: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at and not late:
                raise _StoppedError
            found = function(*arguments, **options)
            if calls == at:
                raise _StoppedError
            return found

        return call

    name, _, late = place.partition(" ")
    with monkeypatch.context() as patch:
        if name == "beside":
            patch.setattr(writing, "write_beside", stop_at_call(writing.write_beside))
        else:
            patch.setattr(folders.Folder, name, stop_at_call(getattr(folders.Folder, name), bool(late)))
        with pytest.raises(_StoppedError):
            pack(noise_source(90, 128), out, SMALL)
    assert not (out / "pack.json").exists()
    if name in ("part", "keep"):
        assert [path.name for path in out.iterdir()] == [".packing"], "no half data set"
    pack(noise_source(90, 128), out, SMALL)
    assert contents(out) == contents(whole)


def test_a_lost_shard_is_written_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(noise_source(90, 128), out, SMALL)
    files = sorted(out.glob("*.parquet"))
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:-1])
    told: list[str] = []
    pack(noise_source(90, 128), out, SMALL, told=told)
    assert told == [f"{len(files) - 2} of {len(files)} shards are there already."]
    assert contents(out) == contents(whole)


def test_another_pack_in_the_same_folder_is_refused_with_the_differences(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(noise_source(40), out)
    before = contents(out)
    with pytest.raises(RunError) as caught:
        pack(noise_source(40), out, Settings(max_size_px=128, seed=3))
    assert "max_size_px: begun with 256, this command asks for 128" in str(caught.value)
    assert "seed: begun with 0, this command asks for 3" in str(caught.value)
    other = noise_source(40)
    other.targets = other.targets[::-1].copy()
    with pytest.raises(RunError, match="paths, labels, parts or groups"):
        pack(other, out)
    assert other.images is not None
    same_listing = ArraySource(other.images ^ 1, np.arange(40) % 4, ["a", "b", "c", "d"], name="noise")
    with pytest.raises(RunError, match="other pixels"):
        pack(same_listing, out)
    assert contents(out) == before


# --- where it cannot be written ------------------------------------------------------------------------------------


def test_a_folder_with_foreign_files_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"holds what packing did not put there \(thesis.txt\)"):
        pack(noise_source(4), tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_foreign_shard_beside_ours_is_refused(tmp_path: Path) -> None:
    pack(noise_source(4), tmp_path)
    (tmp_path / "more.parquet").write_bytes(b"")
    with pytest.raises(RunError, match=r"more\.parquet"):
        pack(noise_source(4), tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", '{"plan": 3, "shards": []}', '{"plan": {}, "shards": [{}]}', "{"])
def test_a_foreign_pack_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pack.json").write_text(text)
    with pytest.raises(RunError):
        pack(noise_source(4), tmp_path)
    assert contents(tmp_path) == {"pack.json": text.encode()}


def test_a_file_in_the_way_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(RunError, match="is a file"):
        pack(noise_source(4), path)
    with pytest.raises(RunError, match="cannot be written to: Not a directory"):
        pack(noise_source(4), path / "inside")
    assert path.read_text() == "mine"


def test_a_read_only_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "out"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match="cannot be written to: Read-only file system"):
        pack(noise_source(4), tmp_path / "out")


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_is_full_keeps_what_is_whole(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource")
    source = noise_source(40, 128)
    settings = Settings(name, max_size_px=0, encode="png", shard_mib=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, before[1]))
    try:
        with pytest.raises(RunError, match="the disk is full") as caught:
            pack(source, tmp_path / "out", settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the same command goes on" in str(caught.value)
    pack(source, tmp_path / "out", settings)
    pack(source, tmp_path / "fresh", settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = writing.shutil._ntuple_diskusage(10**9, 10**9, 1000)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RunError, match=r"about 1\d\d\.\d kB are still to be written, and 1.0 kB are free"):
        pack(noise_source(40), tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_two_at_a_time_are_kept_apart(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with folders._locked(tmp_path), pytest.raises(RunError, match="another process"), folders._locked(tmp_path, 0.2):
        pass
    with folders._locked(tmp_path, 0.0):
        pass


class _DeadlySource(ArraySource):
    """Ends the process that reads image 5, if it is not the one that made the source."""

    def __init__(self) -> None:
        super().__init__(np.zeros((80, 4, 4), np.uint8), np.arange(80) % 2)
        self.home = os.getpid()

    def read(self, index: int) -> bytes | np.ndarray:
        if index == 5 and os.getpid() != self.home:
            os._exit(9)
        return super().read(index)


def test_a_process_that_ends_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a process that encodes images ended"):
        pack(_DeadlySource(), tmp_path / "out", num_workers=2)
    pack(_DeadlySource(), tmp_path / "out", num_workers=0)

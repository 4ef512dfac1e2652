"""The data in the report: counts, samples, findings, and augmented examples that are the bits training had."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tellapart.api.job import make_loader
from tellapart.api.reading import ReadData, read_data
from tellapart.config import RunConfig, override
from tellapart.data.preprocess import center_crop
from tellapart.data.sources import FolderSource, Source
from tellapart.exporting.classifier import Classifier
from tellapart.exporting.module import ClassifierModule
from tellapart.models import create_model
from tellapart.reporting import data_section
from tellapart.reporting.augmented import augmented, reduced_images, views
from tellapart.reporting.data_section import class_counts, example_rows, labels_of_rows, sample_rows
from tellapart.reporting.division import how_divided
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.training.progress import Progress
from tests.reporting.made_facts import made_facts

EVIL = '<script>alert("1")</script>'
CPU = torch.device("cpu")


def html_of(facts: RunFacts, pictures: Pictures | None = None) -> str:
    section = data_section.section(facts, pictures or Pictures.of(facts))
    assert section is not None
    assert section.id == "data"
    return str(section.html)


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


# --- how many --------------------------------------------------------------------------------------------------------


def test_counts_by_class_and_split() -> None:
    facts = made_facts(n=240)
    counts = class_counts(facts, labels_of_rows(facts))
    wanted = Counter(zip(facts.split.classes, facts.split.splits, strict=True))
    assert counts == {
        name: {split: wanted[name, split] for split in ("train", "val", "test")} for name in ("cat", "dog", "frog")
    }
    html = html_of(facts)
    for name, numbers in counts.items():
        row = html.split(f'title="{name}">{name}</th>')[1].split("</tr>")[0]
        widths = [float(width) for width in re.findall(r'width="([\d.]+)"', row)]
        assert widths == [pytest.approx(100 * number / 80, abs=0.01) for number in numbers.values()]
        assert f"<td>{sum(numbers.values())}</td>" in row


def test_what_cannot_be_read_counts_in_no_class() -> None:
    facts = made_facts(n=240)
    hashes = ("",) * 3 + facts.split.pixel_hashes[3:]
    facts = replace(facts, split=replace(facts.split, pixel_hashes=hashes), unreadable={f"{EVIL}.jpg": "ends early"})
    assert sum(sum(numbers.values()) for numbers in class_counts(facts, labels_of_rows(facts)).values()) == 237
    html = html_of(facts)
    assert "of 120 given" in html
    assert f"{EVIL}.jpg" in unescape(html)
    assert "<script" not in html
    assert "ends early" in html


def test_several_labels_count_in_each_even_where_a_name_holds_the_sign_between() -> None:
    facts = made_facts("multilabel", ("cat", "a|b", "b"))
    assert facts.source is not None
    counts = class_counts(facts, labels_of_rows(facts))
    for k, name in enumerate(("cat", "a|b", "b")):
        assert sum(counts[name].values()) == int(facts.source.targets[:, k].sum())


def test_numbers_have_a_histogram_and_no_classes() -> None:
    html = html_of(made_facts("regression"))
    assert "Images of each class" not in html
    assert 'id="targets"' in html


def test_many_classes_show_the_first_and_the_last() -> None:
    names = tuple(f"class {k:03}" for k in range(100))
    html = html_of(made_facts(names=names, n=200, source=None))
    assert html.count("count-bar") == 30
    assert "70 classes between the last two are left out" in html


# --- what it looks like ----------------------------------------------------------------------------------------------


def test_samples_are_training_images_of_their_class() -> None:
    facts = made_facts(n=240)
    chosen = sample_rows(facts, labels_of_rows(facts))
    assert list(chosen) == ["cat", "dog", "frog"]
    for name, rows in chosen.items():
        assert len(rows) == len(set(rows)) == 6
        assert {facts.split.classes[row] for row in rows} == {name}
        assert {facts.split.splits[row] for row in rows} == {"train"}
    html = html_of(facts)
    assert facts.source is not None
    assert facts.source.images is not None
    uris = re.findall(r'src="(data:image/webp[^"]+)"', html)
    assert len(uris) == 18
    for uri, row in zip(uris, [row for rows in chosen.values() for row in rows], strict=True):
        distances = np.abs(facts.source.images.astype(float) - pixels_of(uri)).mean(axis=(1, 2, 3))
        assert distances.argmin() == row


def test_more_classes_get_fewer_pictures() -> None:
    for num_classes, most in ((12, 6), (30, 3)):
        facts = made_facts(names=tuple(f"c{k}" for k in range(num_classes)), n=180)
        chosen = sample_rows(facts, labels_of_rows(facts))
        assert len(chosen) == min(num_classes, 24)
        assert {len(rows) for rows in chosen.values()} == {most}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, write_images: Any) -> Source:
    root = tmp_path_factory.mktemp("report-data") / "photos"
    return FolderSource(write_images(root, {"ant": 12, "bee": 9}, ((40, 52), (64, 33), (24, 24))))


AUGMENTATIONS = "random-resized-crop,flip,color-jitter,rotation,random-erasing,randaugment,mixup"


def read(source: Source, **changes: Any) -> tuple[RunConfig, ReadData]:
    options = {
        "augment.transforms": AUGMENTATIONS,
        "preprocess.size_px": 20,
        "preprocess.resize_px": 24,
        "train.batch_size": 4,
        "seed": 11,
        "data.task": "multiclass",
        "loss.name": "cross-entropy",
        "data.cache_gib": 0.0,
        **changes,
    }
    config = override(RunConfig(), options)
    return config, read_data(source, config, CPU, Progress(), None)


@pytest.mark.parametrize("in_memory", ["yes", "no"])
@pytest.mark.parametrize("transforms", [AUGMENTATIONS, "flip-crop", "trivialaugment,shift", "none"])
def test_augmented_examples_are_the_bits_of_the_loader(photographs: Source, in_memory: str, transforms: str) -> None:
    config, data = read(
        photographs,
        **{"data.in_memory": in_memory, "augment.transforms": transforms, "data.num_workers": -1},
    )
    if in_memory == "no":
        config = override(config, {"data.num_workers": 0})
    rows = data.split.rows("train")
    loader = make_loader(config, data, torch.from_numpy(photographs.targets), rows, CPU)
    places, images = reduced_images(photographs, data.preprocess, rows.tolist())
    assert places == list(range(len(rows)))
    assert images is not None
    place_of = {int(row): place for place, row in enumerate(rows)}
    for epoch in (0, 1, 4):
        made = augmented(images, rows.tolist(), config, epoch)
        seen = 0
        for batch in loader.epoch(epoch):
            for image, row in zip(batch.images, batch.indices.tolist(), strict=True):
                assert torch.equal(image, made[place_of[row]])
                seen += 1
        assert seen == len(rows)
    # One image alone is made into the same as among others.
    alone = augmented(images[2:3], [int(rows[2])], config, 4)
    assert torch.equal(alone[0], made[2])  # pyright: ignore[reportPossiblyUnboundVariable]


def run_of(source: Source, config: RunConfig, data: ReadData) -> RunFacts:
    network = create_model("mlp", num_classes=2, in_channels=3, size_px=config.preprocess.size_px)
    module = ClassifierModule(data.preprocess, network, "multiclass").eval()
    classifier = Classifier(module, source.classes, {}, CPU)
    return replace(made_facts(), source=source, split=data.split, config=config, classifier=classifier)


def test_the_pictures_in_the_page_are_what_the_network_was_given(photographs: Source) -> None:
    config, data = read(photographs, **{"train.epochs": 3})
    facts = run_of(photographs, config, data)
    html = html_of(facts)
    rows = example_rows(sample_rows(facts, labels_of_rows(facts)))
    loader = make_loader(config, data, torch.from_numpy(photographs.targets), data.split.rows("train"), CPU)
    trained = [
        {
            row: image
            for batch in loader.epoch(epoch)
            for image, row in zip(batch.images, batch.indices.tolist(), strict=True)
        }
        for epoch in range(3)
    ]
    table = html.split('class="views')[1].split("</table>")[0]
    lines = table.split("<tr>")[2:]
    assert len(lines) == len(rows) == 4
    assert re.findall(r">epoch (\d)<", table) == ["1", "2", "3"]
    for line, row in zip(lines, rows, strict=True):
        judged, *varied = (pixels_of(uri) for uri in re.findall(r'src="(data:image/png[^"]+)"', line))
        assert len(varied) == 3
        reduced = data.preprocess.reduce(torch.from_numpy(data.preprocess.decode(photographs.read(row))))
        assert np.array_equal(judged, center_crop(reduced, 20).permute(1, 2, 0).numpy())
        for epoch, picture in enumerate(varied):
            assert np.array_equal(picture, center_crop(trained[epoch][row], 20).permute(1, 2, 0).numpy())
    assert "mixup blends each with another image" in html
    assert "randaugment" in html


def test_large_pictures_are_within_the_budget(photographs: Source) -> None:
    config, data = read(photographs, **{"preprocess.size_px": 96, "preprocess.resize_px": 96})
    facts = run_of(photographs, config, data)
    chosen = [(0, photographs.paths[0], "ant")]
    spent = Pictures(photographs, data.split, data.preprocess, max_bytes=0)
    assert views(spent, data.preprocess, config, chosen, [0]) == []
    found = views(Pictures.of(facts), data.preprocess, config, chosen, [0])[0]
    assert found.judged.startswith("data:image/webp")
    assert pixels_of(found.judged).shape == (96, 96, 3)


def test_a_row_is_found_by_its_path_where_the_source_has_another_order(photographs: Source) -> None:
    config, data = read(photographs)
    facts = run_of(photographs, config, data)
    row = int(data.split.rows("train")[3])
    chosen = [(row, photographs.paths[row], "x")]
    wanted = views(Pictures.of(facts), data.preprocess, config, chosen, [0, 1])

    class Turned(Source):
        def __init__(self) -> None:
            paths, targets = photographs.paths[::-1], photographs.targets[::-1]
            super().__init__("turned", classes=photographs.classes, paths=paths, targets=targets)

        def read(self, index: int) -> bytes | np.ndarray:
            return photographs.read(len(self) - 1 - index)

    pictures = Pictures(Turned(), data.split, data.preprocess)
    assert views(pictures, data.preprocess, config, chosen, [0, 1]) == wanted


def test_a_picture_that_is_gone_is_left_out(photographs: Source, tmp_path: Path, write_images: Any) -> None:
    config, data = read(photographs)
    root = write_images(tmp_path / "photos", {"ant": 12, "bee": 9}, ((40, 52), (64, 33), (24, 24)))
    source = FolderSource(root)
    for path in (root / "ant").iterdir():
        path.unlink()
    html = html_of(run_of(source, config, data))
    assert html.split('class="views')[1].count("<tr>") == 1 + 2
    assert "no picture" in html


def test_without_the_images_counts_and_findings_remain() -> None:
    html = html_of(made_facts(source=None))
    assert "<img" not in html
    assert "Images of each class" in html
    assert "As the network sees them" not in html


def test_nothing_is_varied_without_augmentation() -> None:
    facts = made_facts()
    html = html_of(facts)
    assert "training gives it the same" in html
    assert ">epoch 1<" not in html


# --- what is odd -----------------------------------------------------------------------------------------------------


def finding(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "duplicate",
        "severity": "note",
        "count": 2,
        "message": f"2 images {EVIL}",
        "advice": "Look at them \x1b[2J.",
        "override": "",
        "rows": [3, 4],
        "examples": [],
        **changes,
    }


def test_findings_show_the_images_that_they_name() -> None:
    facts = made_facts()
    paths = [facts.split.paths[3], facts.split.paths[4]]
    example = {"rows": [3, 4], "paths": paths, "labels": ["cat", "dog"], "splits": ["train", "train"], "detail": ""}
    of_class = {"rows": [], "paths": [], "labels": [], "splits": [], "detail": f"{EVIL}: 3 images"}
    facts = replace(facts, findings=[finding(examples=[example]), finding(examples=[of_class], severity="warning")])
    html = html_of(facts)
    assert "<script" not in html
    assert "\x1b" not in html
    shown = html.split('class="finding"')[1]
    uris = re.findall(r'src="([^"]+)"', shown)
    assert facts.source is not None
    assert facts.source.images is not None
    for uri, row in zip(uris, (3, 4), strict=True):
        distances = np.abs(facts.source.images.astype(float) - pixels_of(uri)).mean(axis=(1, 2, 3))
        assert distances.argmin() == row
    assert "train: " + paths[0] in shown
    assert f"{EVIL}: 3 images" in unescape(html)


def test_nothing_found_is_another_thing_than_not_looked(tmp_path: Path) -> None:
    facts = made_facts(path=str(tmp_path))
    assert "did not store what was found" in html_of(facts)
    (tmp_path / "findings.json").write_text("{}")
    assert "Nothing was found that would mislead" in html_of(facts)


def test_a_finding_of_another_version_is_shown_as_far_as_it_goes() -> None:
    html = html_of(made_facts(findings=[{"message": "something new"}]))
    assert "something new" in html


# --- how it was divided ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "10% for val and 10% for test were drawn, class by class, by seed 0"),
        ({"data.split_seed": 5}, "by seed 5"),
        ({"data.split": "mine.csv"}, "Divided as mine.csv says"),
        ({"data.folds": 5, "data.fold": 2}, "Fold 2 of 5: dealt by seed 0"),
        ({"data.time_pattern": "20[0-9]+"}, "Divided by time, after the pattern 20[0-9]+ in the paths"),
    ],
)
def test_how_it_was_divided(changes: dict[str, Any], words: str) -> None:
    facts = made_facts()
    said = " ".join(how_divided(replace(facts, config=override(facts.config, changes))))
    assert words in said


def test_own_parts_and_groups_are_said() -> None:
    facts = made_facts()
    assert facts.source is not None
    source = facts.source
    before = source.parts
    try:
        source.parts = ["test" if split == "test" else "" for split in facts.split.splits]
        said = how_divided(facts)
        assert said[0] == (
            "The data itself says what is test. Of the others, 10% for val were drawn, class by class, by seed 0."
        )
    finally:
        source.parts = before
    grouped = replace(facts.split, groups=tuple(f"g{row % 7}" for row in range(len(facts.split.paths))))
    assert "7 groups of images" in " ".join(how_divided(replace(facts, split=grouped)))


def test_leaks_are_said() -> None:
    facts = made_facts()
    hashes = list(facts.split.pixel_hashes)
    hashes[-1] = hashes[0]
    leaky = replace(facts, split=replace(facts.split, pixel_hashes=tuple(hashes)))
    assert "1 image of test is in train too." in how_divided(leaky)

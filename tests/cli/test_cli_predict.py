"""`predict`: calibrated unless asked otherwise, and averaged over views where asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tellapart
from tellapart.cli import main
from tellapart.data.preprocess import Preprocess
from tellapart.exporting.bundle import save_bundle
from tellapart.exporting.module import ClassifierModule
from tellapart.models import create_model

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    described = {"name": "cnn", "num_classes": 3, "in_channels": 3, "size_px": 8}
    module = ClassifierModule(Preprocess(8, [0.5] * 3, [0.2] * 3), create_model(**described), "multiclass")
    module.calibrate(0.5)
    save_bundle(folder / "bundle", module, {"model": described, "classes": ["ant", "bee", "cat"]})
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "a.png")
    return folder / "bundle"


def predict(bundle: Path, capsys: Captured, *options: str) -> dict[str, float]:
    assert main.run(["predict", str(bundle), str(bundle.parent / "a.png"), "--json", "--top-k", "3", *options]) == 0
    return {each["class"]: each["prob"] for each in json.loads(capsys.readouterr().out)["top"]}


@pytest.mark.parametrize("tta", ["none", "flip", "flip-shift"])
def test_calibrated_unless_asked_otherwise(bundle: Path, capsys: Captured, tta: str) -> None:
    image = bundle.parent / "a.png"
    for options, calibrated in (((), True), (("--uncalibrated",), False)):
        found = predict(bundle, capsys, "--tta", tta, *options)
        expected = tellapart.load(bundle, calibrated=calibrated).predict(image, tta=tta)[0].probs
        assert found == expected


def test_the_options_do_something_and_name_the_same_class(bundle: Path, capsys: Captured) -> None:
    found = [predict(bundle, capsys, *options) for options in ((), ("--uncalibrated",), ("--tta", "flip"))]
    assert found[0] != found[1]
    assert found[0] != found[2]
    assert list(found[0]) == list(found[1])
    # A temperature below 1 sharpens.
    assert max(found[0].values()) > max(found[1].values())


def test_an_unknown_name_of_views(bundle: Path, capsys: Captured) -> None:
    assert main.run(["predict", str(bundle), str(bundle.parent / "a.png"), "--tta", "flips"]) == 1
    assert "Did you mean 'flip'?" in capsys.readouterr().err

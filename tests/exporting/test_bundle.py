"""The bundle: what is written comes back, what was altered or is hostile is refused, and nothing is executed."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import tellapart
from tellapart.data.preprocess import Preprocess
from tellapart.errors import RunError, TellapartError
from tellapart.exporting.bundle import load_bundle, read_info, save_bundle
from tellapart.exporting.module import ClassifierModule
from tellapart.models import create_model

CPU = torch.device("cpu")
CLASSES = ["ant", "bee", "cat"]
IMAGE = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)


def make_module(
    task: str = "multiclass", model: str = "cnn", outputs: int = 3
) -> tuple[ClassifierModule, dict[str, Any]]:
    torch.manual_seed(0)
    described = {"name": model, "num_classes": outputs, "in_channels": 3, "size_px": 8}
    preprocess = Preprocess(8, [0.1, 0.2, 0.3], [0.3, 0.2, 0.1], resize_px=10)
    scale = (torch.arange(1.0, outputs + 1), torch.full((outputs,), 2.0)) if task == "regression" else (None, None)
    module = ClassifierModule(preprocess, create_model(**described), task, *scale).eval()
    return module, {"model": described, "classes": [] if task == "regression" else CLASSES}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    module, info = make_module()
    save_bundle(tmp_path / "bundle", module, info)
    return tmp_path / "bundle"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    info = json.loads((folder / "config.json").read_text())
    changed = change(info)
    (folder / "config.json").write_text(json.dumps(info if changed is None else changed))
    return folder


@pytest.mark.parametrize(("task", "outputs"), [("multiclass", 3), ("multilabel", 3), ("regression", 2)])
def test_what_is_loaded_computes_the_same_bits(tmp_path: Path, task: str, outputs: int) -> None:
    module, info = make_module(task, outputs=outputs)
    save_bundle(tmp_path / "b", module, info)
    loaded = load_bundle(tmp_path / "b", CPU)
    images = torch.from_numpy(IMAGE).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = module.to(memory_format=torch.channels_last)(images)
        assert torch.equal(loaded.module(images), expected)
    assert loaded.classes == tuple(info["classes"])
    assert loaded.task == task
    assert not loaded.module.training
    assert len(loaded.predict(IMAGE)[0].probs) == outputs


def test_there_is_nothing_in_it_that_could_run(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    info = json.loads((bundle / "config.json").read_text())
    assert info["files"]["model.safetensors"] == hashlib.sha256((bundle / "model.safetensors").read_bytes()).hexdigest()
    assert info["preprocessing"]["resize_px"] == 10


def test_loading_leaves_torchs_generator_alone(bundle: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_bundle(bundle, CPU)
    assert torch.equal(torch.rand(3), expected)


def test_an_older_bundle_is_replaced_as_a_whole(bundle: Path) -> None:
    (bundle / "left.over").write_text("old")
    (bundle.parent / ".tmp-bundle").mkdir()
    (bundle.parent / ".tmp-bundle" / "torn").write_text("of a killed run")
    module, info = make_module(model="mlp")
    save_bundle(bundle, module, info)
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    assert load_bundle(bundle, CPU).info["model"]["name"] == "mlp"


@pytest.mark.parametrize("place", [0, 9, 200, -1])
def test_one_flipped_bit_is_noticed(bundle: Path, place: int) -> None:
    content = bytearray((bundle / "model.safetensors").read_bytes())
    content[place] ^= 1
    (bundle / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match=r"model.safetensors: its bytes are not those that were written"):
        load_bundle(bundle, CPU)


def test_torn_or_missing_weights_are_named(bundle: Path) -> None:
    content = (bundle / "model.safetensors").read_bytes()
    (bundle / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(RunError, match=r"model.safetensors: its bytes"):
        load_bundle(bundle, CPU)
    (bundle / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model.safetensors: cannot be read \(No such file"):
        load_bundle(bundle, CPU)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"version": ' + b"9" * 5000 + b"}", b"null"]
)
def test_a_config_that_is_no_config_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json"):
        load_bundle(bundle, CPU)


def test_a_later_version_is_refused(bundle: Path) -> None:
    rewrite(bundle, lambda info: info.update(version=3))
    with pytest.raises(RunError, match=r"later Tellapart \(bundle version 3\); upgrade"):
        load_bundle(bundle, CPU)


KEYS = ["version", "task", "classes", "model", "preprocessing", "files", "temperature", "thresholds"]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(bundle: Path, key: str) -> None:
    rewrite(bundle, lambda info: {name: value for name, value in info.items() if name != key})
    with pytest.raises(RunError, match=key):
        load_bundle(bundle, CPU)


NO_MODELS = [
    "../x",
    "/etc/passwd",
    "timm:hf_hub:a/b",
    "timm:hf-hub:a/b",
    "timm:local-dir:x",
    "timm:../x",
    "",
    "a b",
    "x" * 999,
]


@pytest.mark.parametrize("name", NO_MODELS)
def test_only_the_name_of_a_model_is_taken(bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any, **keywords: Any) -> None:
        pytest.fail("a model was made of it")

    monkeypatch.setattr("tellapart.exporting.bundle.create_model", never)
    rewrite(bundle, lambda info: info["model"].update(name=name))
    with pytest.raises(RunError, match=r"model\.name"):
        load_bundle(bundle, CPU)


def test_pretrained_weights_are_never_fetched_for_a_bundle(bundle: Path) -> None:
    rewrite(bundle, lambda info: info["model"].update(name="torchvision:resnet18", pretrained=True))
    with pytest.raises(RunError, match="and no more"):
        load_bundle(bundle, CPU)


def test_an_unknown_model_is_named_with_the_nearest(bundle: Path) -> None:
    rewrite(bundle, lambda info: info["model"].update(name="cnm"))
    with pytest.raises(RunError, match="Did you mean 'cnn'"):
        load_bundle(bundle, CPU)


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c", "d"], [], ["a", "b", "b"], ["a", "b", 3], "abc"])
def test_classes_that_do_not_fit_are_refused(bundle: Path, classes: Any) -> None:
    rewrite(bundle, lambda info: info.update(classes=classes))
    with pytest.raises(RunError, match=r"one a class|different names"):
        load_bundle(bundle, CPU)


def test_a_number_of_classes_that_the_weights_have_not_is_refused(bundle: Path) -> None:
    def widen(info: dict[str, Any]) -> None:
        info["classes"] = [str(number) for number in range(32)]
        info["model"]["num_classes"] = 32

    rewrite(bundle, widen)
    with pytest.raises(RunError, match=r"do not fit .* should have shape \(32"):
        load_bundle(bundle, CPU)
    rewrite(bundle, lambda info: info.update(classes=list("abcde"), model={**info["model"], "num_classes": 5}))
    with pytest.raises(RunError, match="no weight has 5 outputs"):
        load_bundle(bundle, CPU)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_nothing_large_is_allocated_for_a_number_in_a_config(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An MLP for 4,096 px would take 100 GB: it is measured against the weights before it is made."""
    module, info = make_module(model=model)
    save_bundle(tmp_path / "b", module, info)

    def grow(info: dict[str, Any]) -> None:
        info["model"]["size_px"] = info["preprocessing"]["size_px"] = info["preprocessing"]["resize_px"] = 4096

    rewrite(tmp_path / "b", grow)
    made: list[str] = []

    def make(**description: Any) -> torch.nn.Module:
        network = create_model(**description)
        made.append(next(network.parameters()).device.type)
        return network

    monkeypatch.setattr("tellapart.exporting.bundle.create_model", make)
    with pytest.raises(RunError, match="do not fit"):
        load_bundle(tmp_path / "b", CPU)
    assert made == ["meta"]


def test_a_preprocessing_that_the_weights_contradict_is_refused(bundle: Path) -> None:
    rewrite(bundle, lambda info: info["preprocessing"].update(mean=[0.4, 0.4, 0.4]))
    with pytest.raises(RunError, match="another preprocessing"):
        load_bundle(bundle, CPU)


def calibrated(task: str = "multiclass", temperature: float = 1.7) -> tuple[ClassifierModule, dict[str, Any]]:
    module, info = make_module(task)
    module.calibrate(temperature, np.array([0.25, 0.5, 0.1]) if task == "multilabel" else None)
    return module, info


def as_version_1(folder: Path) -> Path:
    """Turn a bundle into one of the time before the temperature."""
    tensors = load((folder / "model.safetensors").read_bytes())
    content = save({name: tensor for name, tensor in tensors.items() if name not in ("temperature", "thresholds")})
    (folder / "model.safetensors").write_bytes(content)

    def age(info: dict[str, Any]) -> None:
        del info["temperature"], info["thresholds"]
        info.update(version=1, files={"model.safetensors": hashlib.sha256(content).hexdigest()})

    return rewrite(folder, age)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_temperature_and_thresholds_come_back(tmp_path: Path, task: str) -> None:
    module, info = calibrated(task)
    save_bundle(tmp_path / "b", module, info)
    found = load_bundle(tmp_path / "b", CPU)
    assert found.temperature == float(np.float32(1.7))
    assert found.thresholds == (() if task == "multiclass" else (0.25, 0.5, float(np.float32(0.1))))
    stored = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (stored["temperature"], tuple(stored["thresholds"])) == (found.temperature, found.thresholds)
    images = torch.from_numpy(IMAGE).permute(2, 0, 1)[None]
    with torch.inference_mode():
        assert torch.equal(found.module(images), module.to(memory_format=torch.channels_last)(images))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_an_older_bundle_computes_what_it_did(tmp_path: Path, task: str) -> None:
    module, info = make_module(task)
    save_bundle(tmp_path / "b", module, info)
    found = load_bundle(as_version_1(tmp_path / "b"), CPU)
    assert (found.temperature, found.thresholds) == (1.0, ())
    images = torch.from_numpy(IMAGE).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = module.to(memory_format=torch.channels_last).logits(module.preprocess.reduce(images))
        expected = logits.sigmoid() if task == "multilabel" else logits.softmax(1)
        assert torch.equal(found.module(images), expected)


def test_an_older_version_hides_no_temperature(tmp_path: Path) -> None:
    module, info = calibrated()
    save_bundle(tmp_path / "b", module, info)
    rewrite(tmp_path / "b", lambda info: info.update(version=1))
    assert load_bundle(tmp_path / "b", CPU).temperature == float(np.float32(1.7))
    rewrite(tmp_path / "b", lambda info: {key: value for key, value in info.items() if key != "temperature"})
    with pytest.raises(RunError, match="another temperature"):
        load_bundle(tmp_path / "b", CPU)


@pytest.mark.parametrize("value", [0, -1.5, math.nan, math.inf, "1.5", None, True, [1.0], 1e-9, 1e9, 10**400])
def test_a_hostile_temperature_is_refused_by_name(bundle: Path, value: Any) -> None:
    rewrite(bundle, lambda info: info.update(temperature=value))
    with pytest.raises(RunError, match=r"temperature: a number from 0\.015625 to 64, found"):
        load_bundle(bundle, CPU)


@pytest.mark.parametrize("value", [0.0, -1.5, math.nan, math.inf])
def test_a_hostile_temperature_in_the_weights_is_refused_by_name(tmp_path: Path, value: float) -> None:
    module, info = make_module()
    module.temperature.fill_(value)
    save_bundle(tmp_path / "b", module, info)
    with pytest.raises(RunError, match="temperature"):
        load_bundle(tmp_path / "b", CPU)
    rewrite(tmp_path / "b", lambda info: info.update(temperature=1.0))
    with pytest.raises(RunError, match=r"another temperature \(1\.0\) than the weights"):
        load_bundle(tmp_path / "b", CPU)


def test_thresholds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    module, info = calibrated("multilabel")
    save_bundle(tmp_path / "b", module, info)
    for value in ([0.5], [0.5, 0.5, 1.5], [0.5, "x", 0.5], [0.1, 0.2, math.nan], 0.5, None, {"a": 1}):
        rewrite(tmp_path / "b", lambda info, value=value: info.update(thresholds=value))
        with pytest.raises(RunError, match="thresholds: a number from 0 to 1 a class, or none"):
            load_bundle(tmp_path / "b", CPU)
    rewrite(tmp_path / "b", lambda info: info.update(thresholds=[0.5, 0.5, 0.5]))
    with pytest.raises(RunError, match="another thresholds"):
        load_bundle(tmp_path / "b", CPU)
    rewrite(tmp_path / "b", lambda info: info.update(thresholds=[]))
    with pytest.raises(RunError, match="'thresholds' should have shape none"):
        load_bundle(tmp_path / "b", CPU)


def test_one_class_an_image_has_no_thresholds(bundle: Path) -> None:
    rewrite(bundle, lambda info: info.update(thresholds=[0.5, 0.5, 0.5]))
    with pytest.raises(RunError, match="thresholds: none, found"):
        load_bundle(bundle, CPU)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_temperature_can_be_left_out(tmp_path: Path, task: str) -> None:
    plain, info = make_module(task)
    save_bundle(tmp_path / "plain", plain, info)
    save_bundle(tmp_path / "b", *calibrated(task))
    expected = tellapart.load(tmp_path / "plain").predict(IMAGE)[0].probs
    with_it = tellapart.load(tmp_path / "b")
    without = tellapart.load(tmp_path / "b", calibrated=False)
    assert without.temperature == 1.0
    assert without.predict(IMAGE)[0].probs == expected
    assert with_it.predict(IMAGE)[0].probs != expected
    assert with_it.predict(IMAGE)[0].label == without.predict(IMAGE)[0].label
    assert without.thresholds != with_it.thresholds or task == "multiclass"


def test_weights_of_another_model_are_refused_by_name(bundle: Path) -> None:
    tensors = load((bundle / "model.safetensors").read_bytes())
    del tensors["network.head.1.bias"]
    content = save(tensors)
    (bundle / "model.safetensors").write_bytes(content)
    rewrite(bundle, lambda info: info["files"].update({"model.safetensors": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(RunError, match=r"network\.head\.1\.bias"):
        load_bundle(bundle, CPU)


def test_a_hash_over_no_safetensors_file_is_refused(bundle: Path) -> None:
    content = b"\x80\x04\x95 a pickle, perhaps"
    (bundle / "model.safetensors").write_bytes(content)
    rewrite(bundle, lambda info: info["files"].update({"model.safetensors": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(RunError, match="not a safetensors file"):
        load_bundle(bundle, CPU)


def test_everything_wrong_is_said_together(bundle: Path) -> None:
    def spoil(info: dict[str, Any]) -> None:
        info["task"], info["preprocessing"]["mean"], info["model"]["in_channels"] = "divination", [0.5], 7

    rewrite(bundle, spoil)
    with pytest.raises(RunError) as caught:
        load_bundle(bundle, CPU)
    for word in ("task", "divination", "preprocessing.mean", "model.in_channels"):
        assert word in str(caught.value)


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2.5,
    10**30,
    float("inf"),
    float("nan"),
    "",
    "x",
    [],
    [[]],
    {},
    {"a": {}},
    ["a", "b", "c"],
    [float("nan")] * 3,
]
PLACES = [
    *[(key,) for key in KEYS],
    *[("model", key) for key in ("name", "num_classes", "in_channels", "size_px", "pretrained")],
    *[("preprocessing", key) for key in ("size_px", "resize_px", "fit", "mean", "std", "other")],
    ("files", "model.safetensors"),
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile") / "bundle"
    module, info = make_module()
    save_bundle(folder, module, info)
    return folder, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_no_value_anywhere_gives_another_error(described: tuple[Path, dict[str, Any]], place: tuple[str, ...]) -> None:
    folder, original = described
    for value in ODD:
        info = copy.deepcopy(original)
        target = info if len(place) == 1 else info[place[0]]
        if place[-1] in target and json.dumps(target[place[-1]]) == json.dumps(value):
            continue
        target[place[-1]] = value
        (folder / "config.json").write_text(json.dumps(info))
        try:
            found = load_bundle(folder, CPU).predict(IMAGE)[0]
        except TellapartError:
            continue
        # What is let through has to work: three other class names are the only such value here.
        assert place == ("classes",), (place, value)
        assert found.label in value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_read_info_raises_nothing_but_run_errors(
    described: tuple[Path, dict[str, Any]], place: tuple[str, ...], value: Any
) -> None:
    folder, original = described
    info = copy.deepcopy(original)
    (info if len(place) == 1 else info[place[0]])[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(info))
    try:
        read_info(folder)
    except RunError as error:
        assert len(str(error)) < 2000


def test_load_says_what_is_there_instead(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(RunError, match="found nothing"):
        tellapart.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match="found a file"):
        tellapart.load(bundle / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"config\.json: cannot be read"):
        tellapart.load(tmp_path / "empty")
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    with pytest.raises(RunError, match=r"has not ended.*tellapart train --resume"):
        tellapart.load(tmp_path / "unfinished")


def test_load_takes_a_run_and_a_bundle_alike(bundle: Path) -> None:
    for path in (bundle, bundle.parent, str(bundle)):
        assert tellapart.load(path).classes == tuple(CLASSES)


def test_a_bundle_moved_elsewhere_still_works(bundle: Path, tmp_path: Path) -> None:
    before = tellapart.load(bundle).predict(IMAGE)
    bundle.rename(tmp_path / "elsewhere")
    assert tellapart.load(tmp_path / "elsewhere").predict(IMAGE) == before


def test_the_card_says_what_was_measured_on_how_many(tmp_path: Path) -> None:
    module, info = make_module()
    metrics = {"top1": {"value": 0.75, "low": 0.5, "high": 0.9}, "nll": {"value": None, "low": None, "high": None}}
    info |= {"val": {"n": 1200, "num_given": 1203, "metrics": metrics}, "data": {"name": "insects"}}
    save_bundle(tmp_path / "b", module, info)
    text = (tmp_path / "b" / "README.md").read_text()
    assert "# cnn on insects" in text
    assert "On 1,200 of 1,203 images given" in text
    assert "| top1 | 0.7500 | 0.5000 to 0.9000 |" in text
    assert "| nll | not defined |" in text
    assert "`ant`, `bee`, `cat`" in text


def test_the_card_says_what_was_done_to_the_probabilities(tmp_path: Path) -> None:
    module, info = calibrated("multilabel")
    before, after = ({"ece": {"value": value, "low": 0.01, "high": None}} for value in (0.123, 0.045))
    save_bundle(tmp_path / "b", module, {**info, "calibration": {"before": before, "after": after}})
    text = (tmp_path / "b" / "README.md").read_text()
    assert "divided by a temperature of 1.7 before" in text
    assert "It was fitted on val" in text
    assert "| ece | 0.1230 | 0.0450 | 0.0100 to not defined |" in text
    assert "`ant` 0.250, `bee` 0.500, `cat` 0.100" in text
    plain, info = make_module()
    save_bundle(tmp_path / "plain", plain, info)
    text = (tmp_path / "plain" / "README.md").read_text()
    assert "its temperature is 1." in text
    assert "threshold" not in text
    numbers, info = make_module("regression", outputs=2)
    save_bundle(tmp_path / "numbers", numbers, info)
    assert "emperature" not in (tmp_path / "numbers" / "README.md").read_text()

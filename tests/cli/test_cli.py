"""The command line: what goes to stdout, what to stderr, and what it exits with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tellapart
from tellapart.api.run import Run
from tellapart.cli.main import run
from tellapart.data.preprocess import Preprocess
from tellapart.exporting.bundle import save_bundle
from tellapart.exporting.module import ClassifierModule
from tellapart.models import create_model

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
IMAGES = (RNG.integers(0, 64, (60, 8, 8)) + 64 * LABELS[:, None, None]).astype(np.uint8)
CLASSES = ["ant", "bee", "cat"]
Captured = pytest.CaptureFixture[str]


def write_npz(path: Path, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS, **arrays: Any) -> Path:
    np.savez(path, images=images, labels=labels, **arrays)
    return path


def tiny(data: Path, folder: Path, *more: str) -> list[str]:
    return ["train", str(data), "--model", "cnn", "--epochs", "2", "--batch-size", "8", "--run", str(folder), *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.npz and a run over it; tests that write get a copy."""
    root = tmp_path_factory.mktemp("cli")
    data = write_npz(root / "data.npz", classes=np.array(CLASSES))
    assert run(tiny(data, root / "run", "--json")) == 0
    return root


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for name, row in {"b.png": 0, "a.png": 1, "inner/c.png": 2}.items():
        Image.fromarray(IMAGES[row]).save(folder / name)
    return folder


def only_json(capsys: Captured) -> tuple[Any, str]:
    """Return stdout, which has to be one JSON value and nothing else, and stderr."""
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail), err


# What it says without doing anything.


def test_without_a_verb_the_usage_and_2(capsys: Captured) -> None:
    assert run([]) == 2
    assert "usage: tellapart VERB" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help(word: str, capsys: Captured) -> None:
    assert run([word]) == 0
    assert "examples:" in capsys.readouterr().out


def test_version(capsys: Captured) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"tellapart {tellapart.__version__}\n"


def test_a_wrong_verb_names_the_nearest(capsys: Captured) -> None:
    assert run(["evalute"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Did you mean 'evaluate'?" in err


# train


def test_train_json_is_alone_on_stdout_and_has_the_promised_shape(tmp_path: Path, capsys: Captured) -> None:
    assert run(tiny(write_npz(tmp_path / "data.npz"), tmp_path / "run", "--json")) == 0
    result, err = only_json(capsys)
    assert {"run", "split", "n", "metrics", "seconds"} <= set(result)
    assert (result["run"], result["split"], result["n"]) == (str(tmp_path / "run"), "val", 6)
    assert set(result["metrics"]["top1"]) == {"value", "low", "high"}
    assert "epoch 2/2" in err
    assert result == Run(tmp_path / "run").result


def test_train_tells_people_the_number_with_its_n_and_what_to_do_next(tmp_path: Path, capsys: Captured) -> None:
    assert run(tiny(write_npz(tmp_path / "data.npz"), tmp_path / "run")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"^accuracy on val: \d+\.\d% \(\d+\.\d to \d+\.\d, n = 6\)$", out, re.MULTILINE)
    top1 = Run(tmp_path / "run").metrics["top1"]["value"]
    assert f"accuracy on val: {top1:.1%} (" in out
    assert f"tellapart evaluate {tmp_path / 'run'} --split test" in out
    assert f"tellapart predict {tmp_path / 'run'}" in out


def test_a_dry_run_shows_the_tutorials_network_and_writes_nothing(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = RNG.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    data = write_npz(tmp_path / "data.npz", images, np.arange(20) % 10)
    arguments = ["train", str(data), "--recipe", "tutorial", "--model", "cifar10-cnn", "--dry-run"]
    assert run(arguments) == 0
    out, _ = capsys.readouterr()
    assert "815,018" in out
    assert '"recipe": "tutorial"' in out
    assert run([*arguments, "--json"]) == 0
    shown, _ = only_json(capsys)
    assert shown["num_parameters"] == 815_018
    assert shown["config"]["train"]["epochs"] == 100
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_a_dry_run_finds_what_is_wrong(tmp_path: Path, capsys: Captured) -> None:
    data = write_npz(tmp_path / "data.npz")
    assert run(["train", str(data), "--model", "restnet18", "--optim.lr", "fast", "--dry-run"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 problems in the config" in err
    assert "Did you mean 'resnet18'" in err
    assert "optim.lr: expected a number, found 'fast'" in err


def test_short_and_dotted_options_are_the_same(tmp_path: Path, capsys: Captured) -> None:
    data = str(write_npz(tmp_path / "data.npz"))
    configs = []
    for options in (["--epochs", "3", "--batch-size", "4", "--model", "mlp"],
                    ["--train.epochs", "3", "--train.batch-size=4", "--model.name", "mlp"],
                    ["--train.epochs=3", "--train.batch_size", "4", "--model=mlp"]):  # fmt: skip
        assert run(["train", data, *options, "--dry-run", "--json"]) == 0
        configs.append(only_json(capsys)[0])
    assert configs[0] == configs[1] == configs[2]
    assert configs[0]["config"]["train"] == {**configs[0]["config"]["train"], "epochs": 3, "batch_size": 4}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "digits", "extra"], "did not expect 'extra'"),
        (["train", "--lr", "1"], "Did you mean '--optim.lr'?"),
        (["train", "--optim.lr"], "expected one argument"),
        (["train", "--resume"], "needs the run's folder"),
        (["train", "--resume", "a", "--run", "b"], "which one?"),
        (["train", "--resume", "a", "--dry-run"], "leave out --resume"),
        (["predict", "run", "a.png", "--top-k", "0"], "--top-k: expected at least 1"),
        (["predict", "run", "a.png", "--top-k", "many"], "--top-k"),
        (["evaluate", "run", "--split", "tset"], "--split"),
        (["ls", "modles"], "invalid choice"),
    ],
)
def test_a_wrong_call_exits_with_2_and_says_why(arguments: list[str], words: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert words in err


def test_problems_exit_with_1_without_a_traceback(trained: Path, tmp_path: Path, capsys: Captured) -> None:
    cases = {
        "no such file or folder": ["train", str(tmp_path / "none")],
        "found one in use": tiny(trained / "data.npz", trained / "run"),
        "expected a run folder": ["train", "--resume", str(tmp_path)],
        "found nothing": ["evaluate", str(tmp_path / "none")],
        "expected the folder of a run": ["predict", str(trained / "data.npz"), "a.png"],
    }
    for words, arguments in cases.items():
        assert run(arguments) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
        assert err.startswith(f"tellapart {arguments[0]}: ")
        assert "Traceback" not in err


def test_resuming_an_ended_run_says_so(trained: Path, capsys: Captured) -> None:
    assert run(["train", "--resume", str(trained / "run"), "--json"]) == 0
    result, err = only_json(capsys)
    assert result == Run(trained / "run").result
    assert "has ended; there is nothing left to do" in err


def test_resuming_with_another_option_is_refused(trained: Path, capsys: Captured) -> None:
    assert run(["train", "--resume", str(trained / "run"), "--epochs", "9", "--recipe", "tutorial"]) == 1
    err = capsys.readouterr().err
    assert "train.epochs: the run has 2, this command asks for 9" in err
    assert "recipe: the run has 'auto', this command asks for 'tutorial'" in err


def test_the_same_command_with_resume_carries_on(trained: Path, capsys: Captured) -> None:
    same = tiny(trained / "data.npz", trained / "run", "--resume", "--data.num-workers", "2")
    assert run(same) == 0
    assert "has ended; there is nothing left to do" in capsys.readouterr().out


def test_resuming_with_other_data_is_refused(trained: Path, tmp_path: Path, capsys: Captured) -> None:
    other = write_npz(tmp_path / "other.npz")
    assert run(["train", str(other), "--run", str(trained / "run"), "--resume"]) == 1
    assert f"this command names {other}" in capsys.readouterr().err


def test_a_run_without_its_end_is_finished(folder: Path, capsys: Captured) -> None:
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "bundle")
    assert run(["predict", str(folder), "a.png"]) == 1
    assert f"tellapart train --resume {folder}" in capsys.readouterr().err
    assert run(["train", "--run", str(folder), "--resume"]) == 0
    assert (folder / "bundle" / "model.safetensors").exists()


def test_ctrl_c_outside_of_training_exits_with_130(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tellapart.api.train.prepare", interrupt)
    assert run(["train", "digits"]) == 130
    assert "stopped" in capsys.readouterr().err


# evaluate


def test_evaluate_json_has_the_promised_shape(folder: Path, capsys: Captured) -> None:
    assert run(["evaluate", str(folder), "--split", "test", "--json"]) == 0
    result, _ = only_json(capsys)
    assert list(result)[:4] == ["split", "n", "num_given", "metrics"]
    assert (result["split"], result["n"], result["num_given"]) == ("test", 6, 6)
    assert [row["class"] for row in result["per_class"]] == result["classes"]
    assert sum(map(sum, result["confusion_matrix"])) == 6
    assert [look["split"] for look in result["looks"]] == ["test"]
    assert set(result["metrics"]["top1"]) == {"value", "low", "high"}


def test_evaluate_on_val_prints_the_number_of_train(folder: Path, capsys: Captured) -> None:
    assert run(["evaluate", str(folder), "--json"]) == 0
    result, _ = only_json(capsys)
    trained = Run(folder).result
    assert trained is not None
    for key in ("split", "n", "num_given", "metrics", "temperature"):
        assert result[key] == trained[key], key


def test_evaluate_tells_people_and_counts_the_looks(folder: Path, capsys: Captured) -> None:
    assert run(["evaluate", str(folder), "--split", "test"]) == 0
    first = capsys.readouterr().out
    assert re.search(r"^accuracy on test: \d+\.\d% \(\d+\.\d to \d+\.\d, n = 6\)$", first, re.MULTILINE)
    for name in CLASSES:
        assert re.search(rf"^  {name} +2 ", first, re.MULTILINE)
    assert "looked at" not in first
    assert run(["evaluate", str(folder), "--split", "test"]) == 0
    assert "test was looked at 2 times" in capsys.readouterr().out


# predict


def test_predict_json_is_a_line_an_image(trained: Path, pictures: Path, capsys: Captured) -> None:
    assert run(["predict", str(trained / "run"), str(pictures), "--json", "--top-k", "2"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [line["path"] for line in lines] == [str(pictures / name) for name in ("a.png", "b.png", "inner/c.png")]
    expected = tellapart.load(trained / "run").predict(
        [pictures / "a.png", pictures / "b.png", pictures / "inner/c.png"]
    )
    for line, prediction in zip(lines, expected, strict=True):
        assert list(line) == ["path", "class", "prob", "top"]
        assert line["class"] == prediction.label == line["top"][0]["class"]
        assert line["prob"] == pytest.approx(prediction.prob, rel=1e-4)
        assert len(line["top"]) == 2
        assert all(set(entry) == {"class", "prob"} for entry in line["top"])
        assert line["top"][0]["prob"] >= line["top"][1]["prob"]


def test_an_image_that_cannot_be_read_is_a_line_and_exit_code_1(
    trained: Path, pictures: Path, capsys: Captured
) -> None:
    bad, none = pictures / "aa.png", pictures / "none.png"
    bad.write_bytes(b"<html>")
    arguments = ["predict", str(trained / "run"), str(pictures / "a.png"), str(bad), str(none), str(pictures / "b.png")]
    assert run([*arguments, "--json"]) == 1
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [set(line) for line in lines] == [
        {"path", "class", "prob", "top"},
        {"path", "error"},
        {"path", "error"},
        {"path", "class", "prob", "top"},
    ]
    assert lines[1] == {"path": str(bad), "error": "not an image but an HTML page"}
    assert lines[2] == {"path": str(none), "error": "No such file or directory"}
    assert "2 of 4 images cannot be read" in err

    assert run(arguments) == 1
    out, _ = capsys.readouterr()
    assert out.splitlines()[1] == f"{bad}: cannot be read: not an image but an HTML page"


def test_predict_tells_people(trained: Path, pictures: Path, capsys: Captured) -> None:
    assert run(["predict", str(trained / "run"), str(pictures / "a.png")]) == 0
    assert re.fullmatch(rf"{re.escape(str(pictures / 'a.png'))}: (ant|bee|cat) \d+\.\d%\n", capsys.readouterr().out)
    assert run(["predict", str(trained / "run" / "bundle"), str(pictures / "a.png"), "--top-k", "3"]) == 0
    assert re.search(r": (\w+ \d+\.\d%(, )?){3}$", capsys.readouterr().out.strip())


def test_a_folder_without_images_is_said(trained: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "empty").mkdir()
    assert run(["predict", str(trained / "run"), str(tmp_path / "empty"), "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "found no images" in err


def test_numbers_are_predicted_as_valid_json(tmp_path: Path, pictures: Path, capsys: Captured) -> None:
    data = write_npz(tmp_path / "data.npz", labels=LABELS.astype(np.float32))
    assert run(tiny(data, tmp_path / "run", "--json")) == 0
    result, _ = only_json(capsys)
    assert {"mse", "r2"} <= set(result["metrics"])
    assert run(["predict", str(tmp_path / "run"), str(pictures / "a.png"), "--json"]) == 0
    line, _ = only_json(capsys)
    assert list(line) == ["path", "class", "prob", "top", "values"]
    assert (line["prob"], line["top"]) == (None, [])
    assert float(line["class"]) == pytest.approx(line["values"][0], rel=1e-5)
    assert run(["predict", str(tmp_path / "run"), str(pictures / "a.png")]) == 0
    assert re.search(r"a\.png: -?\d", capsys.readouterr().out)
    assert run(["evaluate", str(tmp_path / "run")]) == 0
    assert "mse" in capsys.readouterr().out


# In a process of its own: what is imported, and what happens to a pipe.


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    source = Path(tellapart.__file__).parents[1]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_predicting_imports_nothing_heavy_and_stdout_is_only_the_answer(tmp_path: Path, pictures: Path) -> None:
    described = {"name": "resnet20", "num_classes": 3, "in_channels": 1, "size_px": 8}
    module = ClassifierModule(Preprocess(8, [0.5], [0.5]), create_model(**described), "multiclass")  # type: ignore[arg-type]
    save_bundle(
        tmp_path / "bundle", module.to(memory_format=torch.channels_last), {"model": described, "classes": CLASSES}
    )
    code = (
        "import sys\n"
        "from tellapart.cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        "heavy = ('torchvision', 'sklearn', 'scipy', 'matplotlib', 'timm', 'sympy', 'pandas', 'torch._dynamo')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = python("-c", code, "predict", str(tmp_path / "bundle"), str(pictures), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[]\n"
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3

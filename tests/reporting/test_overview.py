"""The overview of a folder of runs: what is gathered, what stands side by side, and the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from tellapart import config as configs
from tellapart.api.listing import runs_listing
from tellapart.api.overview import gather_runs
from tellapart.config import RunConfig, override
from tellapart.data.splits import Split
from tellapart.errors import RunError
from tellapart.reporting.overview import render_overview
from tellapart.reporting.run_lines import run_lines
from tellapart.reporting.run_rows import RunRow, differing, grouped

HOSTILE = '<script>alert("x")</script> \u202e & 日本'


def a_split(held_out: str = "b") -> Split:
    """Return a division of six images in which the letter says which are val and test."""
    names = ("a0", "a1", "b0", "b1", "c0", "c1")
    splits = tuple("val" if name == f"{held_out}0" else "test" if name == f"{held_out}1" else "train" for name in names)
    return Split(names, ("x",) * 6, splits, tuple(f"hash-{name}" for name in names))


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.02), "high": min(1.0, value + 0.01)}


def write_run(
    path: Path,
    top1: float = 0.9,
    *,
    split: Split | None = None,
    curve: Sequence[float | None] = (0.5, 0.8, 0.9),
    tests: Sequence[dict[str, Any]] = (),
    has_ended: bool = True,
    **changes: Any,
) -> Path:
    path.mkdir(parents=True)
    fields = {"data.source": "pets", "train.epochs": 3, **{name.replace("__", "."): v for name, v in changes.items()}}
    config = override(RunConfig(), fields)
    (path / "config.json").write_text(configs.dump(config))
    (a_split() if split is None else split).save(path / "split.parquet")
    lines: list[dict[str, Any]] = [{"kind": "step", "step": 1, "epoch": 1, "train/loss": 2.0}]
    lines += [{"kind": "epoch", "epoch": n, "val/top1": value} for n, value in enumerate(curve, 1)]
    (path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if has_ended:
        metrics = {"top1": estimate(top1), "nll": {"value": 0.25, "low": 0.2, "high": 0.3}}
        result = {"n": 100, "num_given": 100, "metrics": metrics, "best_epoch": 2, "epochs": 3, "seconds": 62.0}
        (path / "result.json").write_text(json.dumps(result))
        look = {"at": "2026-11-23T10:49:47+00:00", "weights": "0", "split": "val", "n": 100, "metrics": metrics}
        (path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [look, *tests]))
    return path


def look_at_test(value: float, **more: Any) -> dict[str, Any]:
    return {"at": "2026-11-24T00:00:00+00:00", "split": "test", "n": 50, "metrics": {"top1": estimate(value)}, **more}


def overview_page(folder: Path, start: Path | None = None) -> str:
    return render_overview(gather_runs(folder), folder.name, folder if start is None else start)


def by_name(folder: Path) -> dict[str, RunRow]:
    return {row.name: row for row in gather_runs(folder)}


# --- gathering -------------------------------------------------------------------------------------------------------


def test_a_run_is_read_from_its_small_files(tmp_path: Path) -> None:
    path = write_run(tmp_path / "one", 0.93, model__name="mlp", curve=(0.5, None, 0.9))
    header = json.dumps(
        {
            "network.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
            "network.norm.running_mean": {"dtype": "F32", "shape": [7], "data_offsets": [48, 76]},
            "preprocess.mean": {"dtype": "F32", "shape": [3], "data_offsets": [76, 88]},
        }
    ).encode()
    (path / "bundle").mkdir()
    (path / "bundle" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (row,) = gather_runs(tmp_path)
    assert (row.name, row.state, row.kind, row.data, row.model) == ("one", "ended", "run", "pets", "mlp")
    assert row.value is not None and row.value.value == 0.93
    assert (row.n, row.epochs, row.best_epoch, row.seconds, row.num_params) == (100, 3, 2, 62.0, 12)
    assert row.curve[0] == 0.5 and row.curve[1] != row.curve[1] and row.curve[2] == 0.9
    assert row.written_at == "2026-11-23T10:49:47+00:00"


def test_the_last_plain_look_at_test_counts_and_all_looks_are_counted(tmp_path: Path) -> None:
    looks = [look_at_test(0.7), look_at_test(0.8), look_at_test(0.95, tta="flip"), look_at_test(0.1, data="others")]
    write_run(tmp_path / "one", tests=looks)
    (row,) = gather_runs(tmp_path)
    assert row.test["top1"].value == 0.8
    assert (row.looks, row.n_test) == (3, 50)


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path / "one", tests=[look_at_test(0.7)])
    for name in ("evaluations.jsonl", "history.jsonl"):
        with (path / name).open("a") as file:
            file.write('{"kind": "epoch", "split": "te')
    (row,) = gather_runs(tmp_path)
    assert (row.looks, len(row.curve)) == (1, 3)


def test_what_has_not_ended_and_what_is_damaged_is_listed_with_why(tmp_path: Path) -> None:
    write_run(tmp_path / "running", has_ended=False, curve=(0.5,))
    (write_run(tmp_path / "no-json") / "config.json").write_text("{")
    (write_run(tmp_path / "later") / "config.json").write_text('{"version": 99, "train": {}, "model": {}}')
    (write_run(tmp_path / "edited") / "result.json").write_text('{"metrics": 3}')
    (write_run(tmp_path / "torn") / "result.json").write_text('{"metr')
    (write_run(tmp_path / "gone") / "config.json").unlink()
    (write_run(tmp_path / "binary") / "config.json").write_bytes(b"\xff\xfe\x00")
    rows = by_name(tmp_path)
    assert rows["running"].state == "unfinished"
    assert "1 of 3 epochs have ended" in rows["running"].why
    assert f"tellapart train --resume {tmp_path / 'running'}" in rows["running"].why
    reasons = {
        "no-json": "not JSON",
        "later": "later Tellapart",
        "edited": "result.json or evaluations.jsonl",
        "torn": "result.json is not JSON",
        "gone": "no config.json",
        "binary": "config.json",
    }
    for name, reason in reasons.items():
        assert rows[name].state == "damaged", name
        assert reason in rows[name].why, name
    assert grouped(list(rows.values())) == []


_ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)
_RESULT_FIELDS = ("n", "num_given", "metrics", "best_epoch", "epochs", "seconds", "over_seeds", "over_folds")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_stands_in_the_files_the_other_runs_are_shown(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "good", 0.9)
    path = write_run(folder / "odd", 0.8)
    result = json.loads((path / "result.json").read_text())
    changed = data.draw(st.dictionaries(st.sampled_from(_RESULT_FIELDS), _ANYTHING, max_size=2))
    metric = data.draw(st.one_of(st.just(estimate(0.5)), _ANYTHING))
    (path / "result.json").write_text(json.dumps({**result, "metrics": {"top1": metric}, **changed}))
    lines = [
        data.draw(_ANYTHING),
        look_at_test(0.5) | data.draw(st.dictionaries(st.sampled_from(("at", "n")), _ANYTHING)),
    ]
    (path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = gather_runs(folder)
    assert {row.name for row in rows} == {"good", "odd"}
    assert "90.0%" in render_overview(rows, "runs", folder)
    assert "90.0% (88.0-91.0)" in "\n".join(run_lines(rows))
    json.dumps(runs_listing(rows), allow_nan=False)


def test_folders_that_are_no_runs_are_passed_by(tmp_path: Path) -> None:
    write_run(tmp_path / "2026" / "november" / "deep")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "config.json").write_text('{"classes": ["a"], "model": {"name": "mlp"}}')
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    write_run(tmp_path / ".hidden")
    (tmp_path / "notes.txt").write_text("x")
    assert [row.name for row in gather_runs(tmp_path)] == ["2026/november/deep"]
    assert [row.name for row in gather_runs(tmp_path / "2026" / "november" / "deep")] == ["deep"]
    with pytest.raises(RunError, match="found nothing"):
        gather_runs(tmp_path / "nowhere")
    with pytest.raises(RunError, match="found a file"):
        gather_runs(tmp_path / "notes.txt")
    assert "There is no run in this folder." in overview_page(tmp_path / "pictures")


def test_links_between_folders_do_not_count_a_run_twice(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs", target_is_directory=True)
    (tmp_path / "runs" / "also-one").symlink_to(tmp_path / "runs" / "one", target_is_directory=True)
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "nowhere")
    assert [row.name for row in gather_runs(tmp_path / "runs")] == ["one"]


def write_several(path: Path, kind: str) -> Path:
    """Write a folder of folds or seeds, two of which have ended."""
    for number in (1, 2):
        members: dict[str, Any] = {"folds": {"data__folds": 2, "data__fold": number}, "seeds": {"seed": number}}[kind]
        write_run(path / f"{kind[:-1]}-{number}", 0.8 + number / 100, split=a_split("abc"[number]), **members)
    whole = {"folds": {"data.folds": 2}, "seeds": {"seeds": 2}}[kind]
    config = override(RunConfig(), {"data.source": "pets", **whole})
    (path / "config.json").write_text(configs.dump(config))
    over = {"top1": {"mean": 0.815, "std": 0.0071, **({"low": 0.75, "high": 0.88} if kind == "seeds" else {})}}
    result = {"n": 100, "num_given": 100, "metrics": {"top1": estimate(0.815)}, f"over_{kind}": over, "seconds": 9.0}
    (path / "result.json").write_text(json.dumps(result))
    return path


def test_folds_and_seeds_are_a_row_with_members(tmp_path: Path) -> None:
    write_several(tmp_path / "five", "folds")
    write_several(tmp_path / "luck", "seeds")
    rows = by_name(tmp_path)
    assert [member.name for member in rows["five"].members] == ["fold-1", "fold-2"]
    assert (rows["five"].kind, rows["luck"].kind) == ("folds", "seeds")
    assert rows["luck"].spread == {"mean": 0.815, "std": 0.0071, "low": 0.75, "high": 0.88}
    page = overview_page(tmp_path)
    assert "2 folds of cifar10-cnn on pets: mean accuracy 81.5%, standard deviation 0.7%." in page
    assert "95% interval of the mean 75.0 to 88.0%" in page
    assert "<td>75.0% to 88.0%</td>" in page
    assert grouped(list(rows.values())) == []


# --- what may be compared --------------------------------------------------------------------------------------------


def test_runs_are_grouped_by_the_images_they_were_judged_on(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.8)
    write_run(tmp_path / "b", 0.9)
    # The same images in another order, and hashed at another size, are the same division.
    one = a_split()
    turned = Split(*(tuple(reversed(column)) for column in (one.paths, one.classes, one.splits, one.pixel_hashes)))
    write_run(tmp_path / "c", 0.7, split=replace(turned, pixel_hashes=("other",) * 6))
    write_run(tmp_path / "d", 0.99, split=a_split("a"))
    write_run(tmp_path / "e", 0.98, data__source="other/pets-2")
    (write_run(tmp_path / "f", 0.97) / "split.parquet").write_bytes(b"PAR1 not")
    (write_run(tmp_path / "g", 0.96) / "split.parquet").unlink()
    found = [[row.name for row in group.rows] for group in grouped(gather_runs(tmp_path))]
    assert found[0] == ["b", "a", "c"]
    assert sorted(found[1:]) == [["d"], ["e"], ["f"], ["g"]]


def test_only_what_differs_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "a", optim__lr=0.1, data__num_workers=0)
    write_run(tmp_path / "b", optim__lr=0.2, data__num_workers=3)
    rows = gather_runs(tmp_path)
    assert differing(rows) == {"optim.lr": [0.1, 0.2]}
    assert differing(rows[:1]) == {}


def test_the_least_error_is_the_best_where_numbers_are_predicted(tmp_path: Path) -> None:
    for name, mse in (("far", 2500.0), ("near", 0.25)):
        path = write_run(tmp_path / name, curve=())
        metrics = {"mse": {"value": mse, "low": mse / 2, "high": mse * 2}, "r2": {"value": None, "low": 0, "high": 1}}
        (path / "result.json").write_text(json.dumps({"n": 9, "num_given": 10, "metrics": metrics}))
        (path / "history.jsonl").write_text('{"kind": "epoch", "epoch": 1, "val/mse": 3.0}\n')
    rows = gather_runs(tmp_path)
    assert [row.name for row in grouped(rows)[0].rows] == ["near", "far"]
    page = overview_page(tmp_path)
    assert "mean squared error on val" in page
    assert "near is the best of 2" in page
    assert "The interval of the other overlaps" not in page
    assert "near  cifar10-cnn  0.25 (0.125-0.5)" in "\n".join(run_lines(rows))
    json.dumps(runs_listing(rows), allow_nan=False)


# --- in a terminal ---------------------------------------------------------------------------------------------------


def fill(folder: Path) -> Path:
    """Write runs of every kind, names and numbers from strangers among them."""
    for k in range(4):
        write_run(folder / f"lr-{k}", 0.85 + k / 30, optim__lr=0.1 / (k + 1), tests=[look_at_test(0.8)] * (2 - k))
    write_run(folder / HOSTILE.replace("/", "|"), 0.9, model__name="timm:" + "x" * 60, recipe="digits-quick")
    write_run(folder / "other-images", 0.5, split=a_split("a"))
    write_run(folder / "running", has_ended=False)
    write_several(folder / "luck", "seeds")
    (folder / "lr-1" / "report.html").write_text("<!DOCTYPE html><title>lr-1</title>")
    return folder


@pytest.mark.parametrize("ascii_only", [False, True])
def test_lines_fit_and_are_printable(tmp_path: Path, ascii_only: bool) -> None:
    lines = run_lines(gather_runs(fill(tmp_path / "runs")), width=80, ascii_only=ascii_only)
    text = "\n".join(lines)
    assert "pets: accuracy on 100 images of val, 5 runs" in text
    assert re.search(r"lr-3 +cifar10-cnn +95\.0% \(93\.0-96\.0\) +- +2026-11-23", text)
    assert "flattered by being picked" in text
    assert re.search(r"lr-0 .* 80\.0% \(78\.0-81\.0\) x2 ", text)
    for line in lines:
        assert line.isprintable()
        assert not ascii_only or line.isascii()
        # A command to be copied is not broken; nothing else is longer than the terminal.
        assert cell_len(line) <= 80 or str(tmp_path) in line


def test_the_listing_is_plain_json(tmp_path: Path) -> None:
    entries = {entry["name"]: entry for entry in runs_listing(gather_runs(fill(tmp_path)))}
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries
    assert entries["lr-0"]["division"] == entries["lr-1"]["division"] != entries["other-images"]["division"]
    assert entries["lr-0"]["test"]["metrics"]["top1"]["value"] == 0.8
    assert entries["running"]["val"] is None
    assert len(entries["luck"]["members"]) == 2


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_says_how_many_were_picked_from_and_escapes_everything(tmp_path: Path) -> None:
    page = overview_page(fill(tmp_path))
    assert "is the best of 5 by this very number, and being picked flatters it" in page
    assert "test was looked at 3 times, for 2 of these runs" in page
    assert "Only runs that were judged on the same images stand in one table." in page
    assert 'href="./lr-1/report.html"' in page
    assert "optim.lr" in page
    assert "<script>alert" not in page and "\u202e" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#|\./)""", page)
    assert page == overview_page(tmp_path)


def test_links_lead_from_where_the_page_lies(tmp_path: Path) -> None:
    fill(tmp_path / "runs")
    (tmp_path / "pages").mkdir()
    assert 'href="./../runs/lr-1/report.html"' in overview_page(tmp_path / "runs", tmp_path / "pages")


def test_one_run_and_one_without_a_number(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    assert "No other run here was judged on the images" in overview_page(tmp_path)
    (tmp_path / "one" / "result.json").unlink()
    assert "did not end" in overview_page(tmp_path)


def test_hundreds_of_runs_are_quick_and_small(tmp_path: Path) -> None:
    first = write_run(tmp_path / "run-0", curve=[0.5 + n / 2000 for n in range(500)])
    for k in range(1, 150):
        shutil.copytree(first, tmp_path / f"run-{k}")
    started_at = time.process_time()
    page = overview_page(tmp_path)
    assert time.process_time() - started_at < 5
    assert page.count('class="estimate"') == 150
    assert len(page) < 750_000


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("overview"))
    file = folder / "report.html"
    file.write_text(overview_page(folder), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1280, "light")])
def test_the_page_fits_and_is_silent(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    titles = page.locator("main > section > h2").all_text_contents()
    assert titles == ["Overview", "pets", "Not comparable", "Folds and seeds", "Not ended or damaged"]
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    page.close()


def test_the_table_sorts_by_its_columns(browser: Any, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(page_file.as_uri())
    table = page.locator("#runs-1 table.runs")

    def names() -> list[str]:
        return [text.split("\n")[0] for text in table.locator("tbody th").all_inner_texts()]

    before = names()
    assert before[0] == "lr-3"
    table.locator("th", has_text="run").first.locator("button").click()
    assert names() == sorted(before, key=str.lower)
    test_head = table.locator("th", has_text="accuracy on test").locator("button")
    for order in ("descending", "ascending"):
        test_head.click()
        assert set(names()[:2]) == {"lr-0", "lr-1"}, "runs without a number on test stay below"
        assert table.locator(f"th[aria-sort={order}]").inner_text().startswith("accuracy on test")
    page.close()


def test_a_runs_own_report_opens(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.get_by_role("link", name="lr-1", exact=True).first.click()
    assert page.title() == "lr-1"
    page.close()

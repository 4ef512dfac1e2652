"""open_source: names, paths, pairs of arrays, and wrong names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tellapart.data.sources import DATASETS, SOURCES, ArraySource, FolderSource, open_source
from tellapart.data.sources.found import holds_tars
from tellapart.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("error")

IMAGES = np.zeros((4, 2, 2), np.uint8)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        (tmp_path / "pets" / label / "1.jpg").touch()
    return tmp_path / "pets"


def test_every_name_has_a_line_about_it() -> None:
    assert DATASETS.keys() == SOURCES.keys()


def test_what_the_user_names_decides_the_kind(pets: Path, tmp_path: Path) -> None:
    table = pa.table({"image": [b"x", b"y"], "label": ["a", "b"]})
    (tmp_path / "shards").mkdir()
    pq.write_table(table, tmp_path / "one.parquet")
    pq.write_table(table, tmp_path / "shards" / "train-0.parquet")
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=[0, 1, 0, 1])
    (pets / "list.csv").write_text("path,label\ncat/1.jpg,x\ndog/1.jpg,y\n")
    paths = pa.table({"path": ["pets/cat/1.jpg", "pets/dog/1.jpg"], "label": ["a", "b"]})
    pq.write_table(paths, tmp_path / "paths.parquet")
    (tmp_path / "listed").mkdir()
    lines = (f'{{"file_name": "../pets/{label}/1.jpg", "label": "{label}"}}' for label in ("cat", "dog"))
    (tmp_path / "listed" / "metadata.jsonl").write_text("\n".join(lines))
    kinds = {
        "digits": "InMemorySource",
        str(pets): "FolderSource",
        pets: "FolderSource",
        str(tmp_path / "one.parquet"): "ParquetSource",
        tmp_path / "shards": "ParquetSource",
        str(tmp_path / "a.npz"): "ArraySource",
        str(pets / "list.csv"): "ManifestSource",
        str(tmp_path / "paths.parquet"): "ManifestSource",
        str(tmp_path / "listed"): "ManifestSource",
        str(tmp_path / "listed" / "metadata.jsonl"): "ManifestSource",
    }
    for data, kind in kinds.items():
        assert type(open_source(data)).__name__ == kind
    assert isinstance(open_source((IMAGES, [0, 1, 0, 1])), ArraySource)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train-0.tar", "train-1.tar", "README.md"], True),
        (["train/0.tar", "test/0.tar"], True),
        (["pets.tar", "cat/1.jpg", "dog/1.jpg"], False),
        (["pets.tar", "pets/train/cat/1.jpg"], False),
        (["cat/1.jpg", "cat/old.tar"], False),
        ([".hidden.tar"], False),
    ],
)
def test_an_archive_beside_its_images_makes_no_shards(tmp_path: Path, files: list[str], expected: bool) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert holds_tars(tmp_path) is expected


def test_a_source_is_returned_itself(pets: Path) -> None:
    source = FolderSource(pets)
    assert open_source(source) is source


def test_home_is_expanded(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(pets.parent))
    assert open_source("~/pets").name == "pets"


def test_a_known_name_wins_over_a_folder_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "digits" / label).mkdir(parents=True)
        (tmp_path / "digits" / label / "1.jpg").touch()
    monkeypatch.chdir(tmp_path)
    source = open_source("digits")
    assert len(source) == 1797
    assert source.notes == ["'digits' was taken as the known data set; for the folder of that name write ./digits"]
    assert open_source("./digits").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digit", "unknown data set 'digit'. Did you mean 'digits'"),
        ("zzz", "Known: cifar10, cifar100, digits, fashion-mnist, mnist"),
        ("labels.csv", "there is no such file or folder"),
        ("hf://org", "expected hf://OWNER/NAME"),
        ("", "expected a folder"),
        (None, "found None"),
        (3, "found 3"),
        ((1, 2, 3), "or a pair"),
    ],
)
def test_what_cannot_be_opened(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(data)


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    for name in ("a.zip", "b.tar.gz", "c.TGZ"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=r"is a compressed archive, .* Unpack it"):
            open_source(tmp_path / name)


def test_a_missing_path_points_to_its_nearest_sibling(pets: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_source(str(pets.parent / "petz"))
    assert f"({pets.parent} has no 'petz'). Did you mean {pets}?" in str(caught.value)
    with pytest.raises(DataError, match="has no 'petz'"):
        open_source(str(pets.parent / "petz" / "deeper" / "still"))
    with pytest.raises(DataError, match="no such file or folder"):
        open_source("./nothing-like-it")


def test_a_single_image_is_no_source(pets: Path) -> None:
    with pytest.raises(DataError, match="no source of labelled images"):
        open_source(str(pets / "cat" / "1.jpg"))


def test_the_task_is_passed_on(tmp_path: Path) -> None:
    assert open_source("digits", task="regression").targets[:3].tolist() == [[0.0], [1.0], [2.0]]
    assert open_source("digits", task="multilabel").targets.shape == (1797, 10)
    assert open_source("digits", task="multiclass").targets.shape == (1797,)
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=[1, 2, 3, 4])
    assert open_source(tmp_path / "a.npz", task="regression").targets.shape == (4, 1)
    with pytest.raises(ConfigError, match="Did you mean 'regression'"):
        open_source("digits", task="regresion")


def test_a_task_that_does_not_fit_is_refused(pets: Path) -> None:
    with pytest.raises(ConfigError, match=r"task='regression' does not fit pets: the class name 'cat' is no number"):
        open_source(pets, task="regression")


def test_a_table_needs_no_pandas(pets: Path) -> None:
    (pets / "list.csv").write_text("path,label,group\ncat/1.jpg,x,1\ndog/1.jpg,y,2\n")
    code = (
        "import sys; from tellapart.data.sources import open_source;"
        f"open_source({str(pets / 'list.csv')!r}); print('pandas' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False", "pyarrow imports it for to_numpy, which takes longer than all else"


def test_a_name_and_a_folder_need_no_heavy_imports(pets: Path) -> None:
    code = (
        "import sys; from tellapart.data.sources import open_source;"
        f"open_source('digits'); open_source({str(pets)!r});"
        "heavy = ('torchvision', 'sklearn', 'scipy', 'pyarrow', 'pandas', 'fsspec');"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

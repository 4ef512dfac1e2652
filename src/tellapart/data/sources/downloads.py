"""Well-known data sets that lie on disk, in torchvision's layouts, or that torchvision fetches."""

from __future__ import annotations

import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from tellapart.errors import MissingError

# A server that accepts the connection and then says nothing would hold the command for ever; torchvision sets no limit.
_TIMEOUT_S = 30.0


class Layout(NamedTuple):
    """The files of a data set: how to read them, the folder below the data folder that they lie in, and their names."""

    kind: str
    inner: str
    files: tuple[str, ...]


def cache_folder() -> Path:
    """Return Tellapart's folder for what can be made again: `tellapart` in the user's cache folder.

    Source: XDG Base Directory Specification 0.8: `$XDG_CACHE_HOME` where it is an absolute path, else `~/.cache`.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "tellapart"


def data_folder(data_dir: str) -> Path:
    """Return the folder for downloaded data: `data_dir`, or `data` in the user's cache folder."""
    return Path(data_dir).expanduser() if data_dir else cache_folder() / "data"


def locate_or_download(
    name: str, data_dir: str, layouts: tuple[Layout, ...], download: Callable[[Path], None]
) -> tuple[Path, Layout]:
    """Return the folder that holds the files, and their layout; fetch them first where they are nowhere.

    Args:
        name: the data set, for errors.
        data_dir: where to look and to put what is fetched; "" for the default. The inner folder itself will do.
        layouts: the forms in which the data set is read.
        download: puts the files below the folder it is given.

    Raises:
        MissingError: the files are not there and could not be fetched.
    """
    folder = data_folder(data_dir)
    if found := _locate(folder, layouts):
        return found
    try:
        with _time_limit():
            download(folder)
    except (OSError, RuntimeError, HTTPException, EOFError, tarfile.TarError, ImportError) as error:
        raise MissingError(_missing(name, folder, layouts, f"{type(error).__name__}: {error}")) from error
    if found := _locate(folder, layouts):
        return found
    raise MissingError(_missing(name, folder, layouts, "what was downloaded does not hold the expected files"))


def download_archive(dataset: str, folder: Path) -> None:
    """Fetch and unpack the archive of a torchvision data set class that has one, such as "CIFAR10"."""
    from torchvision import datasets
    from torchvision.datasets import utils

    kind = getattr(datasets, dataset)
    utils.download_and_extract_archive(kind.url, str(folder), filename=kind.filename, md5=kind.tgz_md5)


def download_idx(dataset: str, folder: Path) -> None:
    """Fetch and unpack the four files of a torchvision data set class that has mirrors, such as "MNIST"."""
    from torchvision import datasets
    from torchvision.datasets import utils

    kind = getattr(datasets, dataset)
    for filename, md5 in kind.resources:
        failures = []
        for mirror in kind.mirrors:
            try:
                utils.download_and_extract_archive(
                    f"{mirror}{filename}", str(folder / dataset / "raw"), filename=filename, md5=md5
                )
                break
            except (OSError, RuntimeError) as error:
                failures.append(f"{mirror}: {error}")
        else:
            raise RuntimeError("; ".join(failures))


def present(folder: Path, filename: str) -> Path | None:
    """Return the path of a file, or of the same file with `.gz` behind it, or None."""
    return next((path for path in (folder / filename, folder / f"{filename}.gz") if path.is_file()), None)


def _places(folder: Path, layout: Layout) -> list[Path]:
    """The user may name the data folder, the inner folder, or one between them."""
    steps = Path(layout.inner).parts
    return [folder.joinpath(*steps[start:]) for start in range(len(steps) + 1)]


def _locate(folder: Path, layouts: tuple[Layout, ...]) -> tuple[Path, Layout] | None:
    for layout in layouts:
        for place in _places(folder, layout):
            if all(present(place, filename) for filename in layout.files):
                return place, layout
    return None


def _missing(name: str, folder: Path, layouts: tuple[Layout, ...], why: str) -> str:
    looked = "".join(
        f"\n  - {_places(folder, layout)[0]} (or {folder} itself): {', '.join(layout.files)}" for layout in layouts
    )
    return (
        f"'{name}' is not on this machine and could not be downloaded ({why}).\n"
        f"Looked for:{looked}\n"
        f"Without a network: put those files there, or name the folder that holds them with --data-dir. "
        f"A folder of images (one folder a class), Parquet files and 'digits' need no download."
    )


@contextmanager
def _time_limit() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

"""Data sets on the Hugging Face Hub: `hf://owner/name[@revision][/folder]`. Files are fetched, scripts never run."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from tellapart.data.sources.base import ColumnNames, Source, part_of
from tellapart.data.sources.downloads import data_folder
from tellapart.data.sources.found import MANIFEST_ENDINGS, MANIFEST_NAMES
from tellapart.data.sources.tree import ENDINGS, ending
from tellapart.errors import DataError, MissingError, TellapartError, nearest

_ADDRESS = re.compile(r"hf://(?:datasets/)?([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")
_PACKED = (".zip", ".gz", ".tgz", ".7z", ".rar", ".zst", ".xz", ".bz2")
_TIMEOUT_S = 30.0
# With more files than this, they are asked for by their endings: matching n names with n names takes n squared steps.
_MAX_NAMED = 1000


class Address(NamedTuple):
    """A data set on the Hub: `owner/name`, branch, tag or commit, and the folder inside, "" for all."""

    repo: str
    revision: str
    folder: str


class _Copy(NamedTuple):
    """What is on this machine: the commit, the folder it was fetched to, and the files in it that were asked for."""

    sha: str
    root: Path
    files: list[str]


def open_hub(text: str, data_dir: str, task: str, columns: ColumnNames) -> Source:
    """Return the source for a data set on the Hub, fetched first where this machine has no copy of that commit.

    Args:
        text: the address.
        data_dir: where copies go; "" for the Hub's own cache, which other tools share.
        task: "auto" or a key of `TASKS`.
        columns: the columns that the user named.

    Raises:
        MissingError: the package is not installed, or the Hub cannot be reached and there is no copy.
        DataError: there is no such data set, it is private or gated, or it holds no images in a form that is read.
    """
    from tellapart.data.sources import open_source

    address = parse(text)
    mark = hashlib.blake2b("\n".join(address).encode(), digest_size=8).hexdigest()
    record = data_folder(data_dir) / "hub" / f"{address.repo.replace('/', '--')}-{mark}.json"
    copy, note = _fetch(address, record, data_dir)
    source = open_source(copy.root / address.folder, task=task, columns=columns)
    source.name = "/".join(filter(None, (address.repo, address.folder)))
    source.notes.insert(0, f"{text} at commit {copy.sha[:10]}, {len(copy.files):,} files in {copy.root}{note}.")
    return source


def parse(text: str) -> Address:
    """Return the parts of an address.

    Raises:
        DataError: it has another form.

    >>> parse("hf://owner/name@refs%2Fconvert%2Fparquet/default")
    Address(repo='owner/name', revision='refs/convert/parquet', folder='default')
    """
    found = _ADDRESS.fullmatch(text.rstrip("/"))
    folder = (found[3] or "").strip("/") if found else ""
    if not found or ".." in folder.split("/"):
        raise DataError(f"{text}: expected hf://OWNER/NAME, perhaps with @REVISION and /FOLDER behind it.")
    return Address(found[1], unquote(found[2] or "main"), folder)


def choose_files(files: Sequence[str], where: str) -> list[str]:
    """Return those files that make up a data set: Parquet, else tar shards, else images and the tables that name them.

    Args:
        files: paths in the data set.
        where: the address, for errors.

    Raises:
        DataError: there are none, or those of several data sets.
    """
    files = [file for file in files if not any(part.startswith(".") for part in file.split("/"))]
    images = [file for file in files if ending(file) in ENDINGS]
    tables = [file for file in files if ending(file) in MANIFEST_ENDINGS and _names_images(file)]
    for kind in (".parquet", ".tar"):
        shards = [file for file in files if ending(file) == kind and not (images and file in tables)]
        if shards:
            uppermost = min(file.count("/") for file in shards)
            return _of_one_set([file for file in shards if file.count("/") == uppermost], where)
    if images:
        return images + tables
    packed = [file for file in files if file.lower().endswith(_PACKED)]
    hint = ""
    if packed:
        hint = f" It has archives ({', '.join(packed[:3])}): download and unpack them, and name the folder."
    elif any(file.endswith(".py") for file in files):
        hint = (
            " It is made by a script, and scripts are never run; a copy in Parquet may be at "
            f"{where.split('@')[0]}@refs%2Fconvert%2Fparquet."
        )
    raise DataError(
        f"{where}: expected .parquet files, .tar shards or images, found {', '.join(files[:5]) or 'nothing'}"
        f"{', ...' if len(files) > 5 else ''}.{hint}"
    )


def _names_images(file: str) -> bool:
    stem = file.rpartition("/")[2].rpartition(".")[0].lower()
    return stem in MANIFEST_NAMES or part_of(stem) is not None


def _of_one_set(shards: list[str], where: str) -> list[str]:
    """Refuse shards in several folders whose names say no parts: they are different versions or subjects."""
    folders = ["/".join(name for name in file.split("/")[:-1] if not part_of(name)) for file in shards]
    if len(known := sorted(set(folders))) > 1:
        raise DataError(
            f"{where}: holds several data sets, one a folder: {', '.join(known)}. Name one of them, such as "
            f"{where}/{known[0]}."
        )
    return shards


def _fetch(address: Address, record: Path, data_dir: str) -> tuple[_Copy, str]:
    """Return the copy on this machine, up to date where the Hub can be reached, and what to add to its note."""
    where = f"hf://{address.repo}" + (f"/{address.folder}" if address.folder else "")
    copy = _recorded(record)
    try:
        hub = _import_hub()
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        sha = str(api.dataset_info(address.repo, revision=address.revision, timeout=_TIMEOUT_S).sha)
        if copy is not None and copy.sha == sha:
            return copy, ""
        files = choose_files(_list(api, address, sha, where), where)
        folder = f"{address.folder}/" if address.folder else ""
        root = hub.snapshot_download(
            address.repo,
            repo_type="dataset",
            revision=sha,
            cache_dir=Path(data_dir).expanduser() / "hub" if data_dir else None,
            allow_patterns=_patterns([folder + file for file in files]),
            endpoint=os.environ.get("HF_ENDPOINT") or None,
        )
    except TellapartError:
        raise
    except Exception as error:  # the package has changed its HTTP library twice, and with it what a lost network raises
        if (refused := _refused(error, address, where)) is not None:
            raise refused from error
        if copy is not None:
            return copy, " (the Hub could not be reached; this copy was fetched before)"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise MissingError(
            f"{where}: could not be fetched ({reason}). "
            "Without a network, copy the data set to this machine and name its folder."
        ) from error
    copy = _Copy(sha, Path(root), [folder + file for file in files])
    if lacking := [file for file in copy.files if not (copy.root / file).is_file()]:
        raise MissingError(f"{where}: {len(lacking):,} files did not arrive, such as {lacking[0]}. Try again.")
    _write(record, copy)
    return copy, ""


def _list(api: Any, address: Address, sha: str, where: str) -> list[str]:
    """Return the files below the folder of the address, relative to it."""
    entries = api.list_repo_tree(address.repo, recursive=True, revision=sha, repo_type="dataset")
    files = [entry.path for entry in entries if hasattr(entry, "blob_id")]
    inside = [file.removeprefix(f"{address.folder}/") for file in files if file.startswith(f"{address.folder}/")]
    if address.folder and not inside:
        folders = sorted({file.rpartition("/")[0] for file in files} - {""})
        guess = nearest(address.folder, folders)
        hint = f" Did you mean {guess}?" if guess else ""
        raise DataError(f"{where}: the data set has no such folder.{hint} It has: {', '.join(folders[:10]) or 'none'}.")
    return inside if address.folder else files


def _patterns(files: Sequence[str]) -> list[str]:
    if len(files) <= _MAX_NAMED:
        return [glob.escape(file) for file in files]
    return sorted({f"*{glob.escape('.' + file.rpartition('.')[2])}" for file in files})


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingError("hf:// needs the package huggingface_hub: pip install 'tellapart[hub]'") from error
    return huggingface_hub


def _refused(error: Exception, address: Address, where: str) -> DataError | None:
    """Return what to say where the Hub answered, and said no."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return DataError(
            f"{where}: its owner asks who uses it. Ask for access on its page on the Hub, then log in: hf auth login."
        )
    if "RevisionNotFoundError" in kinds:
        return DataError(f"{where}: there is no branch, tag or commit '{address.revision}'.")
    if "RepositoryNotFoundError" in kinds:
        return DataError(
            f"{where}: the Hub has no such data set, or it is private; is the name spelled right? For a private "
            "one log in first: hf auth login."
        )
    if "HFValidationError" in kinds:
        return DataError(f"{where}: is no name on the Hub: {error}")
    return None


def _recorded(record: Path) -> _Copy | None:
    """Return the copy that was fetched before, if all of its files are still there."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        copy = _Copy(str(found["sha"]), Path(found["root"]), [str(file) for file in found["files"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return copy if copy.files and all((copy.root / file).is_file() for file in copy.files) else None


def _write(record: Path, copy: _Copy) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_name(f"{record.name}.{os.getpid()}.tmp")
    text = json.dumps({"sha": copy.sha, "root": str(copy.root), "files": copy.files})
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(record)

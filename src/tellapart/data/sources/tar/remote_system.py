"""fsspec's file systems: the one for an address, what their errors mean, and addresses as they may be shown."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from tellapart.errors import DataError, MissingError, unknown_name

# What the extra `remote` installs for an address; fsspec knows more kinds, and names what they need itself.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
# A server that accepts the connection and then says nothing would hold the command for ever.
_CONNECT_S, _SILENCE_S = 30.0, 60.0
# Of the answers 400 to 499, those that may be other the next time: time ran out, too many requests.
_PASSING_STATUS = frozenset({408, 425, 429})


def shown(address: str) -> str:
    """Return an address without what must not be kept or printed: a password, and the query, which may be a key.

    >>> shown("https://me:secret@example.org/a.tar?token=123")
    'https://example.org/a.tar'
    """
    if not address.startswith(("http://", "https://")):
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def open_system(address: str) -> Any:
    """Return a new file system of fsspec's for an address.

    Raises:
        MissingError: a package that it needs is not installed.
        DataError: there is no such kind of address.
    """
    scheme = address.partition("://")[0].rpartition("::")[2].lower()
    options = {}
    try:
        from fsspec.config import conf
        from fsspec.core import url_to_fs

        if scheme in ("http", "https") and "client_kwargs" not in conf.get(scheme, {}):
            import aiohttp

            limit = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
            options = {"client_kwargs": {"timeout": limit}}
        return url_to_fs(address, skip_instance_cache=True, **options)[0]
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        install = f"pip install 'tellapart[remote]' (it needs {package})" if package else str(error)
        raise MissingError(f"{shown(address)}: what reads {scheme}:// is not installed: {install}.") from error
    except ValueError as error:
        if "not known" in str(error):
            raise DataError(f"{shown(address)}: {unknown_name('kind of address', scheme, _PACKAGES)}") from error
        raise DataError(f"{shown(address)}: {said(address, error)}.") from error


def is_alike(system: Any, other: Any) -> bool:
    """Return whether two file systems were made for the same store; fsspec's own equality looks at threads as well."""
    return type(system) is type(other) and all(
        getattr(system, name) == getattr(other, name) for name in ("storage_args", "storage_options")
    )


def cause_of(error: BaseException) -> BaseException:
    """Return the error itself, or what is behind it: fsspec says of every HTTP failure that there is no such file."""
    cause = error.__cause__
    is_hidden = isinstance(error, FileNotFoundError) and cause is not None and getattr(cause, "status", 0) != 404
    return cause if is_hidden and cause is not None else error


def is_final(error: BaseException) -> bool:
    """Return whether the same request would fail in the same way."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status not in _PASSING_STATUS
    kinds = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, TypeError, NotImplementedError)
    return isinstance(error, kinds) or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")


def refused(address: str, error: BaseException) -> str:
    """Return the sentence for an address that may not be read, or not so."""
    hint = ""
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        hint = " Files that everybody may read on S3 need FSSPEC_S3_ANON=true in the environment."
        hint = hint if address.startswith("s3") else " Are you signed in to that store?"
    return f"{shown(address)}: cannot be read: {said(address, error)}.{hint}"


def said(address: str, error: BaseException | None) -> str:
    """Return what an error says, without the query of the address."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    query = urlsplit(address).query
    return text.replace(address, shown(address)).replace(query or "\0", "...").rstrip(".")


def no_parts(address: str) -> DataError:
    """Return the error for a server that gives whole files only."""
    return DataError(
        f"{shown(address)}: the server gives only whole files, no parts of them. Copy the file to a disk and read "
        "it there."
    )

"""The members of a tar file, found by reading its headers alone; whatever is wrong with the file is said, not skipped.

Python's `tarfile` ends in silence at a header that is damaged, and so would lose all samples behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tellapart.errors import DataError

BLOCK = 512
# What long names and PAX records may take; real ones take a few hundred bytes.
_MAX_EXTENSION_BYTES = 2**20
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"(\xb5/\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\3\4": "zip",
}
_ZEROS = bytes(BLOCK)
_EXTENSIONS = (b"L", b"K", b"x", b"X", b"g")
_FILES = (b"0", b"\0", b"7")
_LINKS = (b"1", b"2")
# Links, devices and folders: whatever size they give, nothing follows.
_WITHOUT_CONTENT = (*_LINKS, b"3", b"4", b"5", b"6")

Read = Callable[[int, int], bytes]


class Member(NamedTuple):
    """A file in a tar: its name, `offset` and `size` of its content in bytes; a link has no content."""

    name: str
    is_link: bool
    offset: int
    size: int


class Window:
    """Reads a file from front to back, `chunk_bytes` at a time, so that small neighbours cost one request.

    Args:
        read: returns the bytes at (offset, size).
        total_bytes: the size of the file.
        chunk_bytes: how much is read ahead.
    """

    def __init__(self, read: Read, total_bytes: int, chunk_bytes: int) -> None:
        self._read, self.total_bytes, self._chunk_bytes = read, total_bytes, chunk_bytes
        self._start, self._data = 0, b""

    def take(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, or fewer where the file ends."""
        start = offset - self._start
        if start < 0 or start + size > len(self._data):
            size_ahead = min(max(size, self._chunk_bytes), self.total_bytes - offset)
            self._data = self._read(offset, size_ahead) if size_ahead > 0 else b""
            self._start, start = offset, 0
        return self._data[start : start + size]


class _Header(NamedTuple):
    name: bytes
    size: int
    kind: bytes


def members(window: Window, address: str) -> Iterator[Member]:
    """Yield the files and links of a tar in order.

    Args:
        window: reads the file.
        address: names the file in errors.

    Raises:
        DataError: it is no tar, is compressed, damaged, cut off, or has sparse members.

    Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar
    Format", for long names and base-256 numbers.
    """
    _require_tar(window, address)
    offset, path, size = 0, None, None
    # Blocks of zeros are the mark of the end.
    while (block := window.take(offset, BLOCK)) != _ZEROS:
        header = _parse(block, offset, address, window.total_bytes)
        data = offset + BLOCK
        if header.kind in _EXTENSIONS:
            content = _extension(window, header, offset, address)
            if header.kind == b"L":
                path = content.rstrip(b"\0")
            elif header.kind in (b"x", b"X"):
                records = _pax_records(content, offset, address)
                path, size = records.get(b"path", path), _pax_size(records, size, offset, address)
            offset = data + _padded(header.size)
            continue
        name = (header.name if path is None else path).decode("utf-8", "surrogateescape")
        if header.kind == b"S":
            raise _sparse(address, offset)
        is_file = header.kind in _FILES and not name.endswith("/")
        length = 0 if header.kind in _WITHOUT_CONTENT else header.size if size is None else size
        if data + length > window.total_bytes:
            raise DataError(
                f"{address}: is cut off: '{name}' at byte {offset:,} needs {length:,} bytes, and the file ends "
                f"{window.total_bytes - data:,} bytes on. Copy or download it again."
            )
        if is_file or header.kind in _LINKS:
            yield Member(name, not is_file, data, length)
        offset, path, size = data + _padded(length), None, None
    _require_end(window, offset, address)


def _require_tar(window: Window, address: str) -> None:
    start = window.take(0, BLOCK)
    kind = next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)
    if kind:
        raise DataError(
            f"{address}: is compressed with {kind}, so no image in it can be found by its place. Decompress it; "
            "images hardly shrink anyway."
        )
    if not start:
        raise DataError(f"{address}: is empty. A tar file, even one without members, has two blocks of zeros.")
    if start != _ZEROS[: len(start)] and not _has_checksum(start):
        shown = start[:24].decode("ascii", "replace").replace("\ufffd", "?")
        raise DataError(f"{address}: is not a tar file; it starts with {shown!r}.")


def _parse(block: bytes, offset: int, address: str, total_bytes: int) -> _Header:
    if not block:
        raise DataError(
            f"{address}: ends at byte {total_bytes:,} without the mark of an end, so it was probably cut off there. "
            "Copy or download it again; if whoever wrote it left the mark out, append 1,024 zero bytes."
        )
    if len(block) < BLOCK:
        raise DataError(
            f"{address}: is cut off: the file ends at byte {total_bytes:,}, in the header that starts at byte "
            f"{offset:,}. Copy or download it again."
        )
    size = _number(block[124:136])
    if not _has_checksum(block) or size is None:
        raise DataError(f"{address}: is damaged: the header at byte {offset:,} is none. Copy or download it again.")
    name = block[:100].partition(b"\0")[0]
    # GNU's older format has times where POSIX has the front part of the name.
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return _Header(name, size, block[156:157])


def _has_checksum(block: bytes) -> bool:
    given = _number(block[148:156])
    if given is None or len(block) < BLOCK:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    # Some old systems added the bytes up as signed numbers.
    return given == sum(rest) or given == sum(rest) - 256 * sum(byte > 127 for byte in rest)


def _number(field: bytes) -> int | None:
    """Return a number of a header: octal digits, or in base 256 after a byte 0x80; None if it is neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    return int(digits, 8) if digits.isdigit() and b"8" not in digits and b"9" not in digits else None


def _extension(window: Window, header: _Header, offset: int, address: str) -> bytes:
    if header.size > _MAX_EXTENSION_BYTES:
        raise DataError(
            f"{address}: is damaged: the name or the PAX records at byte {offset:,} would take {header.size:,} bytes."
        )
    content = window.take(offset + BLOCK, header.size)
    if len(content) < header.size:
        raise DataError(f"{address}: is cut off in the long name at byte {offset:,}. Copy or download it again.")
    return content


def _pax_records(content: bytes, offset: int, address: str) -> dict[bytes, bytes]:
    """Return the records `LENGTH KEY=VALUE\\n` of a PAX header."""
    records = {}
    while content.strip(b"\0"):
        length, space, _ = content.partition(b" ")
        size = int(length) if length.isdigit() and len(length) < 9 else 0
        key, equals, value = content[len(length) + 1 : size - 1].partition(b"=")
        if not space or not equals or size > len(content) or content[size - 1 : size] != b"\n":
            raise DataError(f"{address}: is damaged: the PAX records at byte {offset:,} are none.")
        if key.startswith(b"GNU.sparse."):
            raise _sparse(address, offset)
        records[key] = value
        content = content[size:]
    return records


def _pax_size(records: dict[bytes, bytes], size: int | None, offset: int, address: str) -> int | None:
    if (given := records.get(b"size")) is None:
        return size
    if not given.isdigit() or len(given) > 19:
        raise DataError(f"{address}: is damaged: the PAX records at byte {offset:,} give the size {given!r:.40}.")
    return int(given)


def _sparse(address: str, offset: int) -> DataError:
    return DataError(
        f"{address}: has a sparse member at byte {offset:,}, which does not lie in one piece. Write the tar without "
        "--sparse."
    )


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _require_end(window: Window, offset: int, address: str) -> None:
    """Refuse a file in which more follows the mark of the end: those samples would be lost."""
    while offset < window.total_bytes:
        rest = window.take(offset, min(2**16, window.total_bytes - offset))
        if rest.strip(b"\0"):
            raise DataError(
                f"{address}: goes on behind its end at byte {offset:,}, as tar files do that were joined with cat. "
                "Unpack it with `tar -i -x` and write it anew."
            )
        offset += len(rest) or window.total_bytes

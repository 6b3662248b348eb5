"""Find the HDUs of a FITS file by its headers, and show the file as it should be: mended cards, and a whole last block.

Only what is really short is short: the bytes are compared with what the headers need.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import IO

import numpy as np

from shutterless.pipeline.reading.headers.cards import (
    CARD_BYTES,
    HeaderError,
    is_end,
    mend_header,
    text_value,
    whole_number,
)

BLOCK = 2880  # bytes
MOST_PIXELS_PER_BYTE = 5000  # of a compressed image; gzip reaches 1,030, Rice 256
_MOST_HEADER = 4000 * BLOCK
_BYTES_AT_ONCE = BLOCK << 10
_BITS = (8, 16, 32, 64, -32, -64)


@dataclass(frozen=True)
class StoredHdu:
    """One HDU: its mended header, and the place and size of its data without padding (bytes)."""

    header: bytes
    start: int
    n_bytes: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the image, compressed or not; () if there is none."""
        is_packed = self.header.startswith(b"XTENSION= 'BINTABLE") and whole_number(self.header, "ZNAXIS") is not None
        if not is_packed and not self.header.startswith((b"SIMPLE", b"XTENSION= 'IMAGE")):
            return ()
        prefix = "ZNAXIS" if is_packed else "NAXIS"
        n_axes = whole_number(self.header, prefix) or 0
        return tuple(whole_number(self.header, f"{prefix}{axis}") or 0 for axis in range(n_axes, 0, -1))

    def damage(self, stream: IO[bytes]) -> str:
        """What ``DATASUM`` says against the data, in words; empty if it agrees or is not there."""
        stated = text_value(self.header, "DATASUM")
        if not stated.isdigit():
            return ""
        found = _data_sum(stream, self.start, _padded(self.n_bytes))
        return "" if int(stated) == found else f"DATASUM = {stated}, the data give {found}: damaged, or changed since"


@dataclass(frozen=True)
class FileStructure:
    """HDUs of a file.

    Parameters
    ----------
    hdus : tuple of StoredHdu
    overlays : tuple of (int, bytes)
        Places of headers that were mended, with what should stand there, in rising order.
    size, whole : int
        Bytes of the file, and of its HDUs with padding.
    """

    hdus: tuple[StoredHdu, ...]
    overlays: tuple[tuple[int, bytes], ...]
    size: int
    whole: int

    @property
    def is_cut(self) -> bool:
        """Whether the padding of the last HDU is missing, and perhaps other HDUs."""
        return self.size < self.whole

    @property
    def notes(self) -> tuple[str, ...]:
        """Oddities that change no pixel, in words."""
        behind = self.size - self.whole
        return (f"{behind:,} bytes behind the last HDU are not read",) if behind > 0 else ()


def read_structure(stream: IO[bytes]) -> FileStructure:
    """Find the HDUs of a file.

    Parameters
    ----------
    stream : binary file
        Seekable.

    Raises
    ------
    HeaderError
        If it does not begin like a FITS file, a header is not understood, or data are missing.
    """
    size = stream.seek(0, io.SEEK_END)
    hdus: list[StoredHdu] = []
    overlays: list[tuple[int, bytes]] = []
    at = 0
    while at < size:
        stream.seek(at)
        raw = _read_header(stream, is_first=not hdus)
        if raw is None:
            break
        where = f"HDU {len(hdus)}"
        try:
            header = mend_header(raw)
            n_bytes = _data_bytes(header)
        except HeaderError as error:
            raise HeaderError(f"{where}: {error}") from None
        start = at + _padded(len(header))
        if start + n_bytes > size and (n_bytes or at + len(raw) > size):
            raise HeaderError(
                f"it is truncated: {where} needs {n_bytes:,} bytes of data, the file ends "
                f"{start + n_bytes - size:,} bytes too early"
            )
        if header != raw:
            overlays.append((at, header))
        _check_unpacked_size(header, n_bytes, where)
        hdus.append(StoredHdu(header, start, n_bytes))
        at = start + _padded(n_bytes)
    return FileStructure(tuple(hdus), tuple(overlays), size, at)


def read_first_header(stream: IO[bytes]) -> bytes:
    """Mended header of the first HDU.

    Raises
    ------
    HeaderError
        As `read_structure`.
    """
    raw = _read_header(stream, is_first=True)
    assert raw is not None
    return mend_header(raw)


def show_mended(stream: IO[bytes], structure: FileStructure) -> IO[bytes]:
    """File as it should be; the stream itself if nothing is to be mended."""
    if not structure.overlays and structure.size == structure.whole:
        return stream
    return io.BufferedReader(_MendedBytes(stream, structure), buffer_size=1 << 16)


class _MendedBytes(io.RawIOBase):
    """Bytes of a file with some replaced, cut behind the last HDU or filled up with zeros to a whole block."""

    def __init__(self, stream: IO[bytes], structure: FileStructure) -> None:
        self._stream, self._structure, self._at = stream, structure, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._structure.whole}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        n_bytes = max(min(len(buffer), self._structure.whole - self._at), 0)
        if not n_bytes:
            return 0
        self._stream.seek(self._at)
        n_stored = max(min(n_bytes, self._structure.size - self._at), 0)
        block = bytearray(self._stream.read(n_stored))
        if len(block) < n_stored:
            return 0  # the file has shrunk: an end, not zeros
        block.extend(bytes(n_bytes - n_stored))
        for start, content in self._structure.overlays:
            first, last = max(start, self._at), min(start + len(content), self._at + n_bytes)
            if first < last:
                block[first - self._at : last - self._at] = content[first - start : last - start]
        buffer[:n_bytes] = block
        self._at += n_bytes
        return n_bytes


def _read_header(stream: IO[bytes], *, is_first: bool) -> bytes | None:
    """Header from here on in whole blocks; None if something else stands behind the last HDU."""
    begin = b"SIMPLE" if is_first else b"XTENSION"
    header = stream.read(BLOCK)
    if not header.startswith(begin):
        if is_first:
            raise HeaderError(f"it begins with {header[:8]!r} instead of SIMPLE")
        return None
    block = header
    while not any(is_end(block[at : at + CARD_BYTES]) for at in range(0, len(block), CARD_BYTES)):
        block = stream.read(BLOCK)
        header += block
        if not block or len(header) > _MOST_HEADER:
            raise HeaderError(f"it is truncated: no END card within {len(header):,} bytes of a header")
    return header.ljust(_padded(len(header)))


def _data_sum(stream: IO[bytes], start: int, n_bytes: int) -> int:
    """Sum of 32-bit words with carry around the end (FITS standard 4.0, appendix J)."""
    stream.seek(start)
    total, left = 0, n_bytes
    while left > 0:
        block = stream.read(min(left, _BYTES_AT_ONCE))
        if not block:
            break
        left -= len(block)
        words = np.frombuffer(block.ljust(-(-len(block) // 4) * 4, b"\0"), ">u4")
        total += int(words.sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // BLOCK) * BLOCK


def _data_bytes(header: bytes) -> int:
    """Bytes of the data behind a header, without padding."""
    bits, n_axes = whole_number(header, "BITPIX"), whole_number(header, "NAXIS")
    if bits not in _BITS:
        raise HeaderError(f"BITPIX = {bits} is none of {', '.join(map(str, _BITS))}")
    if n_axes is None:
        raise HeaderError("NAXIS is missing")
    sizes = [whole_number(header, f"NAXIS{axis}") for axis in range(1, n_axes + 1)]
    for axis, length in enumerate(sizes, start=1):
        if length is None:
            raise HeaderError(f"NAXIS{axis} is missing")
    lengths = [length for length in sizes if length is not None]
    if not lengths or (lengths[0] == 0 and n_axes == 1):
        return 0
    if lengths[0] == 0 and b"GROUPS  =" in header:  # random groups
        lengths = lengths[1:]
    groups, more = whole_number(header, "GCOUNT"), whole_number(header, "PCOUNT") or 0
    return abs(bits) // 8 * (1 if groups is None else groups) * (more + math.prod(lengths))


def _check_unpacked_size(header: bytes, n_bytes: int, where: str) -> None:
    """Refuse a compressed image that asks for more pixels than its bytes can hold."""
    n_axes = whole_number(header, "ZNAXIS")
    if not n_axes or b"ZIMAGE  =" not in header:
        return
    n_pixels = math.prod(whole_number(header, f"ZNAXIS{axis}") or 0 for axis in range(1, n_axes + 1))
    if n_pixels > MOST_PIXELS_PER_BYTE * max(n_bytes, 1):
        raise HeaderError(f"{where} asks for {n_pixels:,} pixels, more than its {n_bytes:,} bytes can hold")

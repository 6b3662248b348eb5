"""Refuse gzip tiles of a compressed image that unpack to more than its header says, before memory is taken."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

from shutterless.pipeline.reading.headers.cards import HeaderError, text_value, whole_number
from shutterless.pipeline.reading.headers.structure import StoredHdu

MOST_TILE_BYTES = 1 << 28  # that a tile may always unpack to
_DEFLATE_RATIO = 1032  # no stream of deflate unpacks to more times its size
_HEADROOM = 8  # times the bytes of the header's pixels; floats may be stored wider than they are shown
_BYTES_AT_ONCE = 1 << 20
_WIDTHS = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "E": 4, "K": 8, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_FORM = re.compile(r"(\d*)([LBAIJEKDCMPQ])")


def check_tiles(stream: IO[bytes], hdus: Sequence[StoredHdu]) -> None:
    """Check the gzip tiles that are long enough to fill the memory; the others are not touched.

    Raises
    ------
    HeaderError
        If one unpacks to more than `MOST_TILE_BYTES` and much more than the pixels that the header states.
    """
    for number, hdu in enumerate(hdus):
        if b"GZIP" not in hdu.header or whole_number(hdu.header, "ZNAXIS") is None:
            continue
        stated = _tile_bytes(hdu.header)
        limit = max(MOST_TILE_BYTES, _HEADROOM * stated)
        for start, length in _long_tiles(stream, hdu, limit):
            stream.seek(start)
            if _unpacks_beyond(stream.read(length), limit):
                raise HeaderError(
                    f"HDU {number}: a tile of {length:,} bytes unpacks to more than {limit:,} bytes, "
                    f"the header says {stated:,}"
                )


def _tile_bytes(header: bytes) -> int:
    """Bytes of the pixels of a tile."""
    n_axes, bits = whole_number(header, "ZNAXIS") or 0, whole_number(header, "ZBITPIX") or 64
    sizes = [
        whole_number(header, f"ZTILE{axis}") or (whole_number(header, f"ZNAXIS{axis}") if axis == 1 else 1) or 1
        for axis in range(1, n_axes + 1)
    ]
    return math.prod(sizes) * abs(bits) // 8


def _long_tiles(stream: IO[bytes], hdu: StoredHdu, limit: int) -> Iterator[tuple[int, int]]:
    """Place and length of the tiles that may unpack to more than a limit."""
    header = hdu.header
    n_rows, row_bytes = whole_number(header, "NAXIS2") or 0, whole_number(header, "NAXIS1") or 0
    if hdu.n_bytes * _DEFLATE_RATIO <= limit or not n_rows * row_bytes:
        return
    heap = hdu.start + (whole_number(header, "THEAP") or n_rows * row_bytes)
    stream.seek(hdu.start)
    rows = np.frombuffer(stream.read(n_rows * row_bytes), np.uint8).reshape(n_rows, row_bytes)
    for at, kind in _descriptors(header):
        places = np.ascontiguousarray(rows[:, at : at + _WIDTHS[kind]]).view(">i4" if kind == "P" else ">i8")
        for length, offset in places.astype(np.int64):
            if offset >= 0 and limit < _DEFLATE_RATIO * length <= _DEFLATE_RATIO * hdu.n_bytes:
                yield heap + int(offset), int(length)


def _descriptors(header: bytes) -> Iterator[tuple[int, str]]:
    """First byte in a row, and kind, of the columns that say where tiles are."""
    at, row_bytes = 0, whole_number(header, "NAXIS1") or 0
    for column in range(1, (whole_number(header, "TFIELDS") or 0) + 1):
        form = _FORM.match(text_value(header, f"TFORM{column}"))
        if form is None:
            return
        width = _WIDTHS[form[2]] * int(form[1] or 1)
        if form[2] in "PQ" and width == _WIDTHS[form[2]] and at + width <= row_bytes:
            yield at, form[2]
        at += width


def _unpacks_beyond(content: bytes, limit: int) -> bool:
    """Whether a gzip stream unpacks to more bytes than a limit; piece by piece, so that none is kept."""
    total = 0
    try:
        while content:
            member = zlib.decompressobj(wbits=31)
            while content and not member.eof:
                total += len(member.decompress(content, _BYTES_AT_ONCE))
                content = member.unconsumed_tail
                if total > limit:
                    return True
            content = member.unused_data
    except zlib.error:  # whoever unpacks it will say so
        return False
    return False

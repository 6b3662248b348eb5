"""Refuse tiles of a compressed image that unpack to more than its header says, before memory is taken.

Gzip unpacks to whatever its stream holds. HCOMPRESS and PLIO tiles state their own size, and the decoder of astropy
believes it: where it is larger than the tile, the decoder reads or writes behind its memory, and the process ends.
"""

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
_H_MAGIC, _H_BYTES = b"\xdd\x99", 10  # an HCOMPRESS tile begins with these, and its two sizes (White 1992, hcompress)
_LENGTH_AT, _LONG_WORDS = 2, 5  # where a PLIO line list states its length in words; a long one states it in two more
_PLIO_OPCODE, _PLIO_SET_HIGH = 12, 1  # bits below the opcode of a word; this opcode takes the next word, too
_FORM = re.compile(r"(\d*)([LBAIJEKDCMPQ])([LBAIJEKDCM]?)")


def check_tiles(stream: IO[bytes], hdus: Sequence[StoredHdu]) -> None:
    """Check all HCOMPRESS and PLIO tiles, and the gzip tiles that are long enough to fill the memory.

    Raises
    ------
    HeaderError
        If a gzip tile unpacks to more than `MOST_TILE_BYTES` and much more than the pixels that the header states, or
        an HCOMPRESS tile is not of the size that the header states, or a PLIO tile longer than its bytes.
    """
    for number, hdu in enumerate(hdus):
        if whole_number(hdu.header, "ZNAXIS") is None:
            continue
        check = _CHECKS.get(text_value(hdu.header, "ZCMPTYPE"))
        if check is not None:
            check(stream, number, hdu)
        if b"GZIP" not in hdu.header:
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


def _check_hcompress(stream: IO[bytes], number: int, hdu: StoredHdu) -> None:
    """Compare the size in every HCOMPRESS tile with that of its place in the image."""
    wanted = _tile_pixels(hdu.header)
    for row, begin in _stored_tiles(stream, hdu, _H_BYTES):
        is_whole = begin.startswith(_H_MAGIC) and len(begin) == _H_BYTES
        found = math.prod(np.frombuffer(begin[len(_H_MAGIC) :], ">i4").tolist()) if is_whole else 0
        stated = wanted[row] if row < len(wanted) else 0
        if not found or found != stated:
            raise HeaderError(
                f"HDU {number}: HCOMPRESS tile {row + 1} is damaged: it holds {found:,} pixels by its own size, "
                f"{stated:,} by the header"
            )


def _check_plio(stream: IO[bytes], number: int, hdu: StoredHdu) -> None:
    """Compare the length that every PLIO tile states with that of its bytes."""
    for row, content in _stored_tiles(stream, hdu):
        words = np.frombuffer(content[: len(content) // 2 * 2], ">i2").astype(np.int64)
        first, stop = _plio_range(words)
        if not 0 <= first <= stop <= len(words):
            raise HeaderError(
                f"HDU {number}: PLIO tile {row + 1} is damaged: by its own words it goes from {first:,} to {stop:,} "
                f"of {len(words):,} words"
            )


def _plio_range(words: np.ndarray) -> tuple[int, int]:
    """First and last word that a PLIO line list reads, the last not included (IRAF, sys/plio/PLIO.hlp)."""
    if len(words) <= _LENGTH_AT or (words[_LENGTH_AT] <= 0 and len(words) < _LONG_WORDS):
        return 0, _LONG_WORDS
    first, stop = _LENGTH_AT + 1, int(words[_LENGTH_AT])
    if stop <= 0:
        first, stop = int(words[1]), int(words[3] + (words[4] << 15))
    is_inside = 0 < stop <= len(words)
    return first, stop + (is_inside and int(words[stop - 1]) >> _PLIO_OPCODE == _PLIO_SET_HIGH)


def _stored_tiles(stream: IO[bytes], hdu: StoredHdu, most: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Row in the table and bytes, at ``most`` so many, of every tile that is stored by the image's own codec."""
    for name, starts, lengths in _tiles(stream, hdu):
        if name != "COMPRESSED_DATA":
            continue
        for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            if length:
                stream.seek(start)
                yield row, stream.read(length if most is None else min(length, most))


_CHECKS = {"HCOMPRESS_1": _check_hcompress, "PLIO_1": _check_plio}


def _tile_sizes(header: bytes) -> list[tuple[int, int]]:
    """Pixels of the image and of a tile along each axis, the fastest axis first."""
    n_axes = whole_number(header, "ZNAXIS") or 0
    images = [whole_number(header, f"ZNAXIS{axis}") or 0 for axis in range(1, n_axes + 1)]
    tiles = [
        whole_number(header, f"ZTILE{axis}") or (images[0] if axis == 1 else 1) or 1 for axis in range(1, n_axes + 1)
    ]
    return list(zip(images, tiles, strict=True))


def _tile_bytes(header: bytes) -> int:
    """Bytes of the pixels of a whole tile."""
    bits = whole_number(header, "ZBITPIX") or 64
    return math.prod(tile for _, tile in _tile_sizes(header)) * abs(bits) // 8


def _tile_pixels(header: bytes) -> list[int]:
    """Pixels of every tile in the order of the table; those at the end of an axis may be smaller."""
    pixels = np.ones(1, np.int64)
    for image, tile in _tile_sizes(header):
        along = np.minimum(tile, image - np.arange(0, image, tile))
        pixels = np.multiply.outer(along, pixels).ravel()
    return pixels.tolist()


def _long_tiles(stream: IO[bytes], hdu: StoredHdu, limit: int) -> Iterator[tuple[int, int]]:
    """Place and length of the tiles that may unpack to more than a limit."""
    if hdu.n_bytes * _DEFLATE_RATIO <= limit:
        return
    for _, starts, lengths in _tiles(stream, hdu):
        is_long = (lengths * _DEFLATE_RATIO > limit) & (lengths <= hdu.n_bytes)
        yield from zip(starts[is_long].tolist(), lengths[is_long].tolist(), strict=True)


def _tiles(stream: IO[bytes], hdu: StoredHdu) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name of each column of tiles, and place in the file and length (bytes) of the tiles, (n,); 0 bytes for none."""
    header = hdu.header
    n_rows, row_bytes = whole_number(header, "NAXIS2") or 0, whole_number(header, "NAXIS1") or 0
    if not n_rows * row_bytes:
        return
    heap = hdu.start + (whole_number(header, "THEAP") or n_rows * row_bytes)
    stream.seek(hdu.start)
    rows = np.frombuffer(stream.read(n_rows * row_bytes), np.uint8).reshape(n_rows, row_bytes)
    for column, at, kind, element_bytes in _descriptors(header):
        places = np.ascontiguousarray(rows[:, at : at + _WIDTHS[kind]]).view(">i4" if kind == "P" else ">i8")
        lengths, offsets = places.astype(np.int64).T
        yield text_value(header, f"TTYPE{column}"), heap + offsets, np.where(offsets >= 0, lengths * element_bytes, 0)


def _descriptors(header: bytes) -> Iterator[tuple[int, int, str, int]]:
    """Number, first byte in a row, kind, and bytes of an element, of the columns that say where tiles are."""
    at, row_bytes = 0, whole_number(header, "NAXIS1") or 0
    for column in range(1, (whole_number(header, "TFIELDS") or 0) + 1):
        form = _FORM.match(text_value(header, f"TFORM{column}"))
        if form is None:
            return
        width = _WIDTHS[form[2]] * int(form[1] or 1)
        if form[2] in "PQ" and width == _WIDTHS[form[2]] and at + width <= row_bytes:
            yield column, at, form[2], _WIDTHS[form[3] or "B"]
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

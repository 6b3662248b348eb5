"""Read rows of one FITS image a segment at a time, so that files need not fit into memory."""

from __future__ import annotations

from typing import IO, Protocol

import numba
import numpy as np
from astropy.io import fits

from shutterless.pipeline.reading.fits_files import StoredFile
from shutterless.pipeline.reading.instruments import QuadrantLayout
from shutterless.pipeline.reading.rice import decode_tiles

_STORED = {8: "u1", 16: ">i2", 32: ">i4"}
# BZERO by BITPIX that makes unsigned numbers of signed ones (FITS standard 4.0, section 4.4.2.5)
_UNSIGNED = {16: (32768, np.uint16), 32: (2147483648, np.uint32)}
_SIGNED = {8: np.uint8, 16: np.int16, 32: np.int32}
_BYTES_AT_ONCE = 1 << 22


class ImageRows(Protocol):
    """Something that reads rows of one image in read order."""

    n_rows: int
    n_columns: int
    dtype: np.dtype

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill ``out``, shape (t, x), with the rows from ``start`` on."""


def open_image_rows(file: StoredFile, index: int, layout: QuadrantLayout) -> ImageRows:
    """Choose how the rows of an image are read.

    Parameters
    ----------
    file : StoredFile
        Open for as long as rows are read.
    index : int
        Index of the image's HDU.
    layout : QuadrantLayout
        How raw orientation becomes read order.

    Returns
    -------
    ImageRows
        Rice tiles of whole rows and plain integers are unpacked here, other images by astropy.
    """
    stored = file.open_hdus()[index]
    header = stored.header
    kind = _integer_kind(header)
    if kind is not None and stored.fileinfo() is not None:
        if header.get("ZCMPTYPE", "").strip() == "RICE_1" and _tiles_are_rows(header):
            return _RiceRows(file.stream, stored, layout, *kind)
        if not header.get("ZIMAGE", False) and isinstance(stored, (fits.PrimaryHDU, fits.ImageHDU)):
            return _PlainRows(file.stream, stored, layout, *kind)
    return _AstropyRows(file.open_images()[index], layout)


def _integer_kind(header: fits.Header) -> tuple[np.dtype, int] | None:
    """Type of the pixels and offset of the stored values; None unless both are integers."""
    bits, zero = header.get("ZBITPIX", header["BITPIX"]), header.get("BZERO", 0)
    if bits not in _SIGNED or header.get("BSCALE", 1) != 1 or "BLANK" in header or "ZBLANK" in header:
        return None
    if zero == 0:
        return np.dtype(_SIGNED[bits]), 0
    if bits in _UNSIGNED and zero == _UNSIGNED[bits][0]:
        return np.dtype(_UNSIGNED[bits][1]), int(zero)
    return None


def _tiles_are_rows(header: fits.Header) -> bool:
    """Whether every tile holds whole rows of an image in the standard's Rice code, without other coding."""
    columns = [header.get(f"TTYPE{i}", "").strip() for i in range(1, header["TFIELDS"] + 1)]
    return (
        header["ZNAXIS"] == 2
        and header.get("ZTILE1", header["ZNAXIS1"]) == header["ZNAXIS1"]
        and columns == ["COMPRESSED_DATA"]
        and header["TFORM1"].strip()[:2] in ("1P", "1Q")
    )


def _rice_parameters(header: fits.Header) -> tuple[int, int]:
    """Bytes per pixel and block size that the tiles were coded with."""
    given = {header[f"ZNAME{i}"].strip(): header[f"ZVAL{i}"] for i in range(1, 10) if f"ZNAME{i}" in header}
    return given.get("BYTEPIX", 4), given.get("BLOCKSIZE", 32)


class _RiceRows:
    def __init__(
        self, stream: IO[bytes], table: fits.BinTableHDU, layout: QuadrantLayout, dtype: np.dtype, zero: int
    ) -> None:
        header = table.header
        self.n_rows, self.n_columns, self.dtype = header["ZNAXIS2"], header["ZNAXIS1"], dtype
        self._stream, self._layout, self._zero = stream, layout, zero
        self._bytes_per_pixel, self._block_size = _rice_parameters(header)
        self._rows_per_tile = header.get("ZTILE2", 1)
        start, n_tiles = table.fileinfo()["datLoc"], header["NAXIS2"]
        if n_tiles != -(-self.n_rows // self._rows_per_tile):
            raise ValueError(f"{n_tiles} tiles of {self._rows_per_tile} rows for an image of {self.n_rows} rows")
        self._heap = start + header.get("THEAP", header["NAXIS1"] * n_tiles)
        stored = ">i4" if header["TFORM1"].strip()[1] == "P" else ">i8"
        stream.seek(start)
        places = np.frombuffer(_read_exactly(stream, header["NAXIS1"] * n_tiles), stored).reshape(n_tiles, -1)
        self._lengths, self._offsets = places[:, :2].astype(np.int64).T.copy()

    def read(self, start: int, out: np.ndarray) -> None:
        first = self.n_rows - start - len(out) if self._layout.flip_rows else start
        tiles = slice(first // self._rows_per_tile, -(-(first + len(out)) // self._rows_per_tile))
        offsets, lengths = self._offsets[tiles], self._lengths[tiles]
        begin, end = int(offsets.min()), int((offsets + lengths).max())
        self._stream.seek(self._heap + begin)
        heap = np.frombuffer(_read_exactly(self._stream, end - begin), np.uint8)
        decode_tiles(
            heap, offsets - begin, lengths, out, bytes_per_pixel=self._bytes_per_pixel, block_size=self._block_size,
            first_row=first, rows_per_tile=self._rows_per_tile, zero=self._zero,
            flip_rows=self._layout.flip_rows, flip_columns=self._layout.flip_columns,
        )  # fmt: skip


class _PlainRows:
    def __init__(
        self, stream: IO[bytes], image: fits.ImageHDU, layout: QuadrantLayout, dtype: np.dtype, zero: int
    ) -> None:
        header = image.header
        self.n_rows, self.n_columns, self.dtype = header["NAXIS2"], header["NAXIS1"], dtype
        self._stream, self._layout, self._zero = stream, layout, zero
        self._stored, self._start = np.dtype(_STORED[header["BITPIX"]]), image.fileinfo()["datLoc"]

    def read(self, start: int, out: np.ndarray) -> None:
        row_bytes = self.n_columns * self._stored.itemsize
        step = max(_BYTES_AT_ONCE // row_bytes, 1)
        signed = out.view(self._stored.newbyteorder("="))
        for at in range(0, len(out), step):
            n = min(step, len(out) - at)
            first = self.n_rows - start - at - n if self._layout.flip_rows else start + at
            self._stream.seek(self._start + first * row_bytes)
            stored = np.frombuffer(_read_exactly(self._stream, n * row_bytes), self._stored).reshape(n, -1)
            _orient(
                stored.view(self._stored.newbyteorder("=")), signed[at : at + n], self._zero != 0,
                self._layout.flip_rows, self._layout.flip_columns,
            )  # fmt: skip


class _AstropyRows:
    def __init__(self, image: fits.ImageHDU, layout: QuadrantLayout) -> None:
        self.n_rows, self.n_columns = image.shape
        self.dtype = image.section[0:1].dtype.newbyteorder("=")
        self._section, self._layout = image.section, layout

    def read(self, start: int, out: np.ndarray) -> None:
        first = self.n_rows - start - len(out) if self._layout.flip_rows else start
        raw = self._section[first : first + len(out)]
        rows = slice(None, None, -1) if self._layout.flip_rows else slice(None)
        out[:] = raw[rows, slice(None, None, -1) if self._layout.flip_columns else slice(None)]


def _read_exactly(stream: IO[bytes], n_bytes: int) -> bytes:
    found = stream.read(n_bytes)
    if len(found) < n_bytes:
        raise OSError(f"the file ends {n_bytes - len(found)} bytes too early")
    return found


@numba.njit(cache=True, nogil=True)
def _orient(stored, out, is_unsigned, flip_rows, flip_columns):  # pragma: no cover - compiled
    """Convert big-endian numbers, viewed as native ones, to read order; flip the sign bit of unsigned types."""
    n_rows, n_columns = out.shape
    size = stored.itemsize
    for row in range(n_rows):
        line = stored[n_rows - 1 - row if flip_rows else row]
        to = out[row]
        for column in range(n_columns):
            value = line[column]
            if size == 2:
                value = ((value & 0xFF) << 8) | ((value >> 8) & 0xFF)
                value ^= 0x8000 if is_unsigned else 0
            elif size == 4:
                value = (
                    ((value & 0xFF) << 24) | ((value & 0xFF00) << 8) | ((value >> 8) & 0xFF00) | ((value >> 24) & 0xFF)
                )
                value ^= 0x80000000 if is_unsigned else 0
            to[n_columns - 1 - column if flip_columns else column] = value

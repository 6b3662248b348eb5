"""Unpack Rice-compressed tiles of FITS images directly into rows in read order.

astropy spends two thirds of its time on copies that are not needed here, and more if every row is a tile, as in
archived frames.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# bits that name a block's coding, the number that stands for uncoded differences, and the bits of such a difference
_CODING = {1: (3, 6, 8), 2: (4, 14, 16), 4: (5, 25, 32)}
_PADDING = 16  # bytes that may be read behind the last tile


class RiceError(ValueError):
    """Compressed tiles that end too early or are of another kind."""


def decode_tiles(
    heap: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    out: np.ndarray,
    *,
    bytes_per_pixel: int,
    block_size: int,
    first_row: int,
    rows_per_tile: int,
    zero: int = 0,
    flip_rows: bool = False,
    flip_columns: bool = False,
) -> None:
    """Unpack tiles of whole rows.

    Parameters
    ----------
    heap : ndarray of uint8, shape (b,)
        Bytes that hold the tiles.
    offsets, lengths : ndarray of int64, shape (k,)
        First byte of each tile in ``heap``, and its number of bytes.
    out : ndarray of int or uint, shape (t, x)
        Filled with the rows of the image from ``first_row`` on.
    bytes_per_pixel, block_size : int
        Parameters of the compression (``BYTEPIX``, ``BLOCKSIZE``).
    first_row : int
        Row of the image that is the first of ``out``; the first tile holds row ``first_row // rows_per_tile *
        rows_per_tile``.
    rows_per_tile : int
        The image's last tile may hold fewer.
    zero : int
        Added to every value (``BZERO``).
    flip_rows, flip_columns : bool
        Reverse the order of the rows of ``out``, or of its columns.

    Raises
    ------
    RiceError
        If a tile ends before its pixels do.

    Notes
    -----
    Differences of neighbours are zigzag-coded. Each block has a common number of low bits; the other bits are in unary
    (Rice, Yeh & Miller 1993; FITS standard 4.0, section 10.4.1).
    """
    if bytes_per_pixel not in _CODING:
        raise RiceError(f"tiles of {bytes_per_pixel} bytes per pixel; the standard knows {sorted(_CODING)}")
    padded = np.concatenate([heap, np.zeros(_PADDING, np.uint8)])
    bad = _decode_tiles(
        padded, offsets, lengths, out, *_CODING[bytes_per_pixel], block_size, first_row % rows_per_tile, rows_per_tile,
        zero, flip_rows, flip_columns,
    )  # fmt: skip
    if bad >= 0:
        raise RiceError(
            f"tile {first_row // rows_per_tile + bad} of {lengths[bad]} bytes ends before its pixels do; "
            "the file is damaged"
        )


@intrinsic
def _leading_zeros(context: Any, value: Any) -> Any:
    """Number of zero bits before the first one bit of a uint64, 64 for zero, in one instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@numba.njit(cache=True, nogil=True, inline="always")
def _eight_bytes(heap, place):  # pragma: no cover - compiled
    """Big-endian number of the eight bytes from a place on."""
    value = np.uint64(0)
    for k in range(8):
        value = (value << np.uint64(8)) | np.uint64(heap[place + k])
    return value


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _decode_tiles(
    heap,
    offsets,
    lengths,
    out,
    coding_bits,
    uncoded,
    value_bits,
    block_size,
    skip_rows,
    rows_per_tile,
    zero,
    flip_rows,
    flip_columns,
):  # pragma: no cover - compiled
    """Twin of `decode_tiles`; returns the number of a damaged tile, or -1."""
    n_rows, n_columns = out.shape
    row = -skip_rows
    for tile in range(len(offsets)):
        n_tile = min(rows_per_tile, n_rows - row)
        place, end = offsets[tile], offsets[tile] + lengths[tile]
        first_bytes = value_bits // 8
        if lengths[tile] < first_bytes + 1:
            return tile
        last = np.int64(0)
        for _ in range(first_bytes):
            last = (last << 8) | np.int64(heap[place])
            place += 1
        bits, n_bits = np.uint64(0), np.int64(0)  # left-aligned, and how many of them count
        left_in_block, low_bits = 0, np.int64(0)
        for tile_row in range(n_tile):
            to = row + tile_row
            line = out[max(n_rows - 1 - to if flip_rows else to, 0) if to >= 0 else 0]
            for column in range(n_columns):
                if n_bits < 48:
                    bits |= _eight_bytes(heap, min(place, end)) >> np.uint64(n_bits)
                    place += (63 - n_bits) >> 3
                    n_bits |= 56
                if left_in_block == 0:
                    low_bits = np.int64(bits >> np.uint64(64 - coding_bits)) - 1
                    bits <<= np.uint64(coding_bits)
                    n_bits -= coding_bits
                    left_in_block = block_size
                left_in_block -= 1
                if low_bits >= 0:
                    if low_bits == uncoded:
                        code, length = np.int64(bits >> np.uint64(64 - value_bits)), np.int64(value_bits)
                    else:
                        unary = np.int64(_leading_zeros(bits))
                        base = np.int64(0)
                        while unary >= n_bits:  # a difference of many times the block's usual one
                            base += n_bits
                            bits = _eight_bytes(heap, min(place, end))
                            if place > end:
                                return tile
                            place += 7
                            bits, n_bits = bits >> np.uint64(8) << np.uint64(8), np.int64(56)
                            unary = np.int64(_leading_zeros(bits))
                        if unary + 1 + low_bits > n_bits:
                            bits <<= np.uint64(unary + 1)
                            n_bits -= unary + 1
                            bits |= _eight_bytes(heap, min(place, end)) >> np.uint64(n_bits)
                            place += (63 - n_bits) >> 3
                            n_bits |= 56
                            low = bits >> np.uint64(1) >> np.uint64(63 - low_bits)
                            length = low_bits
                        else:
                            low = bits << np.uint64(unary) << np.uint64(1) >> np.uint64(1) >> np.uint64(63 - low_bits)
                            length = unary + 1 + low_bits
                        code = ((base + unary) << low_bits) | np.int64(low)
                    bits = bits << np.uint64(length)
                    n_bits -= length
                    last += (code >> 1) ^ -(code & 1)
                if to >= 0:
                    line[n_columns - 1 - column if flip_columns else column] = last + zero
        if place - (n_bits >> 3) > end:
            return tile
        row += n_tile
    return -1

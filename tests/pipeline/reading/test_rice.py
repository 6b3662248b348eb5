"""Any rows of tiles unpack as in astropy, and damaged tiles are never read beyond their bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pytest
from astropy.io.fits.hdu.compressed._codecs import Rice1

from shutterless.pipeline.reading import rice
from shutterless.pipeline.reading.rice import RiceError, decode_tiles

N_ROWS, N_COLUMNS = 19, 37  # neither a multiple of any block or tile
DTYPES = [np.uint8, np.int16, np.uint16, np.int32]
ZEROS = {np.uint16: 32768}  # BZERO


@dataclass
class Tiles:
    """An image as a FITS file holds it, packed by astropy."""

    heap: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    image: np.ndarray
    block_size: int
    rows_per_tile: int

    def decode(self, first: int = 0, n_rows: int | None = None, **changed) -> np.ndarray:
        """Rows of the image; ``changed`` replaces arguments of `decode_tiles`."""
        n_rows = len(self.image) - first if n_rows is None else n_rows
        out = np.empty((n_rows, self.image.shape[1]), self.image.dtype)
        tiles = slice(first // self.rows_per_tile, -(-(first + n_rows) // self.rows_per_tile))
        given = {"heap": self.heap, "offsets": self.offsets[tiles], "lengths": self.lengths[tiles], **changed}
        decode_tiles(
            given.pop("heap"), given.pop("offsets"), given.pop("lengths"), out, first_row=first,
            **{
                "bytes_per_pixel": out.itemsize, "block_size": self.block_size, "rows_per_tile": self.rows_per_tile,
                "zero": ZEROS.get(out.dtype.type, 0), **given,
            },
        )  # fmt: skip
        return out


def pack(image: np.ndarray, block_size: int = 32, rows_per_tile: int = 1) -> Tiles:
    zero = np.int64(ZEROS.get(image.dtype.type, 0))
    packed = []
    for row in range(0, len(image), rows_per_tile):
        stored = (image[row : row + rows_per_tile].astype(np.int64) - zero).astype(f"i{image.itemsize}")
        codec = Rice1(blocksize=block_size, bytepix=image.itemsize, tilesize=stored.size)
        packed.append(codec.encode(stored.ravel()))
        # the pixels before packing are the truth of all tests, and astropy gives them back
        np.testing.assert_array_equal(codec.decode(np.frombuffer(packed[-1], np.uint8)), stored.ravel())
    lengths = np.array([len(tile) for tile in packed])
    heap = np.frombuffer(b"".join(packed), np.uint8)
    return Tiles(heap, np.cumsum(lengths) - lengths, lengths, image, block_size, rows_per_tile)


def make_image(kind: str, dtype: type, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    at = np.arange(N_ROWS * N_COLUMNS).reshape(N_ROWS, N_COLUMNS)
    middle = (low + high + 1) // 2
    image = {
        "noise": middle + rng.integers(-20, 20, at.shape),
        "every value": rng.integers(low, high, at.shape, endpoint=True),
        "constant": np.full(at.shape, high),
        "steep": low + at * ((high - low) // at.size),
        "extremes in turn": np.where(at % 2, low, high),  # differences that do not fit into the pixel's bits
        "extremes at random": np.where(rng.random(at.shape) < 0.5, low, high),
        "rare peaks": np.where(rng.random(at.shape) < 0.02, high, middle),
        "rare steps": middle + rng.integers(low // 4, high // 4, at.shape)[0, at // 60],  # dozens of zeros before a one
        "noise in steps": middle + rng.integers(-1, 1, at.shape) * np.where(at % 100 < 50, 1, 100),
    }[kind]
    return image.astype(dtype)


KINDS = [
    "noise", "every value", "constant", "steep", "extremes in turn", "extremes at random", "rare peaks",
    "rare steps", "noise in steps",
]  # fmt: skip


def to_bytes(bits: str) -> np.ndarray:
    bits += "0" * (-len(bits) % 8)
    return np.array([int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)], np.uint8)


def test_tile_of_four_pixels_solved_in_the_head():
    """7, 8, 7, 7: the first as it is; block of no low bits (001); differences 0, +1, -1, 0 are 0, 2, 1, 0 in unary."""
    tile = np.array([7, 0b001_1_001_0, 0b1_1_000000], np.uint8)
    out = np.empty((1, 4), np.uint8)
    decode_tiles(
        tile, np.array([0]), np.array([3]), out, bytes_per_pixel=1, block_size=32, first_row=0, rows_per_tile=1
    )
    assert out.tolist() == [[7, 8, 7, 7]]


def test_low_bits_uncoded_and_empty_blocks_solved_in_the_head():
    """Blocks of two: no difference (000); two low bits (011): +1 is 2 = 1·10, -3 is 5 = 01·01; uncoded (111): 80, 0."""
    tile = to_bytes("00001001" + "000" + "011" + "110" + "0101" + "111" + "01010000" + "00000000")
    out = np.empty((1, 6), np.uint8)
    decode_tiles(
        tile, np.array([0]), np.array([len(tile)]), out, bytes_per_pixel=1, block_size=2, first_row=0, rows_per_tile=1
    )
    assert out.tolist() == [[9, 9, 10, 7, 47, 47]]


@pytest.mark.parametrize("bytes_per_pixel", [2, 4])
def test_any_number_of_low_bits_and_of_zeros(bytes_per_pixel):
    """Codings that no packer would choose: up to a thousand zeros before a one, at any bit of a byte."""
    rng = np.random.default_rng(5)
    coding_bits = {2: 4, 4: 5}[bytes_per_pixel]
    for _ in range(100):
        bits, codes = "0" * 8 * bytes_per_pixel, []
        for _ in range(4):
            low_bits = int(rng.integers(0, {2: 14, 4: 25}[bytes_per_pixel]))
            bits += f"{low_bits + 1:0{coding_bits}b}"
            for _ in range(16):
                high = int(rng.choice([0, 1, 5, 40, 60, 1000])) + int(rng.integers(0, 5))
                low = int(rng.integers(0, 1 << low_bits))
                bits += "0" * high + "1" + (f"{low:0{low_bits}b}" if low_bits else "")
                codes.append((high << low_bits) + low)
        tile, code = to_bytes(bits), np.array(codes)
        expected = np.cumsum(np.where(code % 2, -(code + 1) // 2, code // 2))
        out = np.empty((1, 64), f"i{bytes_per_pixel}")
        decode_tiles(
            tile, np.array([0]), np.array([len(tile)]), out, bytes_per_pixel=bytes_per_pixel, block_size=16,
            first_row=0, rows_per_tile=1,
        )  # fmt: skip
        np.testing.assert_array_equal(out[0], expected.astype(out.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_what_astropy_packed(kind, dtype):
    for block_size in (16, 32):
        for rows_per_tile in (1, 7, 16):  # 7 and 16 leave a last tile of 5 and 3 rows
            tiles = pack(make_image(kind, dtype), block_size, rows_per_tile)
            np.testing.assert_array_equal(tiles.decode(), tiles.image)


@pytest.mark.parametrize("rows_per_tile", [1, 7, 16])
def test_any_rows_turned_either_way(rows_per_tile):
    image = make_image("every value", np.uint16)
    tiles = pack(image, rows_per_tile=rows_per_tile)
    for first in range(N_ROWS):
        for stop in range(first + 1, N_ROWS + 1):
            for rows, columns in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                found = tiles.decode(first, stop - first, flip_rows=rows < 0, flip_columns=columns < 0)
                np.testing.assert_array_equal(found, image[first:stop][::rows, ::columns])


def test_long_rows_of_noise_with_cosmic_rays():
    rng = np.random.default_rng(3)
    image = rng.normal(1500, 12, (8, 3072)).astype(np.uint16)
    image[rng.random(image.shape) < 1e-3] = 65535
    tiles = pack(image)
    np.testing.assert_array_equal(tiles.decode(), image)


def test_unsigned_numbers_of_32_bits_wrap_like_signed_ones():
    image = make_image("every value", np.int32)
    tiles = pack(image)
    shifted = np.empty(image.shape, np.uint32)
    decode_tiles(
        tiles.heap, tiles.offsets, tiles.lengths, shifted, bytes_per_pixel=4, block_size=32, first_row=0,
        rows_per_tile=1, zero=2**31,
    )  # fmt: skip
    np.testing.assert_array_equal(shifted, (image.astype(np.int64) + 2**31).astype(np.uint32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_any_missing_byte_is_noticed(kind, dtype):
    """A tile holds no byte too many, so that whatever is cut off is missed, whether another tile follows or nothing."""
    tiles = pack(make_image(kind, dtype), rows_per_tile=7)
    rng = np.random.default_rng(1)
    for tile in range(3):
        for missing in {1, 2, *rng.integers(1, tiles.lengths[tile], 20, endpoint=True).tolist()}:
            lengths = tiles.lengths.copy()
            lengths[tile] -= missing
            heap = tiles.heap if tile < 2 else tiles.heap[: -missing or None]
            with pytest.raises(RiceError, match=rf"tile {tile} of {lengths[tile]} bytes ends before its pixels do"):
                tiles.decode(heap=heap, lengths=lengths)


def test_damaged_tile_is_numbered_within_the_image():
    tiles = pack(make_image("noise", np.int16), rows_per_tile=7)
    with pytest.raises(RiceError, match=r"tile 1 of 2 bytes ends before its pixels do; the file is damaged"):
        tiles.decode(first=8, n_rows=10, lengths=np.array([2, tiles.lengths[2]]))


def test_damage_is_never_read_beyond_the_buffer(monkeypatch):
    """Random bytes and cuts, decoded by a twin that checks every index: a clear error, or some numbers."""
    monkeypatch.setattr(rice, "_decode_tiles", numba.njit(boundscheck=True)(rice._decode_tiles.py_func))
    rng = np.random.default_rng(2)
    reasons, n_read = [], 0
    for kind in KINDS:
        tiles = pack(make_image(kind, np.int32), rows_per_tile=7)
        for _ in range(150):
            heap = tiles.heap.copy()
            heap[rng.integers(0, len(heap), rng.integers(1, 20))] = rng.integers(0, 256)
            lengths = np.minimum(tiles.lengths, rng.integers(0, 2 * tiles.lengths))
            if rng.random() < 0.5:
                lengths = tiles.lengths
            try:
                tiles.decode(heap=heap[: tiles.offsets[-1] + lengths[-1]], lengths=lengths)
                n_read += 1
            except RiceError as error:
                reasons.append(str(error))
    assert all("ends before its pixels do" in reason for reason in reasons)
    assert min(len(reasons), n_read) > 100


def test_bytes_that_are_no_tiles_at_all():
    """Only zeros: blocks without a difference, so every pixel is the first, as long as there is a byte behind it."""
    out = np.empty((1, 8), np.int16)
    arguments = {"bytes_per_pixel": 2, "block_size": 16, "first_row": 0, "rows_per_tile": 1}
    decode_tiles(np.zeros(3, np.uint8), np.array([0]), np.array([3]), out, **arguments)
    assert not out.any()
    for n_bytes in range(3):
        with pytest.raises(RiceError, match=rf"tile 0 of {n_bytes} bytes ends before its pixels do"):
            decode_tiles(np.zeros(n_bytes, np.uint8), np.array([0]), np.array([n_bytes]), out, **arguments)


def test_pixels_of_other_sizes_are_refused():
    tiles = pack(make_image("noise", np.int16))
    with pytest.raises(RiceError, match=r"tiles of 8 bytes per pixel; the standard knows \[1, 2, 4\]"):
        tiles.decode(bytes_per_pixel=8)

"""Rows read a segment at a time equal those of the whole image, for every way in which FITS stores it."""

from __future__ import annotations

import gzip
import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from shutterless.pipeline.reading import rows as image_rows
from shutterless.pipeline.reading.fits_files import FrameError, open_stored
from shutterless.pipeline.reading.frames import to_read_order
from shutterless.pipeline.reading.instruments import QuadrantLayout, load_profile
from shutterless.pipeline.reading.rows import ImageRows, open_image_rows

N_ROWS, N_COLUMNS = 50, 23
LAYOUTS = load_profile("ztf").quadrants  # each of the four ways to turn an image
INTEGERS = [np.uint8, np.int16, np.uint16, np.int32, np.uint32]


def make_image(dtype: type, seed: int = 0) -> np.ndarray:
    """Every value that a type has, or noise of floats."""
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return rng.normal(1000, 30, (N_ROWS, N_COLUMNS)).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (N_ROWS, N_COLUMNS), dtype=dtype, endpoint=True)


def write_image(path: Path, image: np.ndarray, cards: dict[str, Any] | None = None, **compression: Any) -> Path:
    """Write an image behind a primary header, beside others that it may be taken for."""
    header = fits.Header(cards or {})
    kind = fits.CompImageHDU if path.name.endswith(".fz") else fits.ImageHDU
    other = np.full((3, 5), 77, np.int16)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(other), kind(image, header=header, **compression), fits.ImageHDU(other)]
    plain = path.with_suffix("") if path.name.endswith(".gz") else path
    fits.HDUList(hdus).writeto(plain)
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


@contextmanager
def open_rows(path: Path, layout: QuadrantLayout = LAYOUTS[0]) -> Iterator[ImageRows]:
    with open_stored(path) as file:
        yield open_image_rows(file, 2, layout)


def read_whole(path: Path) -> np.ndarray:
    with fits.open(path, memmap=False) as hdus:
        return hdus[2].data


def check_rows(path: Path, whole: np.ndarray, dtype: Any = None) -> None:
    """Rows ``a`` to ``b`` in read order, for many of both and all layouts, are those of the whole image."""
    for layout in LAYOUTS:
        expected = to_read_order(whole, layout)
        with open_rows(path, layout) as rows:
            assert (rows.n_rows, rows.n_columns) == whole.shape
            assert rows.dtype == (whole.dtype.newbyteorder("=") if dtype is None else dtype)
            for a in (0, 6, 7, 23, N_ROWS - 1):
                for b in {a + 1, min(a + 20, N_ROWS), N_ROWS}:
                    out = np.empty((b - a, N_COLUMNS), rows.dtype)
                    rows.read(a, out)
                    np.testing.assert_array_equal(out, expected[a:b])


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers(tmp_path, dtype, suffix):
    image = make_image(dtype)
    check_rows(write_image(tmp_path / f"a{suffix}", image), image)


@pytest.mark.parametrize("bytes_at_once", [1, 300, 1000])
def test_integers_in_several_portions(tmp_path, monkeypatch, bytes_at_once):
    """One row at a time, 6 rows and 21 rows."""
    monkeypatch.setattr(image_rows, "_BYTES_AT_ONCE", bytes_at_once)
    image = make_image(np.uint16)
    check_rows(write_image(tmp_path / "a.fits", image), image)


@pytest.mark.parametrize("tile_rows", [1, 7, 16, N_ROWS])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_rice_tiles_of_several_rows(tmp_path, dtype, tile_rows):
    image = make_image(dtype)
    check_rows(write_image(tmp_path / "a.fits.fz", image, tile_shape=(tile_rows, N_COLUMNS)), image)


def test_tiles_that_are_not_whole_rows(tmp_path):
    image = make_image(np.uint16)
    check_rows(write_image(tmp_path / "a.fits.fz", image, tile_shape=(4, 10)), image)


@pytest.mark.parametrize("method", ["GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1"])
def test_other_compressions(tmp_path, method):
    image = make_image(np.uint16) // 64 if method == "PLIO_1" else make_image(np.uint16)
    stored = image.astype(np.int16) if method == "PLIO_1" else image
    check_rows(write_image(tmp_path / "a.fits.fz", stored, compression_type=method), stored)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats(tmp_path, dtype, suffix):
    image = make_image(dtype)
    check_rows(write_image(tmp_path / f"a{suffix}", image), image)


@pytest.mark.parametrize("quantize_level", [0.0, 16.0])
def test_compressed_floats(tmp_path, quantize_level):
    """Quantised and dithered in Rice tiles, or whole."""
    method = "RICE_1" if quantize_level else "GZIP_1"
    image = make_image(np.float32)
    path = write_image(tmp_path / "a.fits.fz", image, compression_type=method, quantize_level=quantize_level)
    whole = read_whole(path)
    np.testing.assert_allclose(whole, image, atol=30 / 16 if quantize_level else 0)
    check_rows(path, whole)


@pytest.mark.parametrize("suffix", [".fits", ".fits.fz"])
@pytest.mark.parametrize("cards", [{"BSCALE": 2.0}, {"BSCALE": 0.5, "BZERO": 32768.0}, {"BZERO": 100.0}])
def test_scaled_numbers(tmp_path, suffix, cards):
    """Stored numbers times BSCALE plus BZERO: no integers of any type."""
    stored = make_image(np.int16) // 2
    path = write_image(tmp_path / f"a{suffix}", stored)
    with fits.open(path, mode="update", do_not_scale_image_data=True, disable_image_compression=True) as hdus:
        hdus[2].header.update(cards)
    check_rows(path, cards.get("BSCALE", 1) * stored.astype(np.float32) + cards.get("BZERO", 0), np.float32)


def test_signed_bytes(tmp_path):
    """BZERO of -128 makes signed numbers of bytes."""
    image = make_image(np.uint8).view(np.int8)
    path = write_image(tmp_path / "a.fits", image)
    assert np.any(image < 0)
    check_rows(path, image.astype(read_whole(path).dtype))


@pytest.mark.parametrize("suffix", [".fits", ".fits.fz"])
def test_blank_pixels_are_nan(tmp_path, suffix):
    stored = make_image(np.int16)
    stored[5:40, 7] = -99
    path = write_image(tmp_path / f"a{suffix}", stored)
    with fits.open(path, mode="update", do_not_scale_image_data=True, disable_image_compression=True) as hdus:
        hdus[2].header["ZBLANK" if suffix == ".fits.fz" else "BLANK"] = -99
    expected = np.where(stored == -99, np.nan, stored).astype(np.float32)
    assert np.isnan(expected).sum() >= 35
    check_rows(path, expected, np.float32)


@pytest.mark.parametrize("suffix", [".fits", ".fits.fz"])
def test_file_that_shrinks_while_it_is_open(tmp_path, suffix):
    image = np.random.default_rng(1).integers(0, 65535, (2000, N_COLUMNS)).astype(np.uint16)  # beyond any buffer
    path = write_image(tmp_path / f"a{suffix}", image)
    out = np.empty((500, N_COLUMNS), np.uint16)
    with pytest.raises(FrameError, match=r"the file ends \d+ bytes too early"), open_rows(path) as rows:  # noqa: PT012
        rows.read(0, out)
        np.testing.assert_array_equal(out, image[:500])
        os.truncate(path, path.stat().st_size // 2)
        rows.read(1500, out)


def test_gzip_file_that_shrinks_was_unpacked_before(tmp_path):
    image = make_image(np.uint16)
    path = write_image(tmp_path / "a.fits.gz", image)
    out = np.empty_like(image)
    with open_rows(path) as rows:
        os.truncate(path, 100)
        rows.read(0, out)
    np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
def test_a_few_rows_of_a_large_image_take_little_memory_and_leave_no_file(tmp_path, monkeypatch, suffix):
    """32 MB of pixels, of which 2 kB are read."""
    image = np.zeros((8000, 2000), np.uint16)
    image[4000] = np.arange(2000)
    path = write_image(tmp_path / f"a{suffix}", image)
    out = np.empty((1, 2000), np.uint16)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    files = sorted(tmp_path.iterdir())
    tracemalloc.start()
    try:
        with open_rows(path) as rows:
            rows.read(4000, out)
            assert list(temporary.iterdir()) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(out[0], np.arange(2000))
    assert peak < 8e6
    assert list(temporary.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == files


def test_damaged_gzip_stream_leaves_no_file(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.fits.gz", make_image(np.uint16))
    path.write_bytes(path.read_bytes()[:-50])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    n_open = len(list(Path("/dev/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(FrameError, match=r"is not a complete FITS file"), open_rows(path):
            pass
    assert list(tmp_path.iterdir()) == [path]
    assert len(list(Path("/dev/fd").iterdir())) <= n_open


def test_tiles_fewer_than_the_image_needs(tmp_path):
    path = write_image(tmp_path / "a.fits.fz", make_image(np.uint16), tile_shape=(7, N_COLUMNS))
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        hdus[2].header["ZNAXIS2"] = 60
    message = r"8 tiles of 7 rows for an image of 60 rows"
    with pytest.raises(FrameError, match=message), open_rows(path):
        pass


def test_damaged_tiles_are_an_error_or_some_numbers(tmp_path):
    """Bytes of the table and of the tiles changed at random: offsets and lengths of tiles may have any value."""
    path = write_image(tmp_path / "a.fits.fz", make_image(np.uint16), tile_shape=(7, N_COLUMNS))
    with fits.open(path, disable_image_compression=True) as hdus:
        place = hdus[2].fileinfo()["datLoc"]
        n_bytes = hdus[2].header["NAXIS1"] * hdus[2].header["NAXIS2"] + hdus[2].header["PCOUNT"]
    content = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(4)
    out = np.empty((N_ROWS, N_COLUMNS), np.uint16)
    reasons, n_read = [], 0
    for trial in range(100):
        damaged = content.copy()
        n_damaged = 64 if trial % 2 else n_bytes  # 8 tiles of two numbers of 4 bytes
        damaged[place + rng.integers(0, n_damaged, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            with open_rows(path) as rows:
                rows.read(0, out)
                n_read += 1
        except FrameError as error:
            reasons.append(str(error))
    assert all("is not a complete FITS file" in reason for reason in reasons)
    assert min(len(reasons), n_read) > 10

"""Compressed images, in every way that FITS knows: the same pixels as astropy's, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from tiny_frames import N_COLUMNS, N_OVERSCAN

from shutterless.pipeline.reading.cubes import read_cube
from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.frames import read_amplifier

T, Y, X = 6, 16, 20
RNG = np.random.default_rng(11)
SKY = RNG.poisson(100, (T, Y, X))
FLOATS = (SKY + RNG.normal(0, 3, SKY.shape)).astype(np.float32)
FLOATS_WITH_NAN = np.where(RNG.random(SKY.shape) < 0.02, np.nan, FLOATS).astype(np.float32)
WHOLE = {"u1": SKY // 2, "i2": SKY - 120, "u2": SKY + 40_000, "i4": 1000 * SKY - 50_000, "u4": SKY + 3_000_000_000}
IMAGE, CUBE = (1, Y, X), (2, 8, X)  # tiles of two and of three dimensions

GENERAL, TILES = ("RICE_1", "GZIP_1", "GZIP_2"), (IMAGE, CUBE)
LOSSLESS = [
    *[(kind, name, tile) for kind in GENERAL for name in ("u1", "i2", "u2", "i4") for tile in TILES],
    *[("HCOMPRESS_1", name, IMAGE) for name in ("u1", "i2", "u2")],
    *[("PLIO_1", name, tile) for name in ("u1", "i2") for tile in TILES],
    *[(kind, "u4", IMAGE) for kind in ("RICE_1", "GZIP_2")],
]
LOSSY = [(kind, method) for kind in ("RICE_1", "GZIP_2", "HCOMPRESS_1") for method in (-1, 1, 2)]


def write_cube(path, data, **options):
    hdu = fits.CompImageHDU(data, **options)
    hdu.header.update({"CADENCE": 2.0, "BUNIT": "electron"})
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


def assert_same_as_astropy(path):
    with fits.open(path) as hdus:
        expected = np.asarray(hdus[1].data).astype(np.float32)
    cube = read_cube(path, "cube")
    np.testing.assert_array_equal(np.moveaxis(cube.flux_e, -1, 0), expected)
    assert cube.readout.row_rate_hz == 0.5  # CADENCE stands in the compressed HDU
    assert read_info(path).n_rows == T


@pytest.mark.parametrize(("kind", "name", "tile"), LOSSLESS)
def test_cubes_of_whole_numbers(tmp_path, kind, name, tile):
    data = (np.abs(WHOLE[name]) if kind == "PLIO_1" else WHOLE[name]).astype(name)
    assert_same_as_astropy(write_cube(tmp_path / "c.fits", data, compression_type=kind, tile_shape=tile))


@pytest.mark.parametrize(("kind", "method"), LOSSY)
@pytest.mark.parametrize("data", [FLOATS, FLOATS_WITH_NAN], ids=["finite", "NaN"])
def test_cubes_of_quantized_floats(tmp_path, kind, method, data):
    options = {"compression_type": kind, "tile_shape": IMAGE, "quantize_level": 8, "quantize_method": method}
    assert_same_as_astropy(write_cube(tmp_path / "c.fits", data, dither_seed=7, **options))


@pytest.mark.parametrize("kind", ["GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("name", ["f4", "f8"])
def test_cubes_of_floats_as_they_are(tmp_path, kind, name):
    data = FLOATS_WITH_NAN.astype(name)
    path = write_cube(tmp_path / "c.fits", data, compression_type=kind, tile_shape=IMAGE, quantize_level=0)
    assert_same_as_astropy(path)
    np.testing.assert_array_equal(np.moveaxis(read_cube(path, "cube").flux_e, -1, 0), FLOATS_WITH_NAN)


def test_cube_of_whole_numbers_with_blank_pixels(tmp_path):
    data = SKY.astype(np.int16)
    data[2, 3:5, 4] = -32768
    plain = fits.ImageHDU(data)
    plain.header["BLANK"] = -32768
    plain.header.update({"CADENCE": 2.0, "BUNIT": "electron"})
    fits.HDUList([fits.PrimaryHDU(), plain]).writeto(tmp_path / "plain.fits")
    hdu = fits.CompImageHDU(data, compression_type="RICE_1", header=plain.header)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "c.fits")
    for name in ("plain.fits", "c.fits"):
        flux = read_cube(tmp_path / name, "cube").flux_e
        assert np.isnan(flux).sum() == np.isnan(flux[3:5, 4, 2]).sum() == 2


FRAMES = [
    *[(kind, name, rows) for kind in ("RICE_1", "GZIP_1", "GZIP_2") for name in ("i2", "u2", "i4") for rows in (1, 7)],
    *[("HCOMPRESS_1", name, 8) for name in ("i2", "u2")],
    ("PLIO_1", "i2", 1),
    *[(kind, "f4", 1) for kind in ("RICE_1", "GZIP_1", "GZIP_2")],
]


@pytest.mark.parametrize(("kind", "name", "tile_rows"), FRAMES)
def test_frames(tmp_path, tiny_profile, kind, name, tile_rows):
    n_rows = 32
    values = {"i2": 100, "u2": 40_000, "i4": 100_000, "f4": 100}[name] + RNG.poisson(50, (4, n_rows, N_COLUMNS))
    hdus = [fits.PrimaryHDU()]
    hdus[0].header.update({"TINYCAM": True, "CHIP": 1, "CLOCK": 300.0, "ROW0": 500})
    for image, width in zip(values, (N_COLUMNS, N_COLUMNS, N_OVERSCAN, N_OVERSCAN), strict=True):
        data = np.ascontiguousarray(image[:, :width].astype(name))
        hdus.append(fits.CompImageHDU(data, compression_type=kind, tile_shape=(tile_rows, width)))
    path = tmp_path / "f.fits"
    fits.HDUList(hdus).writeto(path)
    with fits.open(path) as opened:
        expected = [np.asarray(hdu.data) for hdu in opened[1:]]
    one, two = (read_amplifier(path, quadrant, tiny_profile) for quadrant in (1, 2))
    np.testing.assert_array_equal(one.pixels_adu, expected[0])
    np.testing.assert_array_equal(one.overscan_adu, expected[2])
    np.testing.assert_array_equal(two.pixels_adu, expected[1][::-1, ::-1])  # its rows and columns are flipped
    np.testing.assert_array_equal(two.overscan_adu, expected[3][::-1, ::-1])

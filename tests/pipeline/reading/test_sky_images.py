"""Two-dimensional images as other programs write them."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.reading.sky_images import read_sky_image, scale_image

RNG = np.random.default_rng(3)
SKY = (RNG.poisson(400, (40, 50)) + 39_000).astype(np.uint16)
WCS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 1.0, "CRPIX2": 1.0,
       "CDELT1": -2.0 / 3600, "CDELT2": 2.0 / 3600}  # fmt: skip


def header_of(**cards):
    return fits.Header({**WCS, **cards})


def write(path, *hdus):
    fits.HDUList([*hdus]).writeto(path)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_unsigned_integers_are_read_as_they_are(tmp_path, compressed):
    hdus = [fits.PrimaryHDU(), fits.CompImageHDU(SKY)] if compressed else [fits.PrimaryHDU(SKY)]
    image = read_sky_image(write(tmp_path / "a.fits", *hdus))
    np.testing.assert_array_equal(image.pixels, SKY - np.median(SKY).astype(np.float32))
    assert (image.pixel_scale_arcsec, image.wcs, image.field) == (None, None, "a")


def test_blank_integers_and_floats_that_are_none_have_no_value(tmp_path):
    integers = SKY.astype(np.int32)
    integers[3, 4] = -999
    blank = fits.PrimaryHDU(integers)
    blank.header["BLANK"] = -999
    floats = SKY.astype(np.float64)
    floats[3, 4], floats[5, 6] = np.nan, np.inf
    for name, hdu, n_missing in (("i.fits", blank, 1), ("f.fits", fits.PrimaryHDU(floats), 2)):
        pixels = read_sky_image(write(tmp_path / name, hdu)).pixels
        assert np.isnan(pixels[3, 4])
        assert np.isnan(pixels).sum() == n_missing


def test_the_header_gives_scale_field_and_positions(tmp_path):
    image = read_sky_image(write(tmp_path / "a.fits", fits.PrimaryHDU(SKY, header_of(OBJECT="Cas A"))))
    assert image.pixel_scale_arcsec == pytest.approx(2.0)
    assert image.field == "Cas A"
    np.testing.assert_allclose(image.wcs.pixel_to_world_values(0, 0), (10, 20))


def test_errors_are_divided_by_and_flags_are_masked(tmp_path):
    flags = np.zeros(SKY.shape, np.int16)
    flags[7, 8] = 4
    errors = np.full(SKY.shape, 4.0)
    errors[9, 9] = 0
    path = write(
        tmp_path / "a.fits", fits.PrimaryHDU(), fits.ImageHDU(SKY.astype(float), name="SCI"),
        fits.ImageHDU(errors, name="VAR"), fits.ImageHDU(flags, name="MASK"),
    )  # fmt: skip
    pixels = read_sky_image(path).pixels
    assert np.argwhere(np.isnan(pixels)).tolist() == [[7, 8], [9, 9]]
    assert np.nanstd(pixels) == pytest.approx(SKY.std() / 2, rel=0.02)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 20, 20)), r"no HDU is a two-dimensional image; images have shapes \[\(3, 20, 20\)\]"),
        (np.zeros((8, 20)), r"has 8 × 20 pixels; expected is an image of at least 16 × 16"),
        (np.full((20, 20), np.nan), "has no finite pixel"),
    ],
)
def test_files_without_an_image_are_refused(tmp_path, data, message):
    with pytest.raises(FrameError, match=message):
        read_sky_image(write(tmp_path / "a.fits", fits.PrimaryHDU(data)))


def test_finer_pixels_are_averaged_and_coarser_ones_divided(tmp_path):
    data = np.kron(np.arange(20 * 25, dtype=float).reshape(20, 25), np.ones((2, 2)))
    data[0, 0] = np.nan
    image = read_sky_image(write(tmp_path / "a.fits", fits.PrimaryHDU(data, header_of())))
    averaged, factor = scale_image(image, 4.0)
    assert factor == 0.5
    np.testing.assert_allclose(averaged, data[1::2, 1::2] - np.nanmedian(data))
    finer, factor = scale_image(image, 1.0)
    assert factor == pytest.approx(2.0)
    assert finer.shape == (80, 100)
    assert np.nanmean(finer) == pytest.approx(np.nanmean(image.pixels), abs=0.5)
    assert np.isnan(finer).sum() <= 8


def test_equal_and_unknown_scales_change_nothing(tmp_path):
    image = read_sky_image(write(tmp_path / "a.fits", fits.PrimaryHDU(SKY, header_of())))
    for wanted in (None, 2.0, 2.4):
        assert scale_image(image, wanted) == (image.pixels, 1.0)


@pytest.mark.parametrize("wanted", [0.5, 64.0])
def test_pixels_of_quite_another_scale_are_refused(tmp_path, wanted):
    image = read_sky_image(write(tmp_path / "a.fits", fits.PrimaryHDU(SKY, header_of())))
    with pytest.raises(FrameError, match=f"has pixels of 2 arcsec, the detector learned from {wanted:g}"):
        scale_image(image, wanted)

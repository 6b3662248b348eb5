"""Which HDU is searched, which of its axes is time, and which pixels are flagged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from fake_cubes import write_plain

from shutterless.pipeline.reading.cube_parts.images import choose_images, describe_hdu, find_flags
from shutterless.pipeline.reading.cubes import read_cube, read_cube_info
from shutterless.pipeline.reading.fits_files import FrameError

IMAGES = np.random.default_rng(1).poisson(100, (30, 6, 7)).astype(np.float32)
HERE = Path("c.fits")


def file_of(*hdus) -> fits.HDUList:
    return fits.HDUList([fits.PrimaryHDU(), *hdus])


def test_largest_image_of_light_is_searched_and_said():
    reference, flags = fits.ImageHDU(IMAGES[:4], name="OTHER"), fits.ImageHDU(IMAGES, name="DQ")
    chosen = choose_images(file_of(reference, flags, fits.ImageHDU(IMAGES, name="SCI")), HERE)
    assert (chosen.hdu.name, chosen.shape) == ("SCI", (30, 6, 7))
    assert chosen.notes == ("HDU 3 (SCI) is searched, not HDU 1 (OTHER); choose with --set EXTNAME=NAME",)


def test_named_image_is_searched(tmp_path):
    path = write_plain(tmp_path / "c.fits", IMAGES)
    with fits.open(path, mode="append", memmap=False) as hdus:
        hdus.append(fits.ImageHDU(IMAGES[:25] + 1, name="MINE"))
    assert read_cube_info(path).n_rows == 30
    info = read_cube_info(path, supplied={"EXTNAME": "mine"})
    assert info.n_rows == 25
    with pytest.raises(FrameError, match=r"no HDU named theirs is an image \(t, y, x\)"):
        read_cube_info(path, supplied={"EXTNAME": "theirs"})


@pytest.mark.parametrize("shape", [(30, 1, 6, 7), (1, 30, 6, 7), (1, 30, 1, 6, 7)])
def test_axes_of_length_one_are_no_obstacle(tmp_path, shape):
    cube = read_cube(write_plain(tmp_path / "c.fits", IMAGES.reshape(shape)))
    np.testing.assert_array_equal(cube.flux_e, np.moveaxis(IMAGES, 0, -1))


def test_header_that_names_the_axis_of_time_is_believed(tmp_path):
    turned = write_plain(tmp_path / "c.fits", np.moveaxis(IMAGES, 0, 2), header={"CTYPE1": "TIME"})
    cube = read_cube(turned)
    np.testing.assert_array_equal(cube.flux_e, np.moveaxis(IMAGES, 0, -1))
    assert "CTYPE1 = TIME: this axis, of 30 images, is taken for that of time" in cube.notes


@pytest.mark.parametrize("cards", [{"CTYPE3": "RGB"}, {"COLORTYP": "RGB"}, {"COLORSPC": "Color"}])
def test_colour_picture_is_no_series(tmp_path, cards):
    with pytest.raises(FrameError, match=r"HDU 0 is a colour picture of 3 planes \(.*\), not a series of images"):
        read_cube_info(write_plain(tmp_path / "c.fits", IMAGES[:3], header=cards))


def test_three_images_are_few(tmp_path):
    (note,) = [note for note in read_cube_info(write_plain(tmp_path / "c.fits", IMAGES[:3])).notes if "few" in note]
    assert note == "3 images are few: at least 20 are needed to measure noise and find events"


def test_small_images_are_noted(tmp_path):
    notes = read_cube_info(write_plain(tmp_path / "c.fits", IMAGES[:, :3, :3])).notes
    assert any(note.startswith("images of 3 × 3 pixels are small: every pixel is at the border") for note in notes)


@pytest.mark.parametrize("name", ["DQ", "FLAGS", "BPM"])
def test_flagged_pixels_are_masked_and_said(tmp_path, name):
    path = write_plain(tmp_path / "c.fits", IMAGES)
    flags = np.zeros(IMAGES.shape, np.int16)
    flags[7, 2:4, 3] = 4
    with fits.open(path, mode="append", memmap=False) as hdus:
        hdus.append(fits.ImageHDU(flags, name=name))
    cube = read_cube(path)
    np.testing.assert_array_equal(np.isnan(cube.flux_e), np.moveaxis(flags != 0, 0, -1))
    assert f"HDU 1 ({name}) flags 2 of 1,260 pixels, which are masked" in cube.notes


def test_flags_of_pixels_count_for_all_images_and_odd_ones_are_left():
    sky = fits.ImageHDU(IMAGES, name="SCI")
    bad = np.zeros((6, 7), np.uint8)
    bad[1, 2] = 1
    for flags, n_bad, words in (
        (bad, 30, "flags 30 of 1,260 pixels, which are masked"),
        (1 - bad, None, "more than half: its flags are not used"),
        (bad[:3], None, r"has shape (3, 7), the images (30, 6, 7): its flags are not used"),
    ):
        hdus = file_of(sky, fits.ImageHDU(flags, name="MASK"))
        found, (note,) = find_flags(hdus, choose_images(hdus, HERE))
        assert (None if found is None else int(found.sum())) == n_bad
        assert words in note
    hdus = file_of(sky)
    assert find_flags(hdus, choose_images(hdus, HERE)) == (None, ())
    assert describe_hdu(hdus, hdus[0]) == "HDU 0"

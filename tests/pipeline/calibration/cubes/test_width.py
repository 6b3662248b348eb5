"""Widths of stars and noise that are measured against the header."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cubes import write_plain

from shutterless.pipeline.calibration.cubes.calibrate import calibrate_cube
from shutterless.pipeline.calibration.cubes.noise_ratio import compare_noise
from shutterless.pipeline.calibration.cubes.width import DEFAULT_SIGMA_PX, choose_width, measure_width
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.cubes import read_cube

SIZE = 21


def star(sigma_px, y=10.2, x=9.9):
    pixels = np.arange(SIZE)
    return np.outer(pixel_profile(pixels - y, sigma_px), pixel_profile(pixels - x, sigma_px))


def sky(light, n=150, seed=6):
    return np.random.default_rng(seed).poisson(100 + light, (n, SIZE, SIZE)).astype(np.float64)


@pytest.mark.parametrize("sigma_px", [0.6, 0.85, 1.2, 1.6, 2.0])
def test_width_of_a_star_is_measured(sigma_px):
    image = sky(5000 * star(sigma_px)).mean(axis=0)
    assert measure_width(image, np.ones_like(image)) == pytest.approx(sigma_px, rel=0.1)


def test_nothing_is_measured_where_nothing_is():
    assert measure_width(np.full((SIZE, SIZE), 100.0), np.ones((SIZE, SIZE))) is None
    assert measure_width(np.full((3, 3), 100.0), np.ones((3, 3))) is None


def chosen(by_row, stated_px, *, is_stated):
    image = np.median(by_row, axis=0)
    return choose_width(by_row, image, np.full(image.shape, 10.0), len(by_row), stated_px, is_stated=is_stated)


def test_width_near_the_truth_is_kept():
    assert chosen(sky(5000 * star(0.85)), 0.8, is_stated=True) == (0.8, [])


@pytest.mark.parametrize(("stated_px", "is_stated"), [(0.065, False), (500.0, True), (3.0, True)])
def test_width_that_stars_contradict_is_measured_and_said(stated_px, is_stated):
    sigma_px, (note,) = chosen(sky(5000 * star(1.0)), stated_px, is_stated=is_stated)
    assert sigma_px == pytest.approx(1.0, rel=0.1)
    assert "SEEING" in note
    assert note.endswith("px of the stars are taken")


def test_without_a_star_the_brightest_event_tells():
    by_row = sky(np.zeros((SIZE, SIZE)))
    by_row[70] += 20_000 * star(1.6)
    sigma_px, (note,) = chosen(by_row, 0.85, is_stated=False)
    assert sigma_px == pytest.approx(1.6, rel=0.1)
    assert note.endswith("px of the brightest event, for there is no star are taken")


def test_impossible_width_without_a_star():
    sigma_px, (note,) = chosen(sky(np.zeros((SIZE, SIZE))), 500.0, is_stated=True)
    assert sigma_px == DEFAULT_SIGMA_PX
    assert "SEEING and PIXSCALE say stars of 5e+02 px (sigma), which no image of 21 px has" in note


def test_noise_is_compared():
    assert compare_noise(1.0, "GAIN says") == compare_noise(float("nan"), "GAIN says") == []
    assert compare_noise(0.13, "GAIN says") == ["the noise of the data is 0.13 times what GAIN says"]


@pytest.mark.parametrize("cards", [{"BUNIT": "adu", "GAIN": 0.01, "READNOI": 3.0}, {"BUNIT": "MJy/sr"}])
def test_noise_of_the_data_is_taken_where_the_header_cannot_be_believed(tmp_path, cards):
    images = sky(5000 * star(0.85)).astype(np.float32)
    calibrated = calibrate_cube(read_cube(write_plain(tmp_path / "c.fits", images, header=cards)))
    # the noise of a pixel is raised twice by its own error, 1.17 / √300 of 150 rows
    assert np.std(calibrated.residual[:4]) == pytest.approx(1 / (1 + 1.17 / np.sqrt(300)) ** 2, abs=0.05)
    said = [note for note in calibrated.notes if note.startswith("the noise of the data is")]
    assert len(said) == ("GAIN" in cards)


def test_noise_far_above_the_header_is_that_of_the_data_and_said(tmp_path):
    """Photons that the header's gain would count in single rows make the noise of low values too low."""
    images = sky(5000 * star(0.85)).astype(np.float32)
    cards = {"BUNIT": "adu", "GAIN": 100.0}
    calibrated = calibrate_cube(read_cube(write_plain(tmp_path / "c.fits", images, header=cards)))
    (note,) = [note for note in calibrated.notes if note.startswith("the noise of the data is")]
    assert float(note.split()[6]) == pytest.approx(10, rel=0.1)  # 100 ADU of 100 e- scatter by 10 ADU, not by 1
    assert note.endswith("times what GAIN and READNOI say; that of the data is taken")
    skewness = np.mean(calibrated.residual**3) / np.std(calibrated.residual) ** 3
    assert 0 < skewness < 0.25  # as Poisson's; with the noise of single rows it was -0.26

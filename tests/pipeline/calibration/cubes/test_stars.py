"""The stars put into an image are found, each in its place, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.calibration.cubes.stars import PIXELS_PER_STAR, StarFit, find_stars
from shutterless.pipeline.psf import stack_profile

SIGMA_PX, SKY_E, NOISE_E = 0.8, 500.0, 10.0


def image_of(stars, shape=(60, 80), sigma_px=SIGMA_PX, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Image and error of stars at (y, x, electrons) on a sky of 500 e-, with a noise of 10 e- and that of photons."""
    light = np.zeros(shape)
    for y, x, flux in stars:
        light += flux * stack_profile(np.arange(shape[0]) - y, np.arange(shape[1]) - x, sigma_px, shape[0])
    error = np.sqrt(NOISE_E**2 + light)
    return SKY_E + light + error * np.random.default_rng(seed).standard_normal(shape), error


def spread_stars(n=30, seed=3) -> np.ndarray:
    """Stars (y, x, electrons) on a loose grid, from 1e5 to 1e6 e-, at random places within a pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.divmod(np.arange(n), 6)
    return np.stack(
        [5 + 11 * y + rng.uniform(-2, 2, n), 6 + 13 * x + rng.uniform(-2, 2, n), 10 ** rng.uniform(5, 6, n)], 1
    )


def matched(fit: StarFit, stars) -> tuple[np.ndarray, np.ndarray]:
    """Distance (px) and index of the found star that is nearest to each (y, x)."""
    stars = np.asarray(stars)
    distance = np.hypot(fit.y - stars[:, :1], fit.x - stars[:, 1:2])
    return distance.min(axis=1), distance.argmin(axis=1)


@pytest.mark.parametrize("guess", [0.6, 0.8, 1.1])
def test_thirty_stars_are_recovered_whatever_the_first_guess(guess):
    stars = spread_stars()
    fit = find_stars(*image_of(stars), guess)
    distance, index = matched(fit, stars)
    assert fit.flux.size == 30
    assert distance.max() < 0.02
    np.testing.assert_allclose(fit.flux[index], stars[:, 2], rtol=0.01)
    assert fit.sigma_px == pytest.approx(SIGMA_PX, rel=0.01)
    assert fit.background == pytest.approx(SKY_E, abs=1)


@pytest.mark.parametrize("sigma_px", [0.54, 0.8, 1.5])
def test_widths_of_sharp_and_of_wide_stars(sigma_px):
    """Kepler has 0.54 px, TESS about 0.8."""
    stars = spread_stars()
    fit = find_stars(*image_of(stars, sigma_px=sigma_px), 0.8 * sigma_px)
    assert fit.flux.size == 30
    assert fit.sigma_px == pytest.approx(sigma_px, rel=0.01)


@pytest.mark.parametrize(("flux", "found"), [(140.0, False), (560.0, True)])
def test_faint_stars_are_found_above_ten_sigma(flux, found):
    """A star of 0.8 px lights 4 pi 0.8² = 8 pixels of 10 e- each: 140 e- are 5 sigma, 560 are 20."""
    fit = find_stars(*image_of([(20.2, 30.4, flux)], seed=5), SIGMA_PX)
    assert fit.flux.size == found
    if found:
        assert matched(fit, [(20.2, 30.4)])[0][0] < 0.2
        assert fit.flux[0] == pytest.approx(flux, abs=4 * fit.errors()[0])


def test_pair_two_pixels_apart_comes_apart():
    pair = [(20.3, 30.2, 4e5), (20.3, 32.2, 2e5)]
    fit = find_stars(*image_of(pair), SIGMA_PX)
    distance, index = matched(fit, pair)
    assert fit.flux.size == 2
    assert distance.max() < 0.02
    np.testing.assert_allclose(fit.flux[index], [4e5, 2e5], rtol=0.02)


def test_dead_pixels_are_left_out():
    """A dead column beside the middle of a star, and one pixel in 20 elsewhere."""
    stars = spread_stars()
    image, error = image_of(stars)
    image[np.random.default_rng(1).random(image.shape) < 0.05] = np.nan
    image[:, round(stars[3, 1]) + 1] = np.nan
    y, x = np.round(stars[:, :2]).astype(int).T
    image[y, x] = image_of(stars)[0][y, x]
    fit = find_stars(image, error, SIGMA_PX)
    distance, index = matched(fit, stars)
    assert fit.flux.size == 30
    assert distance.max() < 0.05
    np.testing.assert_allclose(fit.flux[index], stars[:, 2], rtol=0.03)


def test_nothing_is_found_in_noise():
    assert find_stars(*image_of([]), SIGMA_PX).flux.size == 0


def test_star_cut_by_the_border_is_where_it_is():
    stars = [(-0.3, 40.2, 5e5), (30.1, 79.4, 5e5)]
    fit = find_stars(*image_of(stars), SIGMA_PX)
    distance, index = matched(fit, stars)
    assert fit.flux.size == 2
    assert distance.max() < 0.05
    np.testing.assert_allclose(fit.flux[index], [5e5, 5e5], rtol=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_image_without_a_live_pixel_has_no_star(shape):
    fit = find_stars(np.full(shape, np.nan), np.ones(shape), SIGMA_PX)
    assert (fit.flux.size, fit.errors().size, fit.background) == (0, 0, 0.0)
    np.testing.assert_array_equal(fit.model(), np.zeros(shape))


def test_small_images_hold_few_stars():
    """In 5 x 7 pixels there is room for three; a constant image has none."""
    image, error = image_of([(2, 3, 1e6)], (5, 7))
    fit = find_stars(image, error, SIGMA_PX)
    assert 1 <= fit.flux.size <= 35 // PIXELS_PER_STAR
    assert matched(fit, [(2, 3, 1e6)])[0][0] < 0.02
    assert find_stars(np.full((5, 7), 300.0), np.full((5, 7), 10.0), SIGMA_PX).flux.size == 0


def test_bleeding_column_is_a_few_stars_at_most():
    """A saturated star whose charge runs along 40 pixels of its column, and a faint star far away that stays."""
    image, error = image_of([(30.0, 40.0, 3e6), (12.3, 10.4, 1e5)])
    image[10:50, 40] = 2e5
    error = np.sqrt(np.maximum(image, 0))
    fit = find_stars(image, error, SIGMA_PX)
    assert np.isfinite([fit.y, fit.x, fit.flux]).all()
    assert np.count_nonzero(np.abs(fit.x - 10.4) < 0.1) == 1
    assert fit.flux.size < 12

"""Cosmic rays in images are masked; light that came through the optics is not, wherever in a pixel it falls."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.calibration.cubes.cosmic_rays import COLUMNS, mask_cosmic_rays
from shutterless.pipeline.psf import stack_profile

SIGMA_PX, SIZE, N_ROWS = 0.6, 9, 2000
QUIET = np.ones((SIZE, SIZE))
ONE, TWO = [(4, 4)], [(4, 4), (4, 5)]
DIAGONAL, BENT = [(4, 4), (5, 5)], [(3, 3), (3, 4), (4, 4), (5, 4), (5, 5)]


def noise(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SIZE, SIZE, N_ROWS))


def flash(y: float, x: float, snr: float, noise_e: np.ndarray = QUIET) -> np.ndarray:
    """A source of this optimal S/N in units of the noise, shape (y, x)."""
    light = stack_profile(np.arange(SIZE) - y, np.arange(SIZE) - x, SIGMA_PX, SIZE) / noise_e
    return snr * light / np.linalg.norm(light)


def with_flashes(snr: float, noise_e: np.ndarray = QUIET, seed: int = 1) -> np.ndarray:
    """Noise with a flash at a random place within the middle pixel in every second row."""
    rng, residual = np.random.default_rng(seed + 100), noise(seed)
    for row in range(0, N_ROWS, 2):
        y, x = 4 + rng.uniform(-0.5, 0.5, 2)
        residual[:, :, row] += flash(y, x, snr, noise_e)
    return residual


def share_masked(residual: np.ndarray, noise_e: np.ndarray = QUIET) -> float:
    """Share of every second row in which something within two pixels of the middle is masked."""
    found = mask_cosmic_rays(residual, noise_e, SIGMA_PX)
    near = found[(found["y"] - 4).abs().le(2) & (found["x"] - 4).abs().le(2) & (found["row"] % 2 == 0)]
    return near["row"].nunique() / (N_ROWS / 2)


@pytest.mark.parametrize(
    ("pixels", "snr", "at_least"),
    [
        *((ONE, snr, share) for snr, share in ((8, 0.92), (14, 0.999), (200, 0.999))),
        *((TWO, snr, share) for snr, share in ((14, 0.98), (200, 0.999))),
        *((DIAGONAL, snr, share) for snr, share in ((14, 0.98), (200, 0.999))),
        *((BENT, snr, share) for snr, share in ((30, 0.99), (200, 0.999))),
    ],
)
def test_share_of_rays_that_are_masked(pixels, snr, at_least):
    residual = noise()
    for y, x in pixels:
        residual[y, x, ::2] += snr / np.sqrt(len(pixels))
    assert share_masked(residual) >= at_least


@pytest.mark.parametrize(("snr", "at_most"), [(0, 0.0), (8, 0.01), (14, 0.005), (30, 0.002), (1000, 0.002)])
def test_flashes_of_one_row_stay(snr, at_most):
    """A star that shines in a single image, anywhere within a pixel: as sharp as the optics, and no sharper."""
    assert share_masked(with_flashes(snr)) <= at_most


def test_noise_alone_loses_no_pixel():
    residual = noise()
    assert mask_cosmic_rays(residual, QUIET, SIGMA_PX).empty
    np.testing.assert_array_equal(residual, noise())


def test_spike_that_lasts_is_no_ray():
    """A pixel alone in rows 100 and 101, and one that glows on at a third of its light; what fades faster is a ray."""
    residual = np.zeros((SIZE, SIZE, N_ROWS))
    residual[4, 4, 100:102] = 50
    residual[4, 4, 200:202] = 50, 17
    residual[4, 4, 300:302] = 50, 13
    found = mask_cosmic_rays(residual, QUIET, SIGMA_PX)
    assert found["row"].tolist() == [300]
    # the row before counts as well; of one that is masked nothing is known
    residual[4, 4, 300:302] = 0
    residual[4, 4, 399:401] = 40, 50
    residual[4, 4, 500] = 50
    residual[:, :, [499, 501]] = np.nan
    assert mask_cosmic_rays(residual, QUIET, SIGMA_PX)["row"].tolist() == [500]


def test_the_table_says_where_how_bright_and_how_many_pixels():
    residual = np.zeros((SIZE, SIZE, N_ROWS))
    residual[2, 6, 40] = 30
    residual[5, 1, 10] = 20
    residual[5, 2, 10] = 15
    residual[6, 1, 10] = 3  # too faint to be known for charge
    residual[7, 7, 20] = -50  # no ray takes light away
    found = mask_cosmic_rays(residual, 2 * QUIET, SIGMA_PX)
    assert tuple(found) == COLUMNS
    assert found.to_numpy().tolist() == [[10, 5, 1, 20, 2, 2 * 35], [40, 2, 6, 30, 1, 2 * 30]]
    np.testing.assert_array_equal(np.argwhere(np.isnan(residual)), [[2, 6, 40], [5, 1, 10], [5, 2, 10]])
    assert residual[6, 1, 10] == 3
    assert tuple(mask_cosmic_rays(residual, QUIET, SIGMA_PX)) == COLUMNS


def test_light_on_pixels_of_unequal_noise_is_not_crooked():
    """Two neighbours of the middle are three times as noisy: in units of noise a flash is no product of two curves."""
    noise_e = QUIET.copy()
    noise_e[5, 5] = noise_e[3, 4] = 3
    residual = with_flashes(200, noise_e)
    assert share_masked(residual.copy()) > 0.5  # unequal noise that is taken for equal masks flashes
    assert share_masked(residual, noise_e) < 0.01


def test_rays_at_the_border_and_beside_masked_pixels():
    """In a corner and beside a dead pixel a single bright pixel is a ray; a star half beyond the border is none."""
    residual = np.zeros((SIZE, SIZE, N_ROWS))
    residual[4, 4] = np.nan
    residual[4, 5, 50] = residual[0, 0, 100] = 100
    residual[:, :, 150] = flash(-0.4, 4.1, 200)
    assert mask_cosmic_rays(residual, QUIET, SIGMA_PX)["row"].tolist() == [50, 100]


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 6, 5), (2, 2, 1)])
def test_images_smaller_than_a_stamp(shape):
    residual = np.zeros(shape)
    residual[0, 0, 0] = 40
    assert len(mask_cosmic_rays(residual, np.ones(shape[:2]), SIGMA_PX)) <= 1
    assert mask_cosmic_rays(np.full(shape, np.nan), np.ones(shape[:2]), SIGMA_PX).empty

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.calibration.levels.ramp import Ramp
from shutterless.pipeline.calibration.streaks.find import STREAK_COLUMNS, collapse_profile, find_streaks, nearest_streak
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, first_row=0, zero_point_mag=24.49)
SIGMA_PX, SKY_E, N_COLUMNS, N_ROWS = 0.84, 314.0, 400, 6000


def make_profile(x, flux, sigma_px: float = SIGMA_PX, seed: int | None = 1) -> tuple[np.ndarray, np.ndarray]:
    """Collapsed profile of ``N_ROWS`` rows with its error, noisy unless ``seed`` is None."""
    profile = np.full(N_COLUMNS, SKY_E)
    for position, electrons in zip(x, flux, strict=True):
        profile += electrons * pixel_profile(np.arange(N_COLUMNS) - position, sigma_px)
    error = np.sqrt(np.pi / 2 * (profile + 100) / N_ROWS)
    if seed is not None:
        profile = profile + error * np.random.default_rng(seed).standard_normal(N_COLUMNS)
    return profile, error


def test_profile_is_the_median_of_the_blocks_and_its_error_that_of_a_median():
    level = np.array([[100.0, 10.0, -5.0], [300.0, 20.0, -5.0], [200.0, 900.0, -5.0]])
    profile, error = collapse_profile(level, 10.0, 10_000)
    np.testing.assert_array_equal(profile, [200, 20, -5])
    np.testing.assert_allclose(error, np.sqrt(np.pi / 2 * np.array([300, 120, 100]) / 10_000))


def test_isolated_streaks_come_back_with_their_places_and_fluxes():
    x, flux = np.array([30.2, 90.5, 160.0, 250.71, 340.4]), np.array([3000.0, 800.0, 200.0, 50.0, 12_000.0])
    streaks, sigma_px = find_streaks(*make_profile(x, flux), 0.9, READOUT)
    assert tuple(streaks) == STREAK_COLUMNS
    np.testing.assert_allclose(streaks["x"], x, atol=0.05)
    np.testing.assert_allclose(streaks["flux_e_row"], flux, rtol=0.03)
    np.testing.assert_allclose(streaks["flux_e_s"], 300 * flux, rtol=0.03)
    np.testing.assert_allclose(streaks["mag"], 24.49 - 2.5 * np.log10(300 * flux), atol=0.03)
    assert sigma_px == pytest.approx(SIGMA_PX, abs=0.01)
    assert streaks["y0"].isna().all()


def test_quoted_flux_errors_are_the_scatter():
    fluxes, errors = [], []
    for seed in range(40):
        streaks, _ = find_streaks(*make_profile([200.3], [60.0], seed=seed), SIGMA_PX, READOUT)
        brightest = streaks.loc[streaks["flux_e_row"].idxmax()]
        fluxes.append(brightest["flux_e_row"])
        errors.append(brightest["flux_error_e_row"])
    # the sky is estimated from the same profile; 40 draws know a scatter to 11 %
    assert np.std(fluxes) == pytest.approx(np.mean(errors), rel=0.35)
    assert np.mean(fluxes) == pytest.approx(60, abs=3 * np.mean(errors) / np.sqrt(40) + 0.5)


@pytest.mark.parametrize("true_px", [0.7, 0.84, 1.1, 1.5])
def test_width_of_the_point_spread_function_is_found(true_px):
    x = np.arange(20, 380, 30) + np.linspace(0, 0.9, 12)
    _, sigma_px = find_streaks(*make_profile(x, np.geomspace(300, 9000, 12), true_px), 1.15 * true_px, READOUT)
    assert sigma_px == pytest.approx(true_px, abs=0.02)


@pytest.mark.parametrize("apart_px", [2.0, 2.5, 4.0])
def test_blended_pair_comes_apart(apart_px):
    alone = np.arange(20.25, 180, 20)  # isolated ones that give the width
    x, flux = [*alone, 200.2, 200.2 + apart_px], [*np.full(len(alone), 3000), 2000, 1200]
    streaks, _ = find_streaks(*make_profile(x, flux, seed=2), SIGMA_PX, READOUT)
    bright = streaks[streaks["flux_e_row"] > 100]
    np.testing.assert_allclose(bright["x"], x, atol=0.05)
    np.testing.assert_allclose(bright["flux_e_row"], flux, rtol=0.03)


def test_empty_sky_has_no_streaks():
    streaks, sigma_px = find_streaks(*make_profile([], []), SIGMA_PX, READOUT)
    assert len(streaks) == 0
    assert tuple(streaks) == STREAK_COLUMNS
    assert sigma_px == SIGMA_PX


def test_magnitude_is_unknown_without_a_zero_point():
    readout = Readout(300.0, 6.2, 10.0, 48_000.0, 3080)
    streaks, _ = find_streaks(*make_profile([200.0], [3000.0]), SIGMA_PX, readout)
    assert streaks["mag"].isna().all()


def test_onset_of_the_same_height_gives_the_detector_row():
    ramp = Ramp(
        deficit_e=np.zeros((0, N_COLUMNS)),
        onset_mask=np.zeros((0, N_COLUMNS), dtype=bool),
        sky_e=SKY_E,
        onset_x=np.array([200, 101, 300]),
        onset_row=np.array([1500, 40, 60]),
        onset_e=np.array([3100.0, 780.0, 100.0]),  # the third is far too faint for its streak
    )
    readout = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, first_row=1000)
    streaks, _ = find_streaks(*make_profile([100.0, 200.3, 300.0], [800.0, 3000.0, 5000.0]), SIGMA_PX, readout, [ramp])
    np.testing.assert_array_equal(streaks["y0"], [1040, 2500, np.nan])


def test_nearest_streak_in_the_head():
    streaks = pd.DataFrame({"x": [2.0, 5.0, 9.0], "y": 0.0})
    # 3.4 is 1.4 from the first; 7.1 is nearer to the last than to the second; 20 is far from all
    assert nearest_streak(streaks, [0, 2.0, 3.4, 3.6, 7.1, 8.9, 20], within_px=2.0).tolist() == [0, 0, 0, 1, 2, 2, -1]
    assert nearest_streak(streaks, [3.5], within_px=1.4).tolist() == [-1]
    assert nearest_streak(streaks.iloc[:0], [1, 2], within_px=5).tolist() == [-1, -1]
    # in a stack of images the farther axis counts: the second star is 1.5 rows and 0.5 columns away
    assert nearest_streak(streaks.assign(y=[0.0, 3.5, 8.0]), [5.5, 5.5], within_px=1.5, y=[5, 2]).tolist() == [1, 1]
    assert nearest_streak(streaks.assign(y=[0.0, 3.5, 8.0]), [5.5], within_px=1.4, y=[5]).tolist() == [-1]

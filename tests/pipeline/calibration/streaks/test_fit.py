"""The streak fit on realistic skies: crowds, close pairs, ghosts, hot columns, streaks of different widths."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.calibration.streaks.find import find_streaks
from shutterless.pipeline.calibration.streaks.fit import StreakFit, light_nearby, weighted_median
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, zero_point_mag=24.49)
SIGMA_PX, SKY_E = 0.84, 314.0
STARS = ([100.3, 205.0, 300.2], [800.0, 300.0, 2000.0])


def make_profile(x, flux, extra=0.0, *, n_columns=400, n_rows=6000, width_px=SIGMA_PX, seed=1):
    """Collapsed profile with its error."""
    profile = np.full(n_columns, SKY_E) + extra
    width = np.broadcast_to(width_px, np.shape(x))
    for position, electrons, sigma_px in zip(x, flux, width, strict=True):
        first = int(max(position - 8, 0))
        columns = np.arange(first, min(first + 18, n_columns))
        profile[columns] += electrons * pixel_profile(columns - position, sigma_px)
    error = np.sqrt(np.pi / 2 * (np.maximum(profile, 0) + 100) / n_rows)
    return profile + error * np.random.default_rng(seed).standard_normal(n_columns), error


def assert_stars(streaks, x, flux, atol=0.05, rtol=0.02):
    assert streaks["x"].to_numpy() == pytest.approx(np.array(x), abs=atol)
    assert streaks["flux_e_row"].to_numpy() == pytest.approx(np.array(flux), rel=rtol)


@pytest.mark.parametrize("column", [150, 130, 95])
@pytest.mark.parametrize("excess_e", [20.0, 60.0, 300.0, 3000.0, -100.0, -250.0])
def test_a_hot_column_or_a_trap_is_no_streak_and_its_neighbours_are_none(column, excess_e):
    extra = np.zeros(400)
    extra[column] = excess_e
    streaks, sigma_px = find_streaks(*make_profile(*STARS, extra), SIGMA_PX, READOUT)
    assert_stars(streaks, *STARS)
    assert sigma_px == pytest.approx(SIGMA_PX, abs=0.01)


@pytest.mark.parametrize("column", [99, 100, 101, 102])
@pytest.mark.parametrize("excess_e", [300.0, 3000.0, -300.0])
def test_a_hot_column_or_a_trap_under_a_star_costs_it_little(column, excess_e):
    extra = np.zeros(400)
    extra[column] = excess_e
    streaks, _ = find_streaks(*make_profile(*STARS, extra), SIGMA_PX, READOUT)
    assert_stars(streaks, *STARS, rtol=0.03)


@pytest.mark.parametrize("width_px", [30, 45, 60])
@pytest.mark.parametrize("height_e", [20.0, 50.0])
def test_a_ghost_is_background_and_the_star_on_it_a_star(width_px, height_e):
    ghost = height_e * np.exp(-0.5 * ((np.arange(400) - 200) / (width_px / 2.355)) ** 2)
    streaks, _ = find_streaks(*make_profile(*STARS, ghost), SIGMA_PX, READOUT)
    bright = streaks[streaks["flux_e_row"] > 10]
    assert len(streaks) <= len(bright) + 1
    assert_stars(bright, *STARS, rtol=0.05)


def test_a_sky_that_slopes_is_no_row_of_streaks():
    streaks, _ = find_streaks(*make_profile(*STARS, np.linspace(-60, 60, 400)), SIGMA_PX, READOUT)
    assert_stars(streaks, *STARS)


@pytest.mark.parametrize("guess_px", [0.75, 0.84, 0.95])
@pytest.mark.parametrize(("flux", "apart_px"), [((2000.0, 1200.0), 2.0), ((3000.0, 300.0), 2.5)])
def test_a_bright_pair_suffices_for_the_width_whatever_the_header_has(guess_px, flux, apart_px):
    x = [200.3, 200.3 + apart_px]
    streaks, sigma_px = find_streaks(*make_profile(x, flux), guess_px, READOUT)
    assert_stars(streaks, x, flux)
    assert sigma_px == pytest.approx(SIGMA_PX, abs=0.01)


@pytest.mark.parametrize("companion", [(0.1, 1.2), (0.5, 1.2), (0.75, 1.0)])
def test_a_companion_too_close_to_come_apart_does_not_rule_the_width_over_fainter_stars(companion):
    ratio, apart_px = companion
    alone = np.arange(20.3, 180, 22)  # eight stars a thirtieth as bright
    x, flux = [*alone, 200.3, 200.3 + apart_px], [*np.full(8, 60.0), 2000.0, 2000.0 * ratio]
    streaks, sigma_px = find_streaks(*make_profile(x, flux), 0.95, READOUT)
    assert sigma_px == pytest.approx(SIGMA_PX, abs=0.015)
    assert_stars(streaks.iloc[:8], alone, np.full(8, 60.0), atol=0.06, rtol=0.06)


def test_stars_that_saw_other_air_keep_their_light_and_stay_one():
    rng = np.random.default_rng(3)
    x, flux = np.arange(20.4, 390, 18), np.geomspace(100, 9000, 21)
    width = SIGMA_PX * (1 + 0.06 * rng.standard_normal(21))
    streaks, _ = find_streaks(*make_profile(x, flux, width_px=width), SIGMA_PX, READOUT)
    bright = streaks[streaks["flux_e_row"] > 80]
    assert_stars(bright, x, flux)


def test_a_crowd_of_a_thousand_stars_brighter_than_15_is_resolved():
    # counts 10^(0.28 m) down to r = 17: 3,629 stars on 3,072 columns, their light mostly blended
    rng = np.random.default_rng(11)
    n_stars = round(1000 * 10 ** (0.28 * 2))
    mag = np.maximum(17 + np.log10(rng.random(n_stars)) / 0.28, 8)
    x, flux = rng.uniform(-0.5, 3071.5, n_stars), 10 ** (-0.4 * (mag - 24.49)) / 300
    streaks, sigma_px = find_streaks(*make_profile(x, flux, n_columns=3072, n_rows=1024), 0.9, READOUT)
    assert sigma_px == pytest.approx(SIGMA_PX, abs=0.02)
    found_x, found_flux = streaks["x"].to_numpy(), streaks["flux_e_row"].to_numpy()
    distance = np.abs(x[:, None] - x)
    np.fill_diagonal(distance, np.inf)
    alone = ~((distance < 1.5) & (flux > flux[:, None] / 3)).any(axis=1)
    wanted = np.flatnonzero((mag < 14) & alone & (x > 4) & (x < 3067))
    seen = [
        np.any((np.abs(found_x - x[star]) < 1) & (np.abs(np.log(found_flux / flux[star])) < np.log(1.5)))
        for star in wanted
    ]
    assert len(wanted) > 250
    assert np.mean(seen) > 0.9
    false = 0
    bright = streaks[streaks["mag"] < 14]
    for streak in bright.itertuples():
        near = flux[np.abs(x - streak.x) < 1]
        contrast = np.abs(np.log(np.append(near, max(near.sum(), 1e-9)) / streak.flux_e_row))
        false += contrast.min() > np.log(1.5)
    assert false < 0.05 * len(bright)


def test_columns_that_are_not_finite_are_left_out():
    profile, error = make_profile(*STARS)
    profile[[150, 302]] = np.nan
    error[50] = np.inf
    streaks, _ = find_streaks(profile, error, SIGMA_PX, READOUT)
    assert_stars(streaks, *STARS)
    assert len(find_streaks(np.full(9, np.nan), np.ones(9), SIGMA_PX, READOUT)[0]) == 0


def test_a_star_on_the_edge_has_its_light_beyond_it():
    streaks, _ = find_streaks(*make_profile([-0.3, 200.2, 399.4], [1500.0, 3000.0, 900.0]), SIGMA_PX, READOUT)
    assert_stars(streaks, [-0.3, 200.2, 399.4], [1500.0, 3000.0, 900.0], rtol=0.04)


def test_the_middle_of_the_weight_in_the_head():
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.ones(3)) == 2.0
    assert weighted_median(np.array([1.0, 5.0]), np.array([1.0, 1.0])) == 3.0
    # the middles of the weights lie at 4.5 and 9.5 of 10; half of it, 5, is a tenth of the way between
    assert weighted_median(np.array([1.0, 5.0]), np.array([9.0, 1.0])) == pytest.approx(1.4)


def test_light_nearby_is_that_of_the_others():
    x, flux = np.array([1.0, 3.0, 9.0]), np.array([10.0, 20.0, 40.0])
    assert light_nearby(x, flux, 2.0).tolist() == [20.0, 10.0, 0.0]


def test_quoted_errors_hold_background_and_width():
    fit = StreakFit(*make_profile(*STARS), SIGMA_PX)
    fit.add_peaks(over_curved_sky=True)
    fit.refine(3, blends_known=True)
    assert (fit.total_error > fit.flux_error).all()
    # of the faintest star the photons and the sky matter: 300 e over 3 columns of 414 e, a median of 6,000 rows
    assert fit.flux_error[1] == pytest.approx(np.sqrt(np.pi / 2 * (300 + 2.98 * 414) / 6000), rel=0.1)

"""The background follows smooth changes of the level under the streaks, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.calibration.streaks.background import (
    follow_background,
    open_background,
    sky_level,
    smooth_background,
)

COLUMNS = np.arange(400)


def bump(width_px: float, height: float) -> np.ndarray:
    """A ghost of Gaussian shape, by its full width at half maximum."""
    return height * np.exp(-0.5 * ((COLUMNS - 200) / (width_px / 2.355)) ** 2)


def test_sky_is_the_level_that_most_dark_columns_share():
    profile = np.concatenate([np.full(60, 100.0), np.linspace(101, 900, 340)])
    assert sky_level(np.random.default_rng(1).permutation(profile)) == pytest.approx(100.0)


def test_constants_and_slopes_come_back_exactly():
    assert smooth_background(np.full(400, 314.0)) == pytest.approx(np.full(400, 314.0))
    slope = follow_background(100 + 0.5 * COLUMNS)[20:-20]  # constant beyond the last medians
    assert slope == pytest.approx((100 + 0.5 * COLUMNS)[20:-20], abs=0.1)


def test_a_few_columns_of_light_or_none_do_not_count():
    level = np.full(400, 50.0)
    level[[30, 31, 32, 110, 111, 250]] += 900.0
    level[300:304] = np.nan
    assert smooth_background(level) == pytest.approx(np.full(400, 50.0))


def test_a_window_of_unknown_columns_is_bridged_and_nothing_known_is_nothing():
    level = np.full(400, 50.0)
    level[100:180] = np.nan
    assert smooth_background(level) == pytest.approx(np.full(400, 50.0))
    assert smooth_background(np.full(400, np.nan)).tolist() == [0.0] * 400
    assert smooth_background(np.array([4.0, 6.0])) == pytest.approx([5.0, 5.0])


@pytest.mark.parametrize("width_px", [30, 45, 60])
def test_a_ghost_is_followed_to_a_few_per_cent(width_px):
    assert np.abs(follow_background(bump(width_px, 100.0)) - bump(width_px, 100.0)).max() < 7


def test_opening_cuts_off_what_is_narrow_and_keeps_what_is_wide():
    narrow = np.zeros(400)
    narrow[100:109] = 500.0
    assert open_background(narrow, 11).max() == 0.0
    dark = np.full(400, 100.0)
    dark[50] = 0.0  # a trap is no hole of eleven columns
    assert open_background(dark, 11).min() == 100.0
    assert np.abs(open_background(bump(45, 100.0), 11) - bump(45, 100.0)).max() < 8

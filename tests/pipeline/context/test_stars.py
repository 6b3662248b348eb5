from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from flat_amplifier import flat_amplifier

from shutterless.pipeline.context.stars import describe_stars, star_lags
from shutterless.pipeline.psf import pixel_profile

SIGMA_PX = 0.85


def describe(x: float, streak_x=(), flux=(), y0=None, amplitude_e: float = 50.0, row: int = 500) -> pd.Series:
    amplifier = flat_amplifier(np.zeros((64, 1000)), sky_e=300.0, sigma_e=20.0, sigma_px=SIGMA_PX, streak_x=streak_x)
    amplifier.streaks["flux_e_row"] = np.asarray(flux, dtype=float)
    amplifier.streaks["y0"] = np.nan if y0 is None else np.asarray(y0, dtype=float)
    trigger = pd.DataFrame(
        {"x": [x], "row_start": [row], "row_stop": [row + 9], "row_peak": [row + 4], "amplitude_e": [amplitude_e]}
    )
    return describe_stars(amplifier, trigger).iloc[0]


def test_star_and_change_are_measured_against_noise_and_flux():
    found = describe(30.2, [30.0], [500.0])
    assert found["star_height"] == pytest.approx(np.log10(500 * pixel_profile(0, SIGMA_PX) / 20))
    assert found["star_distance_px"] == pytest.approx(0.2)
    assert found["relative_amplitude"] == pytest.approx(-1)
    assert np.isnan(found["neighbour_height"])


def test_a_blend_is_the_light_of_the_other_star_at_the_place():
    found = describe(30.0, [30.0, 33.0], [500.0, 2000.0])
    assert found["neighbour_distance_px"] == 3.0
    assert found["neighbour_height"] == pytest.approx(np.log10(2000 * pixel_profile(3.0, SIGMA_PX) / 20))


def test_without_a_star_all_is_unknown():
    found = describe(30.0, [50.0], [500.0])
    names = ["star_height", "star_distance_px", "relative_amplitude", "neighbour_height", "neighbour_distance_px"]
    assert found[names].isna().all()


def test_onset_of_a_streak_beside_it_is_dated():
    assert describe(30.0, [31.0], [500.0], [400.0])["onset_rows"] == 104.0
    assert np.isnan(describe(30.0, [31.0], [500.0])["onset_rows"])


def test_borders_are_felt_only_near_them():
    near, far = describe(3.0, row=20), describe(30.0, row=500)
    assert (near["edge_px"], near["edge_lengths"]) == (3.0, 2.0)
    assert (far["edge_px"], far["edge_lengths"]) == (20.0, 20.0)


def lags(y0, lag_rows) -> list[float]:
    amplifier = flat_amplifier(np.zeros((64, 100)), sky_e=300.0, sigma_e=20.0, sigma_px=SIGMA_PX, streak_x=(10, 30, 50))
    amplifier.streaks["y0"] = np.asarray(y0, dtype=float)
    if lag_rows is not None:
        amplifier.streaks["lag_rows"] = np.asarray(lag_rows, dtype=float)
    return star_lags(amplifier).tolist()


def test_lags_are_those_of_the_motion_or_of_the_onsets():
    nan = np.nan
    np.testing.assert_equal(lags([5, nan, 9], None), [5, nan, 9])  # of images and older tables
    np.testing.assert_equal(lags([5, nan, 9], [nan, nan, nan]), [5, nan, 9])
    np.testing.assert_equal(lags([nan, nan, nan], [-20, nan, 300]), [-20, nan, 300])


def test_lags_of_the_motion_share_a_number_with_the_onsets():
    nan = np.nan
    np.testing.assert_equal(lags([400, nan, 120], [100, 250, nan]), [400, 550, 120])
    # nothing ties the two scales together, so those that were found count
    np.testing.assert_equal(lags([400, nan, nan], [nan, 250, 70]), [nan, 250, 70])

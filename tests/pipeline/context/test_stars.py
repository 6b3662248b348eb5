from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from flat_amplifier import flat_amplifier

from shutterless.pipeline.context.stars import describe_stars
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

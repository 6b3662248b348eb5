"""Light of a star of known states, and the states found again in it."""

import numpy as np
import pytest
from one_star import follow_state, linear_state

from shutterless.pipeline.calibration.motion.model import (
    N_STATES,
    STAR_HALF_WIDTH,
    first_columns,
    streak_light,
)
from shutterless.pipeline.psf import pixel_profile

X, FLUX_E, SIGMA_PX = 5.2, 5000.0, 0.84
WIDTH = 2 * STAR_HALF_WIDTH + 1
COLUMNS = np.arange(WIDTH)


def wandering_states(n_rows: int) -> np.ndarray:
    """Light, shift and width that change over some tens of rows: 3 %, 0.5 px and 15 %."""
    t = np.arange(n_rows)
    waves = np.stack([np.sin(2 * np.pi * t / period) for period in (170, 110, 230)])
    return (np.sqrt(2) * np.array([[0.03], [0.5], [0.15]]) * waves).astype(np.float32)


def test_light_in_steady_air_is_the_pixel_integrated_profile():
    light = streak_light(np.zeros((N_STATES, 3), np.float32), X, FLUX_E, SIGMA_PX)
    np.testing.assert_allclose(
        light, np.repeat(FLUX_E * pixel_profile(COLUMNS - X, SIGMA_PX)[:, None], 3, axis=1), 1e-4, 1e-3
    )


def test_states_do_what_they_are_called():
    states = np.array([[0.5, 0, 0], [0, 0.7, 0], [0, 0, 0.2]], np.float32)  # one row each: brighter, moved, wider
    light = streak_light(states, X, FLUX_E, SIGMA_PX)
    expected = [
        1.5 * FLUX_E * pixel_profile(COLUMNS - X, SIGMA_PX),
        FLUX_E * pixel_profile(COLUMNS - X - 0.7, SIGMA_PX),
        FLUX_E * pixel_profile(COLUMNS - X, 1.2 * SIGMA_PX),
    ]
    np.testing.assert_allclose(light.T, expected, rtol=1e-4, atol=1e-3)


def test_states_are_found_within_their_errors():
    states, noise = wandering_states(4000), np.full(WIDTH, 30.0)
    light = streak_light(states, X, FLUX_E, SIGMA_PX)
    noisy = light + np.random.default_rng(1).normal(0, 30.0, light.shape).astype(np.float32)
    found, error = follow_state(noisy, noise, X, FLUX_E, SIGMA_PX)
    # a wider or displaced star is measured less well: up to a quarter more scatter than in steady air
    np.testing.assert_allclose((found - states).std(axis=1) / error, 1.1, atol=0.2)
    for channel in range(N_STATES):
        assert np.polyfit(states[channel], found[channel], 1)[0] == pytest.approx(1, abs=0.03)


def test_linear_states_agree_where_they_are_small():
    states, noise = 0.1 * wandering_states(500), np.full(WIDTH, 30.0)
    light = streak_light(states, X, FLUX_E, SIGMA_PX)
    linear, errors = linear_state(light, noise, X, FLUX_E, SIGMA_PX)
    followed, same_errors = follow_state(light, noise, X, FLUX_E, SIGMA_PX)
    np.testing.assert_allclose(errors, same_errors)
    np.testing.assert_allclose(linear, followed, atol=0.004)


def test_a_masked_flank_is_bridged_and_a_masked_core_is_not():
    light = streak_light(np.zeros((N_STATES, 4), np.float32), X, FLUX_E, SIGMA_PX)
    light[8, 1] = light[5, 2] = np.nan
    found, _ = follow_state(light, np.full(WIDTH, 30.0), X, FLUX_E, SIGMA_PX)
    np.testing.assert_array_equal(np.isnan(found).all(axis=0), [False, False, True, False])
    np.testing.assert_allclose(found[:, [0, 1, 3]], 0, atol=1e-4)


def test_columns_stay_on_the_amplifier():
    np.testing.assert_array_equal(first_columns(np.array([0.0, 20.4, 63.0]), 64), [0, 15, 53])

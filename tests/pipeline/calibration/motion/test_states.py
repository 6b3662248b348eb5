"""Streaks are measured side by side, with the same result as one after the other."""

from types import SimpleNamespace

import numpy as np
import pytest
from one_star import follow_state, linear_state

from shutterless.pipeline.calibration.motion.model import N_LANES, streak_light
from shutterless.pipeline.calibration.motion.states import Streak, independent_groups, limit_states, measure_states

N_ROWS, WIDTH, SIGMA_PX, NOISE_E = 400, 11, 0.84, 30.0
FLUX_E = 5000.0


def spans(*columns):
    return [SimpleNamespace(columns=slice(start, start + WIDTH)) for start in columns]


def test_overlapping_streaks_keep_their_order():
    """The second overlaps the first, the fourth the second, the third none."""
    assert independent_groups(spans(0, 10, 40, 15)) == [[0, 2], [1], [3]]
    assert independent_groups(spans(0, 11)) == [[0, 1]]
    assert independent_groups([]) == []


def amplifier(n_stars: int) -> tuple[np.ndarray, list[Streak]]:
    """Residual (x, t) of stars that move each in its own way, and their streaks."""
    rng = np.random.default_rng(1)
    residual = rng.normal(size=(WIDTH * n_stars, N_ROWS)).astype(np.float16)
    streaks = []
    for star in range(n_stars):
        columns, x = slice(WIDTH * star, WIDTH * (star + 1)), 5 + 0.4 * np.sin(star)
        sigma = np.full((WIDTH, -(-N_ROWS // 64)), NOISE_E, np.float32) + star
        steady = streak_light(np.zeros((3, 1), np.float32), x, FLUX_E, SIGMA_PX)[:, 0].astype(np.float64)
        states = np.zeros((3, N_ROWS), np.float32)
        states[1] = 0.5 * np.sin(np.arange(N_ROWS) / (15 + star))
        light = streak_light(states, x, FLUX_E, SIGMA_PX) - steady[:, None]
        residual[columns] = residual[columns].astype(np.float32) + light / sigma[0, 0]
        everything = slice(0, N_ROWS)
        streaks.append(
            Streak(star, columns.start + x, FLUX_E, columns, sigma, sigma[:, 0], steady, everything, everything, np.nan)
        )
    residual[3, 50:60] = residual[5, 200:210] = np.nan  # a flank and the core of the first
    return residual, streaks


@pytest.mark.parametrize("follow", [True, False])
def test_stars_side_by_side_are_measured_as_one_alone(follow):
    residual, streaks = amplifier(N_LANES + 3)
    states, errors = measure_states(residual, streaks, SIGMA_PX, follow=follow)
    for streak, state, error in zip(streaks, states, errors, strict=True):
        patch = residual[streak.columns].astype(np.float32) * streak.noise_e[0]
        patch += streak.steady_e[:, None].astype(np.float32)
        fit = follow_state if follow else linear_state
        expected, its_error = fit(patch, streak.noise_e, streak.x - streak.columns.start, FLUX_E, SIGMA_PX)
        np.testing.assert_allclose(state, expected, atol=2e-5)
        np.testing.assert_allclose(error, its_error)
    assert np.isnan(states).any(axis=1).sum() == (10 if follow else 20)


def test_states_are_unknown_in_ramp_and_drain():
    residual, (streak, *_) = amplifier(1)
    streak = Streak(**{**vars(streak), "settled": slice(100, 350)})
    states, _ = measure_states(residual, [streak], SIGMA_PX, follow=True)
    known = np.isfinite(states[0]).all(axis=0)
    assert known[100:350].sum() == 240  # ten rows without their core
    assert not known[:100].any()
    assert not known[350:].any()


def test_limited_states_lie_around_their_mean_within_five_times_their_scatter():
    states = np.zeros((1, 3, 1000), np.float32)
    states[0, 1] = 7 + np.random.default_rng(2).normal(size=1000)
    states[0, 1, 10] = 57.0
    valid = np.ones((1, 1000), dtype=bool)
    valid[0, 20] = False
    limited, means = limit_states(states, valid, np.full((1, 3), 0.1))
    assert means[0, 1] == pytest.approx(7.05, abs=0.1)
    assert limited[0, 1, 20] == 0
    assert limited[0, 1, 10] == pytest.approx(5, abs=0.4)
    assert limited[0, 1].max() == limited[0, 1, 10]
    np.testing.assert_array_equal(limited[0, [0, 2]], 0)

"""The banded fit agrees with dense least squares, finite differences and the simulated values."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.calibration.streaks.deblending import inverse_diagonal
from shutterless.pipeline.calibration.streaks.profile_fit import (
    add_profiles,
    measure_widths,
    misfits,
    profile_taps,
    solve_streaks,
)
from shutterless.pipeline.psf import pixel_profile

N_COLUMNS, HALF = 80, 6


@pytest.fixture
def crowd():
    """Fifteen streaks a few pixels apart, two of them beyond the edges, of slightly different widths."""
    rng = np.random.default_rng(4)
    x = np.linspace(-0.7, 79.9, 15) + rng.uniform(-1, 1, 15) * np.append(0, np.append(np.ones(13), 0))
    return x, rng.uniform(50, 3000, 15), rng.uniform(0.8, 0.9, 15)


def dense(first, taps, kind):
    """The same profiles as a matrix, (x, s)."""
    matrix = np.zeros((N_COLUMNS + 40, len(first)))
    for s, begin in enumerate(first):
        matrix[begin + 20 : begin + 20 + taps.shape[2], s] = taps[s, kind]
    return matrix[20:-20]


def test_profiles_are_those_of_the_point_spread_function_and_their_derivatives_its_differences(crowd):
    x, _, width = crowd
    first, taps = profile_taps(x, width, HALF)
    offsets = first[:, None] + np.arange(2 * HALF + 1) - x[:, None]
    width = width[:, None]
    assert taps[:, 0] == pytest.approx(pixel_profile(offsets, width), abs=1e-12)
    step = 1e-4
    moved = (pixel_profile(offsets - step, width) - pixel_profile(offsets + step, width)) / (2 * step)
    widened = (pixel_profile(offsets, width + step) - pixel_profile(offsets, width - step)) / (2 * step)
    assert taps[:, 1] == pytest.approx(moved, abs=1e-7)
    assert taps[:, 2] == pytest.approx(widened, abs=1e-7)


def test_light_beyond_the_edges_is_lost_and_all_other_is_there(crowd):
    x, flux, width = crowd
    first, taps = profile_taps(x, width, HALF)
    assert add_profiles(first, taps, flux, N_COLUMNS) == pytest.approx(dense(first, taps, 0) @ flux)
    inside = (x > HALF) & (x < N_COLUMNS - 1 - HALF)
    assert add_profiles(first[inside], taps[inside], flux[inside], N_COLUMNS).sum() == pytest.approx(flux[inside].sum())


def test_the_banded_solution_is_that_of_dense_least_squares(crowd):
    x, flux, width = crowd
    rng = np.random.default_rng(5)
    first, taps = profile_taps(x, width, HALF)
    error = rng.uniform(0.5, 2, N_COLUMNS)
    weight = np.where(rng.random(N_COLUMNS) < 0.1, 0.0, error**-2.0)
    signal = dense(first, taps, 0) @ flux + error * rng.standard_normal(N_COLUMNS)
    found, shift, factor = solve_streaks(signal, weight, first, taps)
    design = np.stack([dense(first, taps, 0), dense(first, taps, 1)], axis=2).reshape(N_COLUMNS, -1)
    normal = design.T @ (weight[:, None] * design)
    normal[np.diag_indices_from(normal)] *= np.tile([1 + 1e-9, 1 + 1e-3], len(x))
    expected = np.linalg.solve(normal, design.T @ (weight * signal))
    assert found == pytest.approx(expected[::2], rel=1e-6)
    assert shift == pytest.approx(expected[1::2], rel=1e-5, abs=1e-6)
    assert inverse_diagonal(factor)[::2] == pytest.approx(np.diag(np.linalg.inv(normal))[::2], rel=1e-6)


def test_shifts_tell_by_how_much_positions_are_off():
    first, taps = profile_taps(np.array([30.30]), np.array([0.84]), HALF)
    signal = 1000 * pixel_profile(np.arange(N_COLUMNS) - 30.33, 0.84)
    flux, shift, _ = solve_streaks(signal, np.ones(N_COLUMNS), first, taps)
    assert flux[0] == pytest.approx(1000, rel=2e-3)
    assert shift[0] / flux[0] == pytest.approx(0.03, rel=0.02)


def test_widths_are_measured_with_the_flux_refitted():
    first, taps = profile_taps(np.array([30.3]), np.array([0.84]), HALF)
    for true_px in (0.82, 0.87):
        signal = 1000 * pixel_profile(np.arange(N_COLUMNS) - 30.3, true_px)
        flux, _, _ = solve_streaks(signal, np.ones(N_COLUMNS), first, taps)
        residual = signal - add_profiles(first, taps, flux, N_COLUMNS)
        step, information = measure_widths(residual, np.ones(N_COLUMNS), first, taps, flux)
        assert step[0] == pytest.approx(true_px - 0.84, rel=0.08)
        # of a fit of two numbers, flux and width, each pixel with noise 1: the inverse of the width's variance
        design = np.hstack([dense(first, taps, 0), flux * dense(first, taps, 2)])
        assert information[0] == pytest.approx(1 / np.linalg.inv(design.T @ design)[1, 1])


def test_leaving_out_the_column_that_spoils_a_streak_makes_the_fit_perfect():
    columns = np.arange(25, 36)
    light = 1000 * pixel_profile(columns - 30.3, 0.84)
    light[6] += 200
    found = misfits(columns, light, np.full(11, 2.0), 30.0, 0.84)
    assert found.argmin() == 6
    assert found[6] == pytest.approx(0, abs=1e-3)
    assert np.delete(found, 6).min() > 500
    assert (
        misfits(columns[:1], light[:1], np.ones(1), 30.0, 0.84).min() >= 0
    )  # one column does not constrain two parameters


def test_without_a_streak_there_is_nothing():
    first, taps = profile_taps(np.empty(0), np.empty(0), HALF)
    flux, shift, factor = solve_streaks(np.ones(N_COLUMNS), np.ones(N_COLUMNS), first, taps)
    assert flux.size == shift.size == inverse_diagonal(factor).size == 0
    assert add_profiles(first, taps, flux, N_COLUMNS).tolist() == [0.0] * N_COLUMNS

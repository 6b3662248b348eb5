"""Compiled passes over a streak's columns against the same written in numpy."""

import numpy as np
import pytest

from shutterless.pipeline.calibration.motion.columns import (
    block_averages,
    gather_rows,
    half_bits,
    project_modes,
    project_states,
    subtract_light,
    subtract_modes,
)
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS, interpolate_blocks

N_COLUMNS, N_ROWS, FIRST, WIDTH = 20, 700, 4, 5  # neither blocks nor cached segments divide the rows
N_BLOCKS = -(-N_ROWS // BLOCK_ROWS)
HERE = slice(FIRST, FIRST + WIDTH)


@pytest.fixture
def residual():
    values = np.random.default_rng(1).normal(0, 3, (N_COLUMNS, N_ROWS)).astype(np.float16)
    values[FIRST + 1, 100:103] = np.nan
    return values


def singles(*shape):
    return np.random.default_rng(2).uniform(0.5, 2.0, shape).astype(np.float32)


def test_modes_see_masked_pixels_as_nothing(residual):
    estimators, out = singles(2, WIDTH), np.empty((2, N_ROWS), np.float32)
    project_modes(half_bits(residual), FIRST, estimators, out)
    np.testing.assert_allclose(out, estimators @ np.nan_to_num(residual[HERE].astype(np.float32)), atol=1e-5)


def test_modes_are_taken_off_and_masked_pixels_stay_masked(residual):
    modes, amplitude, before = singles(2, WIDTH), singles(2, N_ROWS), residual.copy()
    subtract_modes(half_bits(residual), FIRST, modes, amplitude)
    expected = (before[HERE].astype(np.float32) - modes.T @ amplitude).astype(np.float16)
    np.testing.assert_allclose(residual[HERE].astype(np.float32), expected.astype(np.float32), atol=0.01)
    np.testing.assert_array_equal(np.delete(residual, HERE, axis=0), np.delete(before, HERE, axis=0))
    assert np.isnan(residual).sum() == 3


def test_states_are_unknown_where_a_pixel_is_masked(residual):
    sigma, gain, offset = singles(WIDTH, N_BLOCKS), singles(3, WIDTH), singles(3)
    out = np.empty((3, N_ROWS), np.float32)
    project_states(half_bits(residual), FIRST, sigma, gain, offset, out)
    electrons = residual[HERE].astype(np.float32) * np.repeat(sigma, BLOCK_ROWS, axis=1)[:, :N_ROWS]
    np.testing.assert_allclose(out, gain @ electrons + offset[:, None], atol=1e-4)
    assert np.isnan(out).sum() == 9


def test_streaks_come_side_by_side(residual):
    first, scale, steady = np.array([FIRST, 9]), singles(2, WIDTH, N_BLOCKS), singles(2, WIDTH)
    rows = np.full((BLOCK_ROWS, WIDTH, 3), -1, np.float32)
    last = N_BLOCKS - 1
    n_rows = gather_rows(half_bits(residual), first, last, scale, steady, rows)
    assert n_rows == N_ROWS - last * BLOCK_ROWS
    for lane, start in enumerate(first):
        light = residual[start : start + WIDTH, last * BLOCK_ROWS :].astype(np.float32).T * scale[lane, :, last]
        np.testing.assert_allclose(rows[:n_rows, :, lane], light + steady[lane], atol=1e-5)
    assert (rows[:, :, 2] == -1).all()


def test_averages_leave_out_what_is_unknown_or_outside():
    light = np.ones((1, 3 * BLOCK_ROWS), np.float32)
    light[0, BLOCK_ROWS : BLOCK_ROWS + 10] = [np.nan, np.inf, *[3] * 8]
    means = np.empty((3, 1), np.float32)
    block_averages(light, 70, 2 * BLOCK_ROWS, means)
    assert means[1, 0] == pytest.approx((3 * 4 + BLOCK_ROWS - 10) / (BLOCK_ROWS - 6))
    assert np.isnan(means[[0, 2]]).all()


@pytest.mark.parametrize("rows", [(0, N_ROWS), (45, 603), (33, 34), (50, 50)])
def test_light_is_taken_off_against_its_level_between_blocks(residual, rows):
    light, level, sigma = singles(WIDTH, N_ROWS), singles(N_BLOCKS, WIDTH), singles(WIDTH, N_BLOCKS)
    light[2, 500] = np.nan
    before = residual.copy()
    subtract_light(half_bits(residual), FIRST, light, level, sigma, *rows)
    inside = slice(*rows)
    apart = light - interpolate_blocks(level, 0, N_ROWS).T
    departure = np.nan_to_num(apart / np.repeat(sigma, BLOCK_ROWS, axis=1)[:, :N_ROWS])[:, inside]
    expected = before.copy()
    expected[HERE, inside] = before[HERE, inside].astype(np.float32) - departure
    np.testing.assert_allclose(residual.astype(np.float32), expected.astype(np.float32), atol=0.01)

"""Block means, running means and what lies between, solved in the head."""

import numpy as np
import pytest

from shutterless.pipeline.calibration.levels.baseline import (
    baseline_blocks,
    block_means,
    reject_outliers,
    running_level,
    running_mean,
)
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS, interpolate_blocks
from shutterless.pipeline.reading.readout import Readout


def test_interpolate_blocks_is_linear_between_centres_and_constant_outside():
    # centres of the two blocks of 4 rows lie on 2 and 6; rows are centred on r + 1/2
    level = np.array([[0.0, 10.0], [4.0, 10.0]], dtype=np.float32)
    rows = interpolate_blocks(level, 0, 8, block_rows=4)
    np.testing.assert_allclose(rows[:, 0], [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4])
    np.testing.assert_allclose(rows[:, 1], 10)
    np.testing.assert_array_equal(interpolate_blocks(level, 3, 6, block_rows=4), rows[3:6])


def test_one_block_is_constant():
    np.testing.assert_array_equal(interpolate_blocks(np.array([[7.0]], dtype=np.float32), 0, 3), [[7], [7], [7]])


def test_running_mean_cuts_its_window_at_the_ends():
    blocks = np.array([[1, 5, 2, 9, 3]], dtype=np.float32).T
    np.testing.assert_allclose(running_mean(blocks, 3, 1)[:, 0], [3, 8 / 3, 16 / 3, 14 / 3, 6], rtol=1e-6)


def test_running_mean_is_linear_between_knots():
    blocks = np.array([[1, 5, 2, 9, 3]], dtype=np.float32).T
    # knots on blocks 0, 2 and 4: 3, 16/3 and 6
    np.testing.assert_allclose(running_mean(blocks, 3, 2)[:, 0], [3, 25 / 6, 16 / 3, 17 / 3, 6], rtol=1e-6)


def test_running_mean_leaves_nan_out_and_borrows_where_there_is_nothing_else():
    nan = np.nan
    blocks = np.array([[1, nan, 3, 9, 5], [nan, nan, nan, nan, nan], [1, nan, nan, nan, 9]], dtype=np.float32).T
    expected = np.array([[1, 2, 6, 17 / 3, 7], [0, 0, 0, 0, 0], [1, 1, 1, 9, 9]]).T
    np.testing.assert_allclose(running_mean(blocks, 3, 1), expected, rtol=1e-6)


def test_an_outlying_block_is_left_out_of_the_level():
    blocks = np.tile(np.array([[1.0], [2.0], [3.0]], dtype=np.float32), (20, 2))
    blocks[30, 0] = 100  # the median is 2, the median distance from it 1: 4 sigma are 5.9
    blocks[31, 1] = 7.8
    rejected = reject_outliers(blocks, window=256)
    np.testing.assert_array_equal(np.argwhere(np.isnan(rejected)), [[30, 0]])
    np.testing.assert_array_equal(rejected[~np.isnan(rejected)], blocks[~np.isnan(rejected)])


@pytest.mark.parametrize(("row_rate_hz", "blocks"), [(1.0, 8), (20.0, 17), (300.0, 256), (1000.0, 853)])
def test_window_is_as_long_in_time_at_every_row_rate(row_rate_hz, blocks):
    """54.6 s in blocks of 64 rows; at a row a second half a thousand rows."""
    assert baseline_blocks(Readout(row_rate_hz, 6.2, 10.0, 48_000.0, 3080)) == blocks


def test_a_short_window_follows_a_drift_and_rejects_none_of_it():
    """A slope over 200 blocks under windows of 17: only a block that stands 100 off is an outlier."""
    slope = np.arange(200, dtype=np.float32)[:, None]
    loud = slope + np.where(np.arange(200) == 100, np.float32(100), np.float32(0))[:, None]
    rejected = reject_outliers(loud, window=17)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(rejected[:, 0])), [100])
    np.testing.assert_allclose(running_level(slope, window=17)[8:-8], slope[8:-8], atol=1e-3)


def test_block_mean_leaves_out_a_spike_and_masked_first_rows():
    column = np.full((BLOCK_ROWS, 1), 50.0, dtype=np.float32)
    column[30] = 5000
    assert block_means(column, BLOCK_ROWS, 5.0, 4.0)[0, 0] == 50
    column[:20] = np.nan
    assert block_means(column, BLOCK_ROWS, 5.0, 4.0)[0, 0] == 50
    column[: BLOCK_ROWS - 8] = np.nan  # an eighth of the rows is too few
    assert np.isnan(block_means(column, BLOCK_ROWS, 5.0, 4.0)[0, 0])

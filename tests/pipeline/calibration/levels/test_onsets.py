"""Steps of a column, found and placed."""

from itertools import pairwise

import numpy as np

from shutterless.pipeline.calibration.levels.onsets import (
    _isotonic_starts,
    _merge_steps,
    _place_step,
    bin_means,
    find_onsets,
)
from shutterless.pipeline.psf import pixel_profile


def test_isotonic_regression_pools_what_falls():
    assert _isotonic_starts(np.array([1.0, 2.0, 3.0])).tolist() == [0, 1, 2, 3]
    assert _isotonic_starts(np.array([1.0, 5.0, 2.0, 9.0])).tolist() == [0, 1, 3, 4]  # 5 and 2 become 3.5
    assert _isotonic_starts(np.array([3.0, 1.0, 2.0])).tolist() == [0, 3]


def test_isotonic_regression_sorts_each_block():
    values = np.repeat([0.0, 2.0, 5.0], 50) + np.random.default_rng(3).normal(0, 1, 150)
    ordered = values.copy()
    blocks = [slice(start, stop) for start, stop in pairwise(_isotonic_starts(ordered))]
    assert all(ordered[block].tolist() == sorted(values[block]) for block in blocks)
    assert np.all(np.diff([np.median(values[block]) for block in blocks]) > 0)


def test_step_is_placed_where_the_sum_over_all_rows_is_highest():
    series = np.random.default_rng(4).normal(0, 20, 3000) + np.where(np.arange(3000) >= 1234, 5.0, 0.0)
    gains = np.clip((2.5 - series) / 5, -1, 1)
    assert _place_step(series, 0, 3000, 0.0, 5.0) == 1 + np.argmax(np.cumsum(gains))


def test_steps_near_a_stronger_one_are_its_own():
    x, row, height = np.array([10, 12, 14, 15]), np.array([100, 104, 100, 100]), np.array([5.0, 9.0, 1.0, 2.0])
    accepted, highest = _merge_steps(x, row, height, np.array([1.0, 4.0, 1.0, 1.0]), 20)
    assert (accepted.tolist(), highest.tolist()) == ([0, 3], [1, 3])  # 15 is five columns from 10


def test_step_is_placed_on_its_row_though_a_cosmic_ray_is_near():
    series = np.repeat([0.0, 10.0], 40)
    assert _place_step(series, 0, 80, 0.0, 10.0) == 40
    series[35] = 1000
    assert _place_step(series, 0, 80, 0.0, 10.0) == 40


def test_bins_are_means_and_a_shorter_last_one_keeps_its_own():
    rows = np.repeat(np.arange(5.0), 8)[:, None]
    np.testing.assert_array_equal(bin_means(rows)[:, 0], [0.5, 2.5, 4])


def test_a_star_that_begins_in_the_middle_of_a_bin_is_one_step_in_its_own_column():
    """A step half-way through a bin of 16 rows leaves a bin between the two levels, which belongs to neither."""
    rng = np.random.default_rng(1)
    light = 800 * pixel_profile(np.arange(40) - 20.2, 0.84)
    rows = 300 + np.where(np.arange(2000)[:, None] >= 1000, light, 0) + rng.normal(0, 20, (2000, 40))
    x, row, height = find_onsets(rows.astype(np.float32), np.full(2000, 20.0), 0.84, dark_e=None)
    assert (x[0], row[0]) == (20, 1000)
    assert 700 < height[0] < 850
    assert not np.any((np.abs(x[1:] - 20) <= 4) & (np.abs(row[1:] - 1000) <= 3))

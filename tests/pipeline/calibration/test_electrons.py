"""ADU to electrons, solved in the head."""

import numpy as np
import pytest

from shutterless.pipeline.calibration.electrons import dropped_rows, overscan_level, to_electrons, undo_serial_trap
from shutterless.pipeline.calibration.serial_trap import apply_serial_trap
from shutterless.pipeline.reading.instruments import SerialTrap


def test_overscan_level_is_the_mean_of_the_used_columns():
    overscan = np.array([[250, 1, 2, 3], [250, 4, 5, 6], [250, 7, 8, 9]])
    np.testing.assert_allclose(overscan_level(overscan, (1, 4)), [2, 5, 8])


def test_cosmic_ray_in_the_overscan_counts_as_five_sigma():
    overscan = np.array([[1, 2, 1000], [4, 5, 6], [7, 8, 9]])
    # medians 2, 5, 8; distances from them 1 0 998 1 0 1 1 0 1, whose median is 1: sigma 1.4826, limit 2 + 7.413
    np.testing.assert_allclose(overscan_level(overscan, (0, 3)), [(1 + 2 + 9.413) / 3, 5, 8], rtol=1e-6)


def test_bias_of_each_row_is_taken_off_before_the_gain(tiny_profile, make_frame):
    frame = make_frame([[110, 120], [110, 120], [110, 120]], tiny_profile)
    electrons = to_electrons(frame.pixels_adu, np.array([100.0, 105.0, 110.0]), frame)
    np.testing.assert_allclose(electrons, [[20, 40], [10, 30], [0, 20]])


def test_saturated_pixels_are_nan(tiny_profile, make_frame):
    frame = make_frame([[110, 39_999], [40_000, 50_000]], tiny_profile)
    electrons = to_electrons(frame.pixels_adu, np.full(2, 100.0), frame)
    np.testing.assert_array_equal(np.isnan(electrons), [[False, False], [True, True]])


def test_nonlinearity_is_that_of_ztfimg(make_frame):
    frame = make_frame([[30_100, 1_100]], "ztf", gain_e_per_adu=1.0, saturation_adu=48_000.0)
    # 30,000 / (-6.85e-12 * 9e8 + 1.885e-7 * 3e4 + 1) = 30,000 / 0.99949
    np.testing.assert_allclose(to_electrons(frame.pixels_adu, np.full(1, 100.0), frame), [[30_015.3, 999.8]], atol=0.05)


def test_a_row_of_one_value_without_light_was_dropped():
    pixels = np.array([[0, 0, 0], [150, 150, 150], [100, 100, 101], [90, 90, 90]])
    # the second may be a very even sky, the third has noise, the fourth lies below its bias
    np.testing.assert_array_equal(dropped_rows(pixels, np.full(4, 100.0)), [True, False, False, True])


def test_dropped_rows_are_masked(tiny_profile, make_frame):
    frame = make_frame([[110, 120], [0, 0], [110, 120]], tiny_profile)
    electrons = to_electrons(frame.pixels_adu, np.array([100.0, 0.0, 100.0]), frame)
    np.testing.assert_array_equal(np.isnan(electrons), [[False] * 2, [True] * 2, [False] * 2])


EFFECT = SerialTrap(capacity_e=756.0, exponent=1.52, flux_exponent=0.372, full_well_e=3.2e5)


def test_the_serial_trap_is_undone_in_electrons():
    charge = np.tile(np.array([300.0, 320.0, 900.0, 640.0, 310.0, 290.0]), (20, 1)).astype(np.float32)
    read = charge.copy()
    apply_serial_trap(read, EFFECT)
    assert np.abs(read - charge).max() > 20
    for steady in (slice(0, 20), slice(0, 0), slice(5, 18)):
        electrons = read.copy()
        undo_serial_trap(electrons, EFFECT, steady)
        assert electrons == pytest.approx(charge, abs=0.5)
    electrons = read.copy()
    undo_serial_trap(electrons, None, slice(0, 20))
    np.testing.assert_array_equal(electrons, read)


def test_in_dim_rows_the_serial_trap_is_undone_without_more_noise():
    """Read noise of 10 e- on 30 e- of sky grows by a third if corrected pixel by pixel, and not by means of rows."""
    rng = np.random.default_rng(1)
    charge = rng.poisson(30, (640, 200)).astype(np.float32)
    apply_serial_trap(charge, EFFECT)
    read = charge + rng.normal(0, 10, charge.shape).astype(np.float32)
    by_pixel, by_mean = read.copy(), read.copy()
    undo_serial_trap(by_pixel, EFFECT, slice(0, 640))
    undo_serial_trap(by_mean, EFFECT, slice(0, 0))
    assert by_pixel[:, 20:].std() > 1.2 * read[:, 20:].std()
    assert by_mean[:, 20:].std() == pytest.approx(read[:, 20:].std(), rel=0.02)
    assert by_mean[:, 20:].mean() == pytest.approx(30, abs=1)

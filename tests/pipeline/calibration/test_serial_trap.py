"""The serial trap takes from the first bright pixel, gives to the next, keeps the sum, and can be undone."""

import numpy as np
import pytest

from shutterless.pipeline.calibration.serial_trap import apply_serial_trap, noise_gain, photon_gain, remove_serial_trap
from shutterless.pipeline.reading.instruments import SerialTrap

# medians of Regnault et al. 2025 (arXiv:2509.04073)
EFFECT = SerialTrap(capacity_e=756.0, exponent=1.52, flux_exponent=0.372, full_well_e=3.2e5)


def read(rows: np.ndarray, effect: SerialTrap = EFFECT) -> np.ndarray:
    out = np.array(rows, dtype=np.float64)
    apply_serial_trap(out, effect)
    return out


def test_first_pixel_loses_what_an_empty_serial_trap_takes():
    # x = 0: in = 756 (1000 / 3.2e5)^0.372 = 756 x 0.11695 = 88.4, nothing is released
    assert read([[1000.0]])[0, 0] == pytest.approx(1000 - 756 * (1000 / 3.2e5) ** 0.372, rel=1e-3)


def test_second_pixel_gets_some_of_it_back():
    """With q = in(1000) held, x = q / 756: out = 756 x^1.52, in = 756 (1 - x)^1.52 (n / nmax)^0.372."""
    held = 756 * (1000 / 3.2e5) ** 0.372
    x = held / 756
    expected = 1000 + 756 * x**1.52 - 756 * (1 - x) ** 1.52 * (1000 / 3.2e5) ** 0.372
    assert read([[1000.0, 1000.0]])[0, 1] == pytest.approx(expected, rel=1e-3)


def test_first_bright_column_of_a_streak_loses_ten_to_seventeen_percent_of_its_star():
    """On a sky of 314 e-, an r = 13 star's first bright column of 60 e-."""
    sky = np.full((1, 60), 314.0)
    bright = sky.copy()
    bright[0, 40] += 60
    lost = (60 - (read(bright) - read(sky))[0, 40]) / 60
    assert 0.04 < lost < 0.17


def test_charge_is_moved_not_lost():
    rows = np.random.default_rng(1).poisson(314, (4, 200)).astype(float)
    rows[:, 150:] = 0  # the serial trap empties in the overscan
    np.testing.assert_allclose(read(rows).sum(axis=1), rows.sum(axis=1), rtol=2e-4)


def test_reading_leans_towards_later_columns():
    streak = np.full((1, 41), 314.0) + 500 * np.exp(-0.5 * ((np.arange(41) - 20) / 0.84) ** 2)
    change = (read(streak) - streak)[0]
    assert change[19] < -5
    assert change[21] > 5


def test_undoing_gives_the_charge_back():
    rng = np.random.default_rng(2)
    rows = rng.poisson(314, (20, 500)).astype(np.float32)
    rows[:, 200:205] += np.array([50, 300, 600, 300, 50], dtype=np.float32)
    seen = rows.copy()
    apply_serial_trap(seen, EFFECT)
    assert np.abs(seen - rows).max() > 30
    remove_serial_trap(seen, EFFECT)
    np.testing.assert_allclose(seen, rows, atol=0.5)
    np.testing.assert_allclose(seen[:, 5:].mean(axis=0), rows[:, 5:].mean(axis=0), atol=0.05)


def test_masked_pixels_stay_masked_and_the_serial_trap_passes_them_by():
    rows = np.full((1, 30), 314.0)
    seen = read(rows)
    seen[0, 20] = np.nan
    remove_serial_trap(seen, EFFECT)
    assert np.isnan(seen[0, 20])
    np.testing.assert_allclose(np.delete(seen[0], 20), 314, atol=0.5)


def test_rows_do_not_touch_each_other():
    rows = np.random.default_rng(3).poisson(400, (37, 64)).astype(float)
    together = read(rows)
    for function in (apply_serial_trap, remove_serial_trap):
        alone = rows.copy()
        together = rows.copy()
        function(together, EFFECT)
        for row in alone:
            function(row[None], EFFECT)
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("function", [apply_serial_trap, remove_serial_trap])
def test_a_serial_trap_without_room_does_nothing(function):
    rows = np.random.default_rng(4).poisson(314, (3, 40)).astype(float)
    before = rows.copy()
    function(rows, EFFECT.scaled(0.0))
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("sky_e", [100.0, 314.0])
def test_gains_are_those_of_simulated_noise(sky_e):
    rng = np.random.default_rng(5)
    photons = rng.poisson(sky_e, (2000, 200)).astype(np.float64)
    apply_serial_trap(photons, EFFECT)
    assert photons[:, 20:].var() / sky_e == pytest.approx(photon_gain(np.array([sky_e]), EFFECT)[0], rel=0.02)
    read = np.full((2000, 200), sky_e)
    apply_serial_trap(read, EFFECT)
    read += rng.normal(0, 3, read.shape)
    remove_serial_trap(read, EFFECT)
    assert read[:, 20:].var() / 9 == pytest.approx(noise_gain(sky_e, EFFECT), rel=0.03)


def test_no_serial_trap_changes_no_noise():
    assert noise_gain(314.0, EFFECT.scaled(0.0)) == 1
    assert photon_gain(np.array([314.0]), EFFECT.scaled(0.0)) == pytest.approx(1)
    assert noise_gain(0.0, EFFECT) == 1

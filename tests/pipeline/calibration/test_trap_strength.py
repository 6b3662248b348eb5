"""The strength of the serial trap, put into noise and measured from it."""

import numpy as np
import pytest

from shutterless.pipeline.calibration.serial_trap import apply_serial_trap
from shutterless.pipeline.calibration.trap_strength import measure_strength, neighbour_covariance
from shutterless.pipeline.reading.instruments import SerialTrap

EFFECT = SerialTrap(capacity_e=756.0, exponent=1.52, flux_exponent=0.372, full_well_e=3.2e5)
SKY_E, READ_NOISE_E = 314.0, 10.0


def sky_rows(strength: float, shape=(1024, 600), seed: int = 1, star_columns: int = 0) -> np.ndarray:
    """Poisson sky through the serial trap, then read noise; the first columns have stars."""
    rng = np.random.default_rng(seed)
    mean = np.full(shape[1], SKY_E)
    mean[:star_columns] += 200
    rows = rng.poisson(mean, shape).astype(float)
    apply_serial_trap(rows, EFFECT.scaled(strength))
    return (rows + rng.normal(0, READ_NOISE_E, shape)).astype(np.float32)


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
def test_strength_is_measured(strength):
    # 614,000 pairs of 414 e-²: the covariance of 10.8 e-² at a strength of 1 is known to 0.5
    assert measure_strength(sky_rows(strength), EFFECT) == pytest.approx(strength, rel=0.1, abs=0.07)


def test_nothing_is_found_where_there_is_none():
    assert measure_strength(sky_rows(0.0), EFFECT) == 0


def test_star_columns_and_cosmic_rays_do_not_count():
    rows = sky_rows(1.0, star_columns=200)
    phase = np.arange(100).repeat(2)  # stars two columns wide that sway, each by itself
    rows[:, :200] += (50 * np.sin(0.3 * np.arange(1024)[:, None] + phase)).astype(np.float32)
    rows[100:110, 300:306] += 3000
    rows[7] = np.nan  # a dropped row
    assert measure_strength(rows, EFFECT) == pytest.approx(1.0, abs=0.12)


def test_too_few_sky_pixels_tell_nothing():
    assert measure_strength(sky_rows(1.0, (100, 600)), EFFECT) == 0
    assert measure_strength(np.full((5, 9), np.nan), EFFECT) == 0
    crowded = sky_rows(1.0) + np.arange(600) % 7 * 50  # no two columns of the same level side by side
    assert measure_strength(crowded.astype(np.float32), EFFECT) == 0


def test_a_covariance_beyond_any_serial_trap_is_no_serial_trap():
    noise = np.random.default_rng(2).normal(0, 20, (1024, 601))
    smeared = (SKY_E + noise[:, 1:] + noise[:, :-1]).astype(np.float32)
    assert measure_strength(smeared, EFFECT) == 0


def test_covariance_of_neighbours_is_that_of_simulated_noise():
    rows = np.random.default_rng(3).poisson(SKY_E, (4000, 300)).astype(float)
    apply_serial_trap(rows, EFFECT)
    rows = rows[:, 20:] - rows[:, 20:].mean(axis=0)
    measured = np.mean(rows[:, 1:] * rows[:, :-1])
    # 1.1 million pairs of 314 e-²
    assert neighbour_covariance(SKY_E, EFFECT) == pytest.approx(measured, abs=4 * SKY_E / np.sqrt(1.1e6))
    assert neighbour_covariance(SKY_E, EFFECT.scaled(0.0)) == pytest.approx(0, abs=1e-9)

"""Flickering and oscillations: the extreme at time 0, the given spectrum, and exact smearing."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.events.red_noise import QPO_QUALITY, NoiseWaves, flickering_waves, qpo_waves
from shutterless.pipeline.psf import pixel_profile

SIGMA = 0.84


@pytest.mark.parametrize("waves", [flickering_waves(1.5, 7), flickering_waves(2.5, 8), qpo_waves(9)])
def test_extreme_is_one_at_time_zero(waves):
    light = waves.light_curve(np.arange(-8000.0, 8001.0), 16_000.0, 1e-6)
    assert light[8000] == pytest.approx(1.0, abs=1e-3)
    assert np.abs(light).max() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("exponent", [1.5, 2.0, 2.5])
def test_flickering_has_the_spectrum_asked_for(exponent):
    """Mean power over 30 realisations: a straight line of that slope in logarithms."""
    waves = [flickering_waves(exponent, n) for n in range(30)]
    power = np.mean([w.amplitude**2 / w.rms**2 for w in waves], axis=0)
    slope = np.polyfit(np.log(waves[0].frequency), np.log(power), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


def test_oscillations_keep_to_their_period():
    frequencies = np.concatenate([qpo_waves(n).frequency for n in range(100)])
    assert np.median(frequencies) == pytest.approx(1.0, abs=0.01)
    # half of a Lorentzian lies within half its full width, 1 / (2 Q), of the middle
    share = np.mean(np.abs(frequencies - 1) < 1 / (2 * QPO_QUALITY))
    assert share == pytest.approx(0.5 / (2 * np.arctan(QPO_QUALITY) / np.pi), abs=0.04)
    assert np.abs(frequencies - 1).max() <= 0.5


def test_rms_is_that_of_a_long_light_curve():
    waves = flickering_waves(1.5, 3)
    light = waves.light_curve(np.arange(0.0, 4000.0), 4000.0, 1e-6)  # one whole period of every wave
    assert light.std() == pytest.approx(waves.rms, rel=0.01)
    assert light.mean() == pytest.approx(0.0, abs=1e-9)


def test_rows_and_optics_smear_as_by_brute_force():
    """A wave of 7 rows, summed over 1/100 rows each spread by the pixel-integrated point-spread function."""
    wave = NoiseWaves(np.array([1.0]), np.array([1.0]), np.array([0.4]))
    rows, fine = np.arange(40.0), np.arange(-30, 70, 0.01) + 0.005
    spread = pixel_profile(rows[:, None] - fine, SIGMA)
    expected = 0.01 * spread @ np.cos(2 * np.pi * fine / 7 + 0.4)
    np.testing.assert_allclose(wave.light_curve(rows, 7.0, SIGMA), expected, atol=1e-5)


def test_same_realisation_same_light():
    offsets = np.arange(50.0)
    one, other = (flickering_waves(2.0, n).light_curve(offsets, 900.0, SIGMA) for n in (4, 5))
    flickering_waves.cache_clear()
    np.testing.assert_array_equal(flickering_waves(2.0, 4).light_curve(offsets, 900.0, SIGMA), one)
    assert not np.allclose(one, other)

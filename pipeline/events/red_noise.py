"""Model flickering and quasi-periodic oscillations of stars as sums of waves, exact at any row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np

FLICKERING_WAVES = 256
QPO_WAVES, QPO_QUALITY = 24, 10.0
_STEPS = 4096  # at which the extreme is searched


@dataclass(frozen=True)
class NoiseWaves:
    """A zero-mean light curve ``Σ a cos(2π f t + φ)``, time in units of the event's scale.

    Its extreme value lies at time 0 and is +1; outside the range in which it was searched, others may exceed it.

    Parameters
    ----------
    frequency, amplitude, phase : ndarray of float64, shape (w,)
        Cycles per scale, and phase (radians) at time 0.
    """

    frequency: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray

    @property
    def rms(self) -> float:
        """Standard deviation over a long time, in units of the extreme value."""
        return float(np.sqrt(np.sum(self.amplitude**2) / 2))

    def light_curve(self, offsets: np.ndarray, scale_rows: float, sigma_rows: float) -> np.ndarray:
        """Mean over each row, smeared by the point-spread function; shape (t,).

        Parameters
        ----------
        offsets : ndarray of float64, shape (t,)
            Rows from the extreme value, one apart.
        scale_rows, sigma_rows : float

        Notes
        -----
        Averaging over a row multiplies a wave by ``sin(πf)/(πf)``, a Gaussian of width σ by ``exp(-2π²σ²f²)``, with f
        in cycles per row.
        """
        cycles = self.frequency / scale_rows
        amplitude = self.amplitude * np.sinc(cycles) * np.exp(-2 * (np.pi * sigma_rows * cycles) ** 2)
        return _sum_waves(float(offsets[0]), len(offsets), cycles, amplitude, self.phase)


@lru_cache(maxsize=64)
def flickering_waves(exponent: float, realisation: int) -> NoiseWaves:
    """Red noise of power f^-exponent from one cycle per scale up to `FLICKERING_WAVES`.

    Parameters
    ----------
    exponent : float
        Flickering of cataclysmic variables has 1.5 to 2.5 (Bruch 1992, A&A 266, 237).
    realisation : int
        Seed; the same number gives the same light curve.

    Notes
    -----
    Timmer & König 1995 (A&A 300, 707): real and imaginary parts of each Fourier component are Gaussian with a variance
    proportional to the power.
    """
    rng = np.random.default_rng(realisation)
    frequency = np.arange(1, FLICKERING_WAVES + 1, dtype=np.float64)
    return _normalise(frequency, _gaussian(rng, frequency.size) * frequency ** (-exponent / 2), 0.0, 1.0)


@lru_cache(maxsize=64)
def qpo_waves(realisation: int) -> NoiseWaves:
    """Oscillation with a mean frequency of one cycle per scale that loses its phase over about ten periods.

    Notes
    -----
    A Lorentzian power spectrum of quality `QPO_QUALITY` (van der Klis 1989, ARA&A 27, 517), drawn as waves whose
    frequencies are distributed like it, no further than half the mean frequency from it.
    """
    rng = np.random.default_rng(realisation)
    widest = np.arctan(QPO_QUALITY) / np.pi  # tan(π p) / (2 Q) = 1/2
    frequency = 1 + np.tan(np.pi * rng.uniform(-widest, widest, QPO_WAVES)) / (2 * QPO_QUALITY)
    return _normalise(frequency, _gaussian(rng, QPO_WAVES), -2.0, 2.0)


def _gaussian(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n) + 1j * rng.standard_normal(n)


def _normalise(frequency: np.ndarray, component: np.ndarray, start: float, stop: float) -> NoiseWaves:
    """Shift and scale waves so that their extreme value between two times is +1 at time 0."""
    step = (stop - start) / _STEPS
    phase = np.angle(component) + 2 * np.pi * frequency * start
    values = _sum_waves(0.0, _STEPS, frequency * step, np.abs(component), phase)
    extreme = int(np.argmax(np.abs(values)))
    turned = component * np.exp(2j * np.pi * frequency * (start + extreme * step)) / values[extreme]
    return NoiseWaves(frequency, np.abs(turned), np.angle(turned))


@numba.njit(cache=True, nogil=True)
def _sum_waves(first, n, cycles, amplitude, phase):  # pragma: no cover - compiled
    """``Σ a cos(2π c k + φ)`` at ``n`` steps of 1 from ``first``, each step one turn further."""
    total = np.zeros(n)
    for wave in range(len(cycles)):
        angle = 2 * np.pi * cycles[wave]
        value = amplitude[wave] * np.exp(1j * (angle * first + phase[wave]))
        turn = np.exp(1j * angle)
        for step in range(n):
            total[step] += value.real
            value *= turn
    return total

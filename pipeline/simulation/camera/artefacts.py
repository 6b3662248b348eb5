"""Draw cosmic rays and electronic pickup, with the numbers for the truth table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# 2.4 hits a minute and cm² (Groom 2002, Exp. Astron. 14, 45) on 3080 x 3072 pixels of 15 µm
COSMIC_RAYS_PER_PIXEL_S = 0.85 / (3080 * 3072)
PICKUP_BURSTS_PER_S = 0.02
MAINS_HZ = (60.0, 120.0)
# bias drift (rms), and the part of its variance that the amplifiers of a CCD share through their supplies (choices)
DRIFT_E, DRIFT_COMMON_SHARE = 3.0, 0.5

# 1 muon a minute and cm² hits a horizontal detector at sea level (Particle Data Group, review of cosmic rays), and 20 %
# more at 1,700 m, which is half of all hits. The others are the wandering "worms" of electrons that gamma rays from the
# surroundings release (Groom 2002)
_MUON_SHARE = 0.5
_TILT_DEG = 34.0  # zenith distance of the telescope at airmass 1.2
# e2v's traditional thinned CCDs; their deep-depletion silicon is 40 µm (Jorden et al. 2010, Proc. SPIE 7742)
_THICKNESS_UM, _PIXEL_UM = 16.0, 15.0
# a minimum-ionising particle's most probable charge per µm of silicon and the scale of its Landau tail (electrons)
_PAIRS_PER_UM, _TAIL_PER_UM = 70.0, 8.0
_LEAST_COSINE = 0.005  # more grazing muons, with tracks above 200 px, are not drawn
_WORM_PX, _WORM_CHARGE_SCATTER = (0.5, 40.0), 0.4
_LEAST_CHARGE_E = 100.0
_DIFFUSION_PX = 0.25  # spread of the charge in the silicon: far sharper than any seeing
_STEPS_PER_PX = 8


@dataclass(frozen=True)
class CosmicRay:
    """Charge left by one particle.

    Parameters
    ----------
    rows, columns : ndarray of int, shape (p,)
        Pixels hit, each once.
    charge_e : ndarray of float64, shape (p,)
        Electrons in each.
    """

    rows: np.ndarray
    columns: np.ndarray
    charge_e: np.ndarray


@dataclass(frozen=True)
class PickupBurst:
    """Interference that adds ``offsets_e`` electrons to every column of rows ``first_row`` onwards."""

    first_row: int
    offsets_e: np.ndarray


@dataclass(frozen=True)
class RowWaves:
    """Row-correlated noise as a sum of sinusoids, which is continuous over the files of a sequence.

    Parameters
    ----------
    frequencies_hz, amplitudes_e, phases : ndarray of float64, shape (w,)
    """

    frequencies_hz: np.ndarray
    amplitudes_e: np.ndarray
    phases: np.ndarray

    def offsets_e(self, sequence_rows: np.ndarray, row_rate_hz: float) -> np.ndarray:
        """Electrons added to all columns and the overscan of each row, shape (t,)."""
        seconds = np.asarray(sequence_rows, dtype=np.float64) / row_rate_hz
        total = np.zeros_like(seconds)
        for frequency, amplitude, phase in zip(self.frequencies_hz, self.amplitudes_e, self.phases, strict=True):
            total += amplitude * np.sin(2 * np.pi * frequency * seconds + phase)
        return total


def draw_mains(rng: np.random.Generator, rms_e: float = 2.0) -> RowWaves:
    """Draw pickup of the mains and its first harmonic, in phase for all amplifiers with the same generator."""
    amplitudes = np.sqrt(2 / len(MAINS_HZ)) * rms_e * rng.uniform(0.7, 1.3, len(MAINS_HZ))
    return RowWaves(np.array(MAINS_HZ), amplitudes, rng.uniform(0, 2 * np.pi, len(MAINS_HZ)))


def draw_drift(rng: np.random.Generator, rms_e: float = DRIFT_E, n_waves: int = 48) -> RowWaves:
    """Draw bias drift with a 1/f power spectrum between 0.01 and 20 Hz: equal power in every octave."""
    frequencies = np.exp(rng.uniform(np.log(0.01), np.log(20.0), n_waves))
    amplitudes = np.full(n_waves, rms_e * np.sqrt(2 / n_waves))
    return RowWaves(frequencies, amplitudes, rng.uniform(0, 2 * np.pi, n_waves))


def draw_pickup_bursts(rng: np.random.Generator, n_rows: int, row_rate_hz: float) -> list[PickupBurst]:
    """Draw rare strong interference: one to six rows of 15 to 100 electrons, of either sign or ringing."""
    bursts = []
    for _ in range(rng.poisson(PICKUP_BURSTS_PER_S * n_rows / row_rate_hz)):
        length = int(rng.integers(1, 7))
        first_row = int(rng.integers(0, max(n_rows - length, 0) + 1))
        strength = np.exp(rng.uniform(np.log(15.0), np.log(100.0))) * rng.choice([-1.0, 1.0])
        ringing = np.where(rng.random() < 0.5, np.cos(np.pi * np.arange(length)), 1.0)
        bursts.append(
            PickupBurst(first_row, (strength * ringing * rng.uniform(0.5, 1.0, length))[: n_rows - first_row])
        )
    return bursts


def draw_cosmic_rays(
    rng: np.random.Generator, rows: Sequence[int] | np.ndarray, n_columns: int, row_rate_hz: float, n_transit: int
) -> list[CosmicRay]:
    """Draw the cosmic rays of one amplifier and file.

    Parameters
    ----------
    rows : sequence of int, length t
        Sequence rows of the file.
    n_columns : int
    row_rate_hz : float
    n_transit : int
        Rows of the detector; in steady state the rate is `COSMIC_RAYS_PER_PIXEL_S` times the detector's pixels.

    Notes
    -----
    A hit at time t on detector row y is read in row ``v t + y``. So hits are uniform over read rows that were on the
    detector for a full transit, and rarer in the first rows in proportion to their time on it. They do not depend on
    the shutter.
    """
    n_rows = len(rows)
    expected = COSMIC_RAYS_PER_PIXEL_S * n_columns * n_transit * n_rows / row_rate_hz
    rays = []
    for _ in range(rng.poisson(expected)):
        row, column = rng.uniform(-0.5, n_rows - 0.5), rng.uniform(-0.5, n_columns - 0.5)
        exposed = min(rows[int(np.rint(row))], n_transit) / n_transit
        ray = draw_cosmic_ray(rng, row, column, n_rows, n_columns)
        if rng.random() < exposed and ray.charge_e.sum() > 0:
            rays.append(ray)
    return rays


def draw_cosmic_ray(rng: np.random.Generator, row: float, column: float, n_rows: int, n_columns: int) -> CosmicRay:
    """Draw one cosmic ray that starts at a given place: a muon's straight track, or an electron's worm.

    Its charge is spread along the track and, by a quarter of a pixel, across it. Charge beyond the detector is lost.
    """
    path, charge = _draw_muon(rng) if rng.random() < _MUON_SHARE else _draw_worm(rng)
    path = path + np.array([row, column])
    path = path + _DIFFUSION_PX * rng.standard_normal(path.shape)
    share = rng.dirichlet(np.full(len(path), 2.0))
    pixels = np.rint(path).astype(np.int64)
    inside = np.all((pixels >= 0) & (pixels < [n_rows, n_columns]), axis=1)
    hit, index = np.unique(pixels[inside], axis=0, return_inverse=True)
    charge_e = np.bincount(index.ravel(), weights=max(charge, _LEAST_CHARGE_E) * share[inside], minlength=len(hit))
    return CosmicRay(hit[:, 0], hit[:, 1], charge_e)


def _draw_muon(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Points of a straight track from (0, 0), shape (p, 2), and its charge.

    Notes
    -----
    The intensity of muons goes with ``cos²`` of the zenith angle; the detector is tilted with the telescope. Steep
    muons hit about one pixel, and one muon in about a hundred leaves a straight track of more than ten. The charge is
    that of the path in silicon, with Moyal's approximation of Landau's distribution (Moyal 1955, Phil. Mag. 46, 263).
    """
    cosine = _draw_cosine(rng)
    path_um = _THICKNESS_UM / cosine
    length = path_um * np.sqrt(1 - cosine**2) / _PIXEL_UM
    moyal = -2 * np.log(abs(rng.standard_normal()) + 1e-12)
    return _draw_track(rng, length, wander=0.0), path_um * (_PAIRS_PER_UM + _TAIL_PER_UM * moyal)


def _draw_cosine(rng: np.random.Generator) -> float:
    """Cosine of a muon's angle to the normal of the detector, including the projection of the detector's area."""
    tilt = np.radians(_TILT_DEG)
    while True:
        vertical, azimuth = np.cbrt(rng.random()), rng.uniform(0, 2 * np.pi)
        sideways = np.sqrt(1 - vertical**2) * np.cos(azimuth)
        cosine = abs(vertical * np.cos(tilt) + sideways * np.sin(tilt))
        if cosine > _LEAST_COSINE and rng.random() < cosine:
            return float(cosine)


def _draw_worm(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Points of a scattered electron's path from (0, 0), shape (p, 2), and its charge, proportional to the length."""
    length = np.exp(rng.uniform(*np.log(_WORM_PX)))
    scatter = np.exp(_WORM_CHARGE_SCATTER * rng.standard_normal())
    # its direction changes by about one radian per pixel
    return _draw_track(rng, length, wander=1.0), length * _PIXEL_UM * _PAIRS_PER_UM * scatter


def _draw_track(rng: np.random.Generator, length: float, wander: float) -> np.ndarray:
    """Points along a track from (0, 0) whose direction changes by ``wander`` radians per pixel, (p, 2)."""
    n_steps = max(int(length * _STEPS_PER_PX), 4)
    direction = np.full(n_steps, rng.uniform(0, 2 * np.pi))
    if wander > 0:
        direction = direction + np.cumsum(rng.normal(0.0, wander / np.sqrt(_STEPS_PER_PX), n_steps))
    return np.cumsum(length / n_steps * np.stack([np.cos(direction), np.sin(direction)], axis=-1), axis=0)


def cosmic_ray_light_curve(ray: CosmicRay) -> np.ndarray:
    """Charge of one cosmic ray per row from its first row to its last, shape (t,)."""
    return np.bincount(ray.rows - ray.rows.min(), weights=ray.charge_e)

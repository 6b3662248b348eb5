"""Simulate the effects of the air on stars: scintillation, image motion, changes of focus and seeing, thin cloud.

All of these except scintillation are shared by the stars of an amplifier. They are functions of *star time*, the
seconds since the shutter opened, ``(row - y0) / row rate``, so a motion of all stars at one moment appears in different
rows of each. A series can be evaluated at any time, so the files of a sequence join whichever task makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.special import ndtr

# waves of a series, with frequencies in units of 1 / correlation time, 26 in a decade
_N_WAVES, _LOWEST, _HIGHEST = 96, 0.01, 50.0
# rows of scintillation noise from one generator, and correlation times after which its past is negligible (e^-36)
_NOISE_ROWS, _MEMORY = 128, 36.0
# image motion must never be as fast as the rows; this many standard deviations of its speed must stay below them
_SPEED_MARGIN = 6.0
# cumulative normal distribution, interpolated to 5e-7
_STEPS, _EDGE = 256, 6.5
_CUMULATIVE = ndtr(np.arange(-_EDGE, _EDGE + 2 / _STEPS, 1 / _STEPS))
_CUMULATIVE[:2], _CUMULATIVE[-2:] = 0.0, 1.0  # flat beyond its ends
# electrons of a source in one row that are left out beyond its edge
_FAINTEST_E = 1e-4
_BRIGHTENING = 2.0  # factor that allows for scintillation


class AtmosphereError(ValueError):
    """Strengths that continuous readout cannot follow."""


@dataclass(frozen=True)
class RandomWaves:
    """A stationary, differentiable random series as a sum of sinusoids.

    Parameters
    ----------
    angular_hz, amplitudes, phases : ndarray of float64, shape (w,)
        Radians per second, the series' own unit, radians.
    """

    angular_hz: np.ndarray
    amplitudes: np.ndarray
    phases: np.ndarray

    def value(self, seconds: np.ndarray) -> np.ndarray:
        """Value at each time, shape (t,)."""
        return _sum_waves(np.asarray(seconds, dtype=np.float64), self.angular_hz, self.amplitudes, self.phases)

    def rate(self, seconds: np.ndarray) -> np.ndarray:
        """Derivative at each time (per second), shape (t,)."""
        speeds = RandomWaves(self.angular_hz, self.amplitudes * self.angular_hz, self.phases + np.pi / 2)
        return speeds.value(seconds)


@numba.njit(cache=True, nogil=True)
def _sum_waves(seconds, angular_hz, amplitudes, phases):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    total = np.zeros(len(seconds))
    for t in range(len(seconds)):
        for wave in range(len(phases)):
            total[t] += amplitudes[wave] * np.sin(angular_hz[wave] * seconds[t] + phases[wave])
    return total


def draw_waves(rng: np.random.Generator, rms: float, correlation_s: float) -> RandomWaves:
    """Draw white noise smoothed by two low-pass filters of one time constant.

    Parameters
    ----------
    rms : float
        Exact rms of the series over all time.
    correlation_s : float
        Time constant τ.

    Notes
    -----
    The autocorrelation is that of Matérn with ν = 3/2, ``(1 + t/τ) exp(-t/τ)``, and the power spectrum is
    ``4 τ / (π (1 + ω²τ²)²)`` over ω > 0 (Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, eqs 4.15
    and 4.17). So the series is differentiable, and its derivative has an rms of ``rms / τ``. Each slice of the spectrum
    becomes one wave with the power of the slice, a random frequency inside it and a random phase.
    """
    edges = np.geomspace(_LOWEST, _HIGHEST, _N_WAVES + 1)
    frequencies = edges[:-1] * (edges[1:] / edges[:-1]) ** rng.random(_N_WAVES)
    edges[0], edges[-1] = 0.0, np.inf
    finite = np.minimum(edges, 1e9)
    below = 2 / np.pi * (np.arctan(finite) + finite / (1 + finite**2))
    amplitudes = rms * np.sqrt(2 * np.diff(below))
    return RandomWaves(frequencies / correlation_s, amplitudes, rng.uniform(0, 2 * np.pi, _N_WAVES))


def log_normal(unit: np.ndarray, rms: float) -> np.ndarray:
    """Turn a series of unit variance into factors of mean 1 and relative scatter ``rms``."""
    spread = np.log1p(rms**2)
    factors = np.sqrt(spread) * unit
    factors -= spread / 2
    return np.exp(factors, out=factors)


@dataclass(frozen=True)
class Scintillation:
    """Independent scintillation of each star.

    Parameters
    ----------
    key : int
        Seed of the noise.
    n_stars : int
    rms : float
        Relative scatter of the flux of one row.
    correlation_s, row_rate_hz : float

    Notes
    -----
    The flux is log-normal (Dravins et al. 1997, PASP 109, 173), and its logarithm is an Ornstein–Uhlenbeck process. For
    exposures shorter than the crossing time of the wind over the aperture the scatter does not depend on the exposure
    (Osborn et al. 2015, MNRAS 452, 1707), so ``rms`` does not either. Stars more than a few arcseconds apart
    scintillate independently, so read time can replace star time.
    """

    key: int
    n_stars: int
    rms: float
    correlation_s: float
    row_rate_hz: float

    def factors(self, first_row: int, n_rows: int) -> np.ndarray:
        """Factors of the flux in consecutive sequence rows, shape (t, s).

        Each block of rows has a random generator of its own. The process starts so long before ``first_row`` that its
        start does not matter. So a call costs 36 correlation times of noise besides its own rows, and all calls give
        the same values for a row. `AirRun` continues where it stopped.
        """
        return _ScintillationRun(self).factors(first_row, n_rows)

    def generator(self, block: int) -> np.random.Generator:
        """Generator of the noise of one block of rows."""
        # sequence rows may be negative here, but seeds may not
        return np.random.default_rng([self.key, abs(block), int(block < 0)])


class _ScintillationRun:
    """Scintillation that continues from call to call."""

    def __init__(self, scintillation: Scintillation) -> None:
        self.scintillation = scintillation
        self.correlation_rows = scintillation.correlation_s * scintillation.row_rate_hz
        self.ready = np.empty((0, scintillation.n_stars))  # rows of unit variance beyond the last call
        self.next_row: int | None = None  # the first of them
        self.state = np.zeros(scintillation.n_stars)

    def factors(self, first_row: int, n_rows: int) -> np.ndarray:
        """As `Scintillation.factors`, but it continues if ``first_row`` follows the rows of the last call."""
        if self.scintillation.rms == 0:
            return np.ones((n_rows, self.scintillation.n_stars))
        if first_row != self.next_row:
            self._start(first_row)
        parts, n_ready = [self.ready], len(self.ready)
        while n_ready < n_rows:
            parts.append(self._filter_block(self.next_block))
            n_ready += _NOISE_ROWS
        unit = np.concatenate(parts)
        self.ready, self.next_row = unit[n_rows:].copy(), first_row + n_rows
        return log_normal(unit[:n_rows], self.scintillation.rms)

    def _start(self, first_row: int) -> None:
        self.state[:] = 0
        self.next_block = (first_row - int(np.ceil(_MEMORY * self.correlation_rows))) // _NOISE_ROWS
        while self.next_block <= first_row // _NOISE_ROWS:
            unit = self._filter_block(self.next_block)
        self.ready = unit[first_row % _NOISE_ROWS :]

    def _filter_block(self, block: int) -> np.ndarray:
        unit = np.empty((_NOISE_ROWS, self.scintillation.n_stars))
        _filter_noise(self.scintillation.generator(block), np.exp(-1 / self.correlation_rows), self.state, unit)
        self.next_block = block + 1
        return unit


def draw_scintillation(
    rng: np.random.Generator, n_stars: int, rms: float, correlation_s: float, row_rate_hz: float
) -> Scintillation:
    """Draw the scintillation of an amplifier's stars."""
    return Scintillation(int(rng.integers(2**63)), n_stars, rms, correlation_s, row_rate_hz)


@numba.njit(cache=True, nogil=True)
def _filter_noise(rng, decay, state, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Turn white noise into a first-order process of unit variance, (t, s), that continues from ``state``."""
    strength = np.sqrt(1 - decay**2)
    for t in range(out.shape[0]):
        for s in range(out.shape[1]):
            state[s] = decay * state[s] + strength * rng.standard_normal()
            out[t, s] = state[s]


@dataclass(frozen=True)
class AirSeries:
    """Effects that all stars of an amplifier share, at consecutive whole rows of star time ``row - y0``.

    Parameters
    ----------
    first : int
        Row of star time of the first entry.
    shift_px : ndarray of float64, shape (t,)
        Motion across columns.
    width : ndarray of float64, shape (t,)
        Factor of the width of the point-spread function.
    light : ndarray of float64, shape (t,)
        Factor of the flux from cloud and motion along the rows.
    """

    first: int
    shift_px: np.ndarray
    width: np.ndarray
    light: np.ndarray

    @property
    def end(self) -> int:
        """Row after the last."""
        return self.first + len(self.light)


@dataclass(frozen=True)
class Atmosphere:
    """The air above one amplifier for a whole sequence.

    Parameters
    ----------
    motion_x_px, motion_y_px : RandomWaves
        Displacement of every star along columns and rows.
    focus, transparency : RandomWaves
        Of unit variance; `log_normal` gives them their strength.
    focus_rms, transparency_rms : float
    scintillation : Scintillation
    row_rate_hz : float
    """

    motion_x_px: RandomWaves
    motion_y_px: RandomWaves
    focus: RandomWaves
    transparency: RandomWaves
    focus_rms: float
    transparency_rms: float
    scintillation: Scintillation
    row_rate_hz: float

    def shared(self, first: int, n_rows: int) -> AirSeries:
        """Evaluate the shared series at rows of star time from ``first``.

        Notes
        -----
        If a star moves along the rows at ``dy0/dt``, the rows pass it at ``v + dy0/dt``, so its light per row changes
        from F/v to F/(v + dy0/dt). The shift of the time axis itself, below one row, is neglected.
        """
        seconds = (first + np.arange(n_rows)) / self.row_rate_hz
        crossing = 1 + self.motion_y_px.rate(seconds) / self.row_rate_hz
        return AirSeries(
            first=first,
            shift_px=self.motion_x_px.value(seconds),
            width=log_normal(self.focus.value(seconds), self.focus_rms),
            light=log_normal(self.transparency.value(seconds), self.transparency_rms) / crossing,
        )


class AirRun:
    """The air of one amplifier in successive blocks of rows, with the memory for one transit.

    Parameters
    ----------
    atmosphere : Atmosphere
    n_transit : int
        Rows of the detector, by which star times of a block reach back.
    """

    def __init__(self, atmosphere: Atmosphere, n_transit: int) -> None:
        self.atmosphere, self.n_transit = atmosphere, n_transit
        self._scintillation = _ScintillationRun(atmosphere.scintillation)
        self._series: AirSeries | None = None

    def factors(self, first_row: int, n_rows: int) -> np.ndarray:
        """Scintillation of each star in consecutive sequence rows, shape (t, s)."""
        return self._scintillation.factors(first_row, n_rows)

    def series(self, first_row: int, n_rows: int) -> AirSeries:
        """Shared series over all star times of consecutive sequence rows, with an additional row at each end."""
        first, end = first_row - self.n_transit - 1, first_row + n_rows + 1
        known = self._series
        if known is not None and known.first <= first < known.end <= end:
            new = self.atmosphere.shared(known.end, end - known.end)
            self._series = _join(known, new, first)
        else:
            self._series = self.atmosphere.shared(first, end - first)
        return self._series


def _join(one: AirSeries, other: AirSeries, first: int) -> AirSeries:
    """Join two series, the second of which follows the first, and cut them to rows from ``first``."""
    values = {}
    for name in ("shift_px", "width", "light"):
        values[name] = np.concatenate([getattr(one, name)[first - one.first :], getattr(other, name)])
    return AirSeries(first, **values)


def draw_atmosphere(
    rng: np.random.Generator,
    n_stars: int,
    *,
    row_rate_hz: float,
    scintillation: tuple[float, float],
    motion_px: tuple[float, float],
    focus: tuple[float, float],
    transparency: tuple[float, float],
) -> Atmosphere:
    """Draw the air above one amplifier.

    Parameters
    ----------
    n_stars : int
    row_rate_hz : float
    scintillation, motion_px, focus, transparency : (float, float)
        Strength (rms: relative, or pixels along each axis for motion) and correlation time (s).

    Raises
    ------
    AtmosphereError
        If stars would move about as fast as the rows are read.
    """
    speed = motion_px[0] / motion_px[1]
    if _SPEED_MARGIN * speed > row_rate_hz:
        raise AtmosphereError(
            f"image motion of {motion_px[0]:.3g} px rms in {motion_px[1]:.3g} s is {speed:.3g} px/s rms; at "
            f"{row_rate_hz:g} rows/s at most {row_rate_hz / _SPEED_MARGIN:.3g} px/s can be followed: lower "
            "motion_rms_arcsec or raise motion_s"
        )
    return Atmosphere(
        motion_x_px=draw_waves(rng, *motion_px),
        motion_y_px=draw_waves(rng, *motion_px),
        focus=draw_waves(rng, 1.0, focus[1]),
        transparency=draw_waves(rng, 1.0, transparency[1]),
        focus_rms=focus[0],
        transparency_rms=transparency[0],
        scintillation=draw_scintillation(rng, n_stars, *scintillation, row_rate_hz),
        row_rate_hz=row_rate_hz,
    )


def add_sources(
    mean_e: np.ndarray,
    first_row: int,
    light_e: np.ndarray,
    x: np.ndarray,
    y0: np.ndarray,
    sigma_px: float,
    series: AirSeries,
    edges: np.ndarray | None = None,
) -> None:
    """Add sources with the effects of the air, in place.

    Parameters
    ----------
    mean_e : ndarray of float64, shape (t, x)
        Mean electrons of consecutive sequence rows.
    first_row : int
        Sequence row of the first.
    light_e : ndarray of float64, shape (t, s)
        Electrons per row of each source in steady air, of either sign; scintillation already applied.
    x, y0 : ndarray of float64, shape (s,)
        Column and detector row.
    sigma_px : float
        Width of the point-spread function in steady air.
    series : AirSeries
        Must cover ``row - y0`` of every source and row.
    edges : ndarray of float64, shape (s,), optional
        Extent of each source in standard deviations (`source_edges`); 6.5 by default.

    Raises
    ------
    AtmosphereError
        If ``series`` does not cover them.
    """
    if len(y0) == 0:
        return
    earliest, latest = first_row - y0.max(), first_row + len(light_e) - 1 - y0.min()
    last = series.first + len(series.light) - 1
    if earliest < series.first or latest >= last:
        raise AtmosphereError(
            f"sources need star time from row {earliest:.1f} to {latest:.1f}, the series covers {series.first} to "
            f"{last}: evaluate it with Atmosphere.shared from a row below the one to a row above the other"
        )
    edges = np.full(len(x), _EDGE) if edges is None else edges
    _add_sources(
        mean_e, first_row, light_e, x, y0, sigma_px, series.first, series.shift_px, series.width, series.light, edges,
        _CUMULATIVE,
    )  # fmt: skip


def source_edges(flux_e_row: np.ndarray) -> np.ndarray:
    """Standard deviations beyond which each source has less than 1e-4 electrons per row, shape (s,).

    The normal distribution has less than ``exp(-z²/2) / 2`` beyond z. For half of the stars of a field this is four.
    """
    light_e = _BRIGHTENING * np.abs(flux_e_row)
    return np.clip(np.sqrt(2 * np.log(np.maximum(light_e / (2 * _FAINTEST_E), 1.0))), 1.0, _EDGE)


@numba.njit(cache=True, nogil=True)
def _add_sources(mean, first_row, light, x, y0, sigma, first, shift, width, share, edges, cumulative):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Compiled loop of `add_sources`: pixel-integrated Gaussians from a table of the cumulative normal distribution.

    Star time lies between two rows of the series. The series varies over many rows, so it is interpolated linearly.
    """
    for t in range(light.shape[0]):
        for s in range(light.shape[1]):
            if light[t, s] == 0:
                continue
            place = first_row + t - y0[s] - first
            i = int(place)
            after = place - i
            before = 1 - after
            centre = x[s] + before * shift[i] + after * shift[i + 1]
            spread = sigma * (before * width[i] + after * width[i + 1])
            electrons = light[t, s] * (before * share[i] + after * share[i + 1])
            reach = edges[s] * spread + 0.5
            start = max(int(np.ceil(centre - reach)), 0)
            stop = min(int(np.floor(centre + reach)) + 1, mean.shape[1])
            scale = _STEPS / spread
            entry = _EDGE * _STEPS + (start - centre - 0.5) * scale
            left = electrons * _interpolate(cumulative, entry)
            for column in range(start, stop):
                entry += scale
                right = electrons * _interpolate(cumulative, entry)
                mean[t, column] += right - left
                left = right


@numba.njit(cache=True, nogil=True, inline="always")
def _interpolate(table, entry):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Value of a table between its entries; beyond its ends, the value of the last entry."""
    i = min(max(int(entry), 0), table.shape[0] - 2)
    return table[i] + (entry - i) * (table[i + 1] - table[i])

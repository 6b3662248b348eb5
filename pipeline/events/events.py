"""Describe and draw sub-second events: their pixels, optimal S/N and plausible amplitudes. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shutterless.pipeline.events.diffraction import occultation_depth
from shutterless.pipeline.events.kinds import EVENT_TABLE, LONGEST_FLARE_S
from shutterless.pipeline.events.light_curves import event_light_curve, smeared_step
from shutterless.pipeline.events.red_noise import flickering_waves, qpo_waves
from shutterless.pipeline.psf import pixel_profile

PULSAR_PERIOD_S = 0.0335  # Crab
BRIGHTEST_EGRESS = 10.0  # largest change of flux at an egress over the flux in eclipse
_CUT_SHARE = 0.8  # of an event's extent; a partial event is cut within this share, so that part of it remains
EDGES = ("first", "last")


@dataclass(frozen=True)
class Event:
    """One event in one amplifier of one file.

    Parameters
    ----------
    kind : str
        One of `shutterless.pipeline.events.kinds.EVENT_KINDS`.
    x : float
        Column position (read order).
    row_peak : float
        File row of the peak; of an occultation mid-event, of an eclipse the geometric border of the shadow, of a
        pulsar the main pulse in the middle of its span, of flickering and oscillations an extreme.
    scale_rows : float
        Flare, glint and Gaussian burst: FWHM; top-hat burst: length; occultation and eclipse: rows in which the shadow
        moves by one Fresnel scale √(λD/2); pulsar: rows over which it pulses; flickering: longest wave; QPO: period.
    amplitude_e : float
        Signed electrons per row at the peak before smearing, summed over columns.
    star_id : int
        -1 for an orphan.
    star_mag : float
        NaN for an orphan.
    shape : tuple of (str, value)
        Further arguments of `event_light_curve`.
    y : float
        Row position in a stack of images; 0 in continuous readout.
    """

    kind: str
    x: float
    row_peak: float
    scale_rows: float
    amplitude_e: float
    star_id: int = -1
    star_mag: float = float("nan")
    shape: tuple[tuple[str, Any], ...] = ()
    y: float = 0.0

    def light_curve(self, n_rows: int, sigma_rows: float) -> np.ndarray:
        """Light curve of unit amplitude over the file's rows, shape (t,)."""
        return event_light_curve(self.kind, n_rows, self.row_peak, self.scale_rows, sigma_rows, **dict(self.shape))


def event_stamp(
    event: Event,
    n_rows: int,
    n_columns: int,
    sigma_px: float,
    begins_row: float | None = None,
    ends_row: float | None = None,
) -> tuple[np.ndarray, int, np.ndarray]:
    """Light curve and column profile of an event: its pixels are ``amplitude_e * outer(curve, profile)``.

    Parameters
    ----------
    begins_row, ends_row : float, optional
        File rows in which the streak of the event's star begins, and ends after the shutter has closed. Outside them
        there is no light of the star.

    Returns
    -------
    curve : ndarray, shape (t,)
        Unit amplitude, all rows of the file.
    first_column : int
    profile : ndarray, shape (w,)
        Existing columns within 6 σ + 1 of the event, from ``first_column``. Light beyond the edge is lost.
    """
    columns = lit_pixels(event.x, n_columns, sigma_px)
    curve = event_curve(event, n_rows, sigma_px, begins_row, ends_row)
    return curve, int(columns[0]) if columns.size else 0, pixel_profile(columns - event.x, sigma_px)


def event_curve(
    event: Event,
    n_rows: int,
    sigma_rows: float,
    begins_row: float | None = None,
    ends_row: float | None = None,
) -> np.ndarray:
    """Light curve of an event of unit amplitude in all rows of a file, shape (t,); ``begins_row`` as `event_stamp`."""
    curve = event.light_curve(n_rows, sigma_rows)
    if begins_row is not None:
        curve *= np.maximum(smeared_step(np.arange(n_rows) - begins_row, sigma_rows), 0.0)
    if ends_row is not None:
        curve *= np.maximum(smeared_step(ends_row - np.arange(n_rows), sigma_rows), 0.0)
    return curve


def lit_pixels(position: float, n_pixels: int, sigma_px: float) -> np.ndarray:
    """Existing pixels along one axis within 6 σ + 1 of a source, ascending."""
    reach = 6 * sigma_px + 1
    return np.arange(max(int(np.ceil(position - reach)), 0), min(int(np.floor(position + reach)) + 1, n_pixels))


def event_rows(kind: str, curve: np.ndarray) -> tuple[int, int, int]:
    """First row, last row and peak row of an event in a truth table, from its light curve (t,).

    They hold the central 90 % of its fluence; for an eclipse, which has no end, of the change of its light.
    """
    return central_rows(np.diff(curve, prepend=curve[:1]) if kind == "eclipse" else curve)


def optimal_rho(signal_e: np.ndarray, variance_e2: np.ndarray) -> float:
    """Optimal S/N, an upper limit for every detector: √Σ s²/V of signal and variance per pixel, which are broadcast."""
    return float(np.sqrt(np.sum(np.square(signal_e) / variance_e2)))


def scale_to_rho(event: Event, unit_rho: float, rho: float) -> Event:
    """Give an event the amplitude at which its optimal S/N is ``rho``; its sign stays.

    Parameters
    ----------
    unit_rho : float
        Optimal S/N at an amplitude of 1 electron per row (`optimal_rho` of curve times profile).
    """
    return replace(event, amplitude_e=float(np.copysign(rho / unit_rho, event.amplitude_e)))


def amplitude_limits(event: Event, star_flux_e_row: float) -> tuple[float, float]:
    """Smallest and largest plausible ``|amplitude_e|`` of an event.

    An occultation is at most as deep as the diffraction pattern of a star of its size; it is less deep if the star has
    an unresolved companion. Orphans have no limits.
    """
    if event.star_id < 0:
        return 0.0, float("inf")
    lowest, highest = EVENT_TABLE[event.kind].relative_amplitude
    shape = dict(event.shape)
    if event.kind == "occultation":
        highest = min(highest, occultation_depth(**shape))
        lowest = min(lowest, highest)
    elif event.kind == "eclipse" and event.amplitude_e > 0:
        highest = BRIGHTEST_EGRESS
    elif event.kind == "flickering":
        rms = flickering_waves(**shape).rms
        lowest, highest = lowest / rms, highest / rms
    elif event.kind == "qpo":
        wave = np.sqrt(2) * qpo_waves(**shape).rms
        lowest, highest = lowest / wave, highest / wave
    return lowest * star_flux_e_row, highest * star_flux_e_row


def magnitude_change(event: Event, star_flux_e_row: float) -> float:
    """Change of the star's magnitude at the peak, negative where it brightens; NaN for an orphan.

    A point star behind the middle of an opaque disc may vanish altogether, for which 10 mag is returned.
    """
    if event.star_id < 0:
        return float("nan")
    return float(-2.5 * np.log10(max(1 + event.amplitude_e / star_flux_e_row, 1e-4)))


def central_rows(fluence: np.ndarray) -> tuple[int, int, int]:
    """First row, last row and peak row of the central 90 % of an event's ``|fluence|`` per row, shape (t,)."""
    light = np.abs(np.asarray(fluence, dtype=np.float64))
    cumulative = np.cumsum(light)
    if not cumulative[-1] > 0:
        raise ValueError("an event without light in this file has no central rows")
    first, last = np.searchsorted(cumulative, np.array([0.05, 0.95]) * cumulative[-1])
    last = min(last, len(light) - 1)
    inside = light[first : last + 1]
    # the first row of a flat top, rather than a row chosen by rounding errors
    return int(first), int(last), int(first + np.argmax(inside > (1 - 1e-9) * inside.max()))


def draw_event(
    rng: np.random.Generator,
    kind: str,
    *,
    row_rate_hz: float,
    n_rows: int,
    x: float,
    y: float = 0.0,
    earliest_row: float = 0.0,
    star_id: int = -1,
    star_mag: float = float("nan"),
    longest_flare_s: float = LONGEST_FLARE_S,
    scale_range_s: tuple[float, float] | None = None,
    cut: str | None = None,
) -> Event:
    """Draw an event of unit amplitude whose central 90 % lie between ``earliest_row`` and the end of the file.

    Parameters
    ----------
    longest_flare_s : float
        Largest width of flares that lie whole in the file.
    scale_range_s : (float, float), optional
        Replaces the range of the kind, for stacks of images that are slower than continuous readout.
    cut : {"first", "last"}, optional
        Draw a partial event instead: row ``earliest_row`` or the last row falls within it, and the rest is not in the
        file. It may have any scale of its kind.

    Notes
    -----
    Scales are log-uniform in the range of the kind (`EventKind.scale_s`), and limited so that the event fits.
    Flickering and oscillations last throughout the file, so they are neither fitted in nor cut.

    Raises
    ------
    ValueError
        If even the shortest event of this kind does not fit.
    """
    before, after = EVENT_TABLE[kind].extent
    shortest, longest = (scale * row_rate_hz for scale in scale_range_s or EVENT_TABLE[kind].scale_s)
    if cut is None or not before + after:
        longest = min(longest, longest_flare_s * row_rate_hz) if kind == "flare" else longest
        scale, row_peak = _fit_in(rng, kind, shortest, max(longest, shortest), earliest_row, n_rows)
    else:
        scale = float(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
        edge = {"first": earliest_row, "last": n_rows - 1}[cut]
        row_peak = edge - _CUT_SHARE * scale * rng.uniform(-before, after)
    sign, shape = _draw_shape(rng, kind, row_rate_hz)
    return Event(kind, float(x), float(row_peak), scale, sign, star_id, star_mag, shape, float(y))


def _fit_in(
    rng: np.random.Generator, kind: str, shortest: float, longest: float, earliest_row: float, n_rows: int
) -> tuple[float, float]:
    """Draw scale and peak of an event that lies whole between ``earliest_row`` and the last row."""
    before, after = EVENT_TABLE[kind].extent
    margin = 4.0  # rows of smearing on either side
    room = n_rows - 1 - earliest_row - 2 * margin
    if room < shortest * (before + after):
        raise ValueError(
            f"a {kind} needs at least {shortest * (before + after) + 2 * margin:.0f} rows, "
            f"rows {earliest_row:.0f} to {n_rows} hold {n_rows - earliest_row:.0f}"
        )
    if before + after:
        longest = min(longest, room / (before + after))
    scale = float(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
    return scale, rng.uniform(earliest_row + margin + before * scale, n_rows - 1 - margin - after * scale)


def _draw_shape(rng: np.random.Generator, kind: str, row_rate_hz: float) -> tuple[float, tuple[tuple[str, Any], ...]]:
    """Sign of an event and the further arguments of its light curve."""
    if kind == "eclipse":  # its direction is its sign
        down = bool(rng.random() < 0.5)
        size = ("star_radius", round(float(rng.uniform(0.0, 1.0)), 1))
        return (-1.0 if down else 1.0), (("direction", "down" if down else "up"), size)
    signs = EVENT_TABLE[kind].signs
    sign = float(signs[0] if len(signs) == 1 else rng.choice(signs))
    if kind == "burst":
        return sign, (("profile", str(rng.choice(["tophat", "gaussian"]))),)
    if kind == "occultation":
        # in steps, since the pattern of a pair of radii takes 30 ms to compute and is cached
        radius, star_radius = round(20 * float(rng.uniform(0.3, 2.0))) / 20, round(float(rng.uniform(0.0, 1.0)), 1)
        # farther out the fringes brighten more than the shadow dims
        impact = float(rng.uniform(0.0, min(radius + 0.3, 2.0)))
        return sign, (("radius", radius), ("impact", impact), ("star_radius", star_radius))
    if kind == "pulsar":
        return sign, (("period_rows", PULSAR_PERIOD_S * row_rate_hz),)
    if kind not in ("flickering", "qpo"):
        return sign, ()
    realisation = ("realisation", int(rng.integers(2**31)))
    exponent = (("exponent", float(rng.uniform(1.5, 2.5))),) if kind == "flickering" else ()
    return sign, (*exponent, realisation)


def choose_cut(rng: np.random.Generator, partial: float, edges: Sequence[str] = EDGES) -> str | None:
    """Edge of the file at which an event is cut, with probability ``partial``, otherwise None."""
    return str(rng.choice(list(edges))) if rng.random() < partial else None

"""Inject events and cosmic rays into calibrated amplifiers, in electrons and with the amplifier's PSF."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from shutterless.pipeline.amplifier import Y_AXIS, Amplifier
from shutterless.pipeline.calibration.residuals import noise_floor_e2
from shutterless.pipeline.compiled.half_floats import LARGEST_HALF
from shutterless.pipeline.events.events import (
    EDGES,
    Event,
    amplitude_limits,
    choose_cut,
    draw_event,
    event_curve,
    event_rows,
    lit_pixels,
    optimal_rho,
    scale_to_rho,
)
from shutterless.pipeline.events.kinds import (
    DEFAULT_KINDS,
    EVENT_TABLE,
    KIND_TABLE,
    LONGEST_FLARE_S,
    PARTIAL_SHARE,
    Place,
)
from shutterless.pipeline.settings import NotNegative, Positive, Share, settings_class
from shutterless.pipeline.simulation.camera.artefacts import CosmicRay, draw_cosmic_ray
from shutterless.pipeline.simulation.settings import EventName, RhoRange

INJECTED_COLUMNS = (
    "kind",
    "is_event",
    "x",
    "y",
    "row_start",
    "row_stop",
    "row_peak",
    "amplitude_e",
    "rho",
    "star_id",
    "star_mag",
)
SEPARATION_PX = 24  # between injections whose rows overlap, so that each strip holds one
SEPARATION_ROWS = 128  # half a strip that is not binned
_MAX_TRIES = 40
_FAINTEST = 1e-6  # of the peak; fainter rows are left out


class InjectionError(ValueError):
    """Settings of an injection that cannot be fulfilled."""


@settings_class(InjectionError)
class InjectionSettings:
    """Kinds and strengths of events that are injected into an amplifier.

    Parameters
    ----------
    kinds : tuple of (str, float)
        Kinds of event and their shares.
    orphan_fraction : float
        Share without a star, among events that may occur with or without one (bursts).
    min_rho, rho_scale : float
        Optimal S/N: ``min_rho`` plus an exponential of this scale.
    bright_fraction, max_rho : float
        Share whose S/N is log-uniform between 20 and ``max_rho`` instead.
    faintest_ray : float
        Cosmic rays are dimmed by a factor that is log-uniform between this and 1, so that many are faint.
    partial : float
        Share of events that are cut by the first or the last row of the file.
    longest_flare_s : float
        Width of the longest flare among those that are not cut.
    rho : (float, float), optional
        Optimal S/N uniform between the two instead.
    """

    kinds: Annotated[tuple[tuple[EventName, Positive], ...], Field(min_length=1)] = tuple(
        (name, EVENT_TABLE[name].share) for name in DEFAULT_KINDS
    )
    orphan_fraction: Share = 0.4
    min_rho: Positive = 4.5
    rho_scale: NotNegative = 5.0
    bright_fraction: Share = 0.1
    max_rho: Positive = 500.0
    faintest_ray: Positive = 0.01
    partial: Share = PARTIAL_SHARE
    longest_flare_s: Positive = LONGEST_FLARE_S
    rho: RhoRange | None = None


@dataclass(frozen=True)
class Injection:
    """An event and the pixels of an amplifier that it changes, by ``amplitude_e`` times profile and curve (electrons).

    Parameters
    ----------
    event : Event
    star_flux_e_row : float
        Electrons per row of its star; infinite for an orphan.
    rows_lit, y, columns : slice
        File rows and pixels that it lights.
    curve : ndarray of float64, shape (t,)
        Unit amplitude.
    profile : ndarray of float64, shape (y, x)
    rows : (int, int, int)
        First, last and peak row for the truth table.
    unit_rho : float
        Optimal S/N at an amplitude of 1 electron per row.
    """

    event: Event
    star_flux_e_row: float
    rows_lit: slice
    y: slice
    columns: slice
    curve: np.ndarray
    profile: np.ndarray
    rows: tuple[int, int, int]
    unit_rho: float

    @property
    def rho(self) -> float:
        """Optimal S/N: the exact shape against the amplifier's own noise in every pixel that is not masked."""
        return abs(self.event.amplitude_e) * self.unit_rho

    def signal_e(self) -> np.ndarray:
        """Mean change of each pixel (electrons), shape (y, x, t)."""
        return self.event.amplitude_e * self.profile[:, :, None] * self.curve

    def truth(self) -> tuple:
        """Row of `INJECTED_COLUMNS`."""
        event = self.event
        return (
            event.kind,
            KIND_TABLE[event.kind].is_event,
            event.x,
            event.y,
            *self.rows,
            event.amplitude_e,
            self.rho,
            event.star_id,
            event.star_mag,
        )


def inject_events(
    amplifier: Amplifier, rng: np.random.Generator, settings: InjectionSettings, n_events: int, n_cosmic_rays: int = 0
) -> tuple[Amplifier, pd.DataFrame]:
    """Inject events and cosmic rays into a copy of an amplifier.

    Parameters
    ----------
    amplifier : Amplifier
    rng : Generator
    settings : InjectionSettings
    n_events, n_cosmic_rays : int
        Numbers to try; fewer are injected if the amplifier has no room for more.

    Returns
    -------
    amplifier : Amplifier
        Its residual in memory.
    truth : DataFrame
        `INJECTED_COLUMNS`, one row per injection.

    Notes
    -----
    ``rho`` is that of the exact shape against the variance of the amplifier without the event, pixel by pixel and row
    by row. Masked pixels and rows beyond the file add nothing to it. `draw_change` gives the photon noise of the
    change.
    """
    residual = np.array(amplifier.residual)
    target = replace(amplifier, residual=residual)
    room = _Room()
    rows = []
    for injection in place_injections(target, rng, settings, n_events, room):
        add_injection(target, injection, rng)
        rows.append(injection.truth())
    for _ in range(n_cosmic_rays):
        row = _add_cosmic_ray(target, rng, settings, room)
        if row is not None:
            rows.append(row)
    return target, pd.DataFrame(rows, columns=list(INJECTED_COLUMNS))


class _Room:
    """Occupied places, as (x, y, first row, last row)."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float, float]] = []

    def take(self, x: float, y: float, start: float, stop: float) -> bool:
        """Occupy a place unless it is too near to another; whether it was free."""
        for other, other_y, first, last in self._taken:
            near = max(abs(other - x), abs(other_y - y)) < SEPARATION_PX
            if near and start - SEPARATION_ROWS < last and stop + SEPARATION_ROWS > first:
                return False
        self._taken.append((x, y, start, stop))
        return True


def place_injections(
    amplifier: Amplifier,
    rng: np.random.Generator,
    settings: InjectionSettings,
    n_events: int,
    room: _Room | None = None,
) -> list[Injection]:
    """Draw separate events for an amplifier, each with an amplitude that is plausible for its star.

    Parameters
    ----------
    n_events : int
        Number to try; fewer are placed if there is no room.
    room : optional
        Occupied places; the new ones are added.
    """
    room = _Room() if room is None else room
    placed = (_place_event(amplifier, rng, settings, room) for _ in range(n_events))
    return [injection for injection in placed if injection is not None]


def kinds_for(amplifier: Amplifier, settings: InjectionSettings) -> tuple[list[str], np.ndarray]:
    """Kinds of event that can occur in an amplifier, and their shares.

    Raises
    ------
    ValueError
        If none of the settings' kinds can occur.
    """
    known = amplifier.event_scales_s
    possible = {kind: share for kind, share in settings.kinds if not known or kind in known}
    if not possible:
        wanted = [kind for kind, _ in settings.kinds]
        raise ValueError(f"of the kinds {wanted} none is known at the pace of {amplifier.entry}, only {sorted(known)}")
    shares = np.array(list(possible.values()))
    return list(possible), shares / shares.sum()


def _place_event(
    amplifier: Amplifier, rng: np.random.Generator, settings: InjectionSettings, room: _Room
) -> Injection | None:
    names, shares = kinds_for(amplifier, settings)
    kind = str(rng.choice(names, p=shares))
    # nothing happened before the shutter opened
    cut = choose_cut(rng, settings.partial, EDGES if amplifier.readout.first_row != 0 else EDGES[1:])
    for _ in range(_MAX_TRIES):
        try:
            event, star = _draw_event(amplifier, kind, rng, settings, cut)
            injection = stamp_injection(amplifier, event, *star)
        except ValueError:  # too long for the rows of this star's streak; another star may have more
            continue
        event = scale_to_rho(injection.event, injection.unit_rho, _draw_rho(rng, settings))
        lowest, highest = amplitude_limits(event, injection.star_flux_e_row)
        lowest = 0.0 if amplifier.event_scales_s else lowest  # an exposure of many minutes measures a star to 0.1 %
        start, stop, _ = injection.rows
        if lowest <= abs(event.amplitude_e) <= highest and room.take(event.x, event.y, start, stop):
            return replace(injection, event=event)
    return None


def _draw_event(
    amplifier: Amplifier, kind: str, rng: np.random.Generator, settings: InjectionSettings, cut: str | None
) -> tuple[Event, tuple[float, float | None, float | None]]:
    """Draw an event of unit amplitude, with its star's flux and the file rows where the streak begins and ends."""
    readout = amplifier.readout
    place = EVENT_TABLE[kind].place
    on_star = place == Place.STAR or (place == Place.EITHER and rng.random() >= settings.orphan_fraction)
    x, y = rng.uniform(0, amplifier.n_columns - 1), rng.uniform(0, amplifier.n_y - 1) if amplifier.n_y > 1 else 0.0
    star_id, star_mag, flux, y0 = -1, float("nan"), float("inf"), float("nan")
    if on_star and len(amplifier.streaks):
        star = amplifier.streaks.iloc[int(rng.integers(len(amplifier.streaks)))]
        x, star_id, star_mag, flux = star["x"], int(star["streak_id"]), float(star["mag"]), float(star["flux_e_row"])
        y, y0 = float(star["y"]), float(star["y0"])
    elif place == Place.STAR:
        raise ValueError(f"a {kind} needs a star, and {amplifier.entry} has none")
    first_row = readout.first_row or 0
    begins_row = y0 - first_row if np.isfinite(y0) else None
    # a source with an unknown detector row may be dark in every row after the shutter has closed
    ends_row = None if readout.close_row is None else readout.close_row + np.nan_to_num(y0) - first_row
    scale_range_s = amplifier.event_scales_s.get(kind)
    event = draw_event(
        rng,
        kind,
        row_rate_hz=readout.row_rate_hz,
        n_rows=amplifier.n_rows if ends_row is None else int(np.clip(ends_row, 0, amplifier.n_rows)),
        x=float(np.clip(x, 0, amplifier.n_columns - 1)),
        y=float(np.clip(y, 0, amplifier.n_y - 1)),
        earliest_row=max(begins_row or 0.0, 0.0),  # before its streak begins a star cannot flare
        star_id=star_id,
        star_mag=star_mag,
        longest_flare_s=settings.longest_flare_s if scale_range_s is None else scale_range_s[1],
        scale_range_s=scale_range_s,
        cut=cut,
    )
    return event, (flux, begins_row, ends_row)


def _draw_rho(rng: np.random.Generator, settings: InjectionSettings) -> float:
    if settings.rho is not None:
        return float(rng.uniform(*settings.rho))
    if rng.random() < settings.bright_fraction:
        return float(np.exp(rng.uniform(np.log(20.0), np.log(settings.max_rho))))
    return float(settings.min_rho + rng.exponential(settings.rho_scale))


def stamp_injection(
    amplifier: Amplifier,
    event: Event,
    star_flux_e_row: float = np.inf,
    begins_row: float | None = None,
    ends_row: float | None = None,
) -> Injection:
    """Find the pixels that an event changes, and its optimal S/N at an amplitude of 1 electron per row.

    Parameters
    ----------
    event : Event
    star_flux_e_row : float
    begins_row, ends_row : float, optional
        File rows in which the streak of its star begins and ends.

    Raises
    ------
    ValueError
        If none of its light falls on unmasked pixels of the file.
    """
    curve = event_curve(event, amplifier.n_rows, amplifier.smear_rows, begins_row, ends_row)
    y = lit_pixels(event.y, amplifier.n_y, amplifier.psf_sigma_px)
    x = lit_pixels(event.x, amplifier.n_columns, amplifier.psf_sigma_px)
    profile = amplifier.profile(y - event.y, x - event.x)
    rows = event_rows(event.kind, curve)
    lit = np.flatnonzero(np.abs(curve) > _FAINTEST * np.abs(curve).max())
    window = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1), slice(int(lit[0]), int(lit[-1]) + 1)
    curve = curve[window[2]]
    sigma = amplifier.sigma_rows(*window[:2], window[2].start, window[2].stop)
    live = np.isfinite(amplifier.residual[window])
    unit_rho = optimal_rho(profile[:, :, None] * curve * live, sigma**2)
    if not unit_rho > 0:
        raise ValueError(f"all pixels of {amplifier.entry} that a {event.kind} at x = {event.x:.1f} lights are masked")
    return Injection(event, star_flux_e_row, window[2], *window[:2], curve, profile, rows, unit_rho)


def add_injection(amplifier: Amplifier, injection: Injection, rng: np.random.Generator) -> None:
    """Add an event with its photon noise to the residual in place."""
    place, rows = (injection.y, injection.columns), injection.rows_lit
    sigma = amplifier.sigma_rows(*place, rows.start, rows.stop)
    level = amplifier.level_rows(*place, rows.start, rows.stop)
    found = level + sigma * amplifier.residual[*place, rows].astype(np.float32)
    change = draw_change(rng, injection.signal_e(), level, found, noise_floor_e2(amplifier.readout))
    _add(amplifier, (*place, rows), change / sigma)


def draw_change(
    rng: np.random.Generator, signal_e: np.ndarray, level_e: np.ndarray, found_e: np.ndarray, floor_e2: float
) -> np.ndarray:
    """Electrons by which an event changes pixels that were exposed without it.

    Parameters
    ----------
    rng : Generator
    signal_e : ndarray
        Mean change of each pixel: added light, or removed light where negative.
    level_e : ndarray
        Mean electrons of light in the pixel without the event: sky and stars.
    found_e : ndarray
        Measured electrons of the pixel; NaN where masked.
    floor_e2 : float
        Variance of a pixel without light (electrons²): read noise and digitisation.

    Returns
    -------
    ndarray of float64

    Notes
    -----
    Added light has its own photon noise, exactly, since the sum of two Poisson variates is a Poisson variate. Removed
    light takes its noise with it: each photon of the pixel, whether of the sky or of a star, is lost with probability
    ``p = -signal / level``, as if the star were dimmed. A thinned Poisson variate stays Poisson, with mean and variance
    ``level + signal``. The number of photons is known only with read noise, which is thinned too and so loses
    ``p (2 - p)`` of its variance; this part is restored as Gaussian noise. So mean and variance are exact if
    ``level_e`` is, and the rest of the distribution is exact where photon noise dominates. At most the whole level can
    be removed.
    """
    change = rng.poisson(np.maximum(signal_e, 0.0)).astype(np.float64)
    taken = signal_e < 0
    level = np.maximum(level_e[taken], 1e-6)
    share = np.minimum(-signal_e[taken] / level, 1.0)
    photons = np.rint(np.maximum(np.nan_to_num(found_e[taken]), 0.0)).astype(np.int64)
    lost = rng.binomial(photons, share).astype(np.float64)
    change[taken] = rng.standard_normal(share.size) * np.sqrt(floor_e2 * share * (2 - share)) - lost
    return change


def _add_cosmic_ray(
    amplifier: Amplifier, rng: np.random.Generator, settings: InjectionSettings, room: _Room
) -> tuple | None:
    """Add one cosmic ray in place, if there is room; return its truth row."""
    x, row = rng.uniform(0, amplifier.n_columns - 1), rng.uniform(0, amplifier.n_rows - 1)
    pixels, charge_e = _draw_ray_pixels(amplifier, rng, x, row)
    if not charge_e.size or not room.take(x, pixels[0].mean(), pixels[2].min(), pixels[2].max()):
        return None
    charge_e = charge_e * np.exp(rng.uniform(np.log(settings.faintest_ray), 0))
    sigma = amplifier.sigma_e[pixels[0], pixels[1], amplifier.block_of(pixels[2])]
    amplifier.residual[pixels] += (charge_e / sigma).astype(amplifier.residual.dtype)
    y, x, rows = (axis[np.argmax(charge_e)] for axis in pixels)
    place = (float(x), float(y), int(pixels[2].min()), int(pixels[2].max()), int(rows))
    kind, rho = KIND_TABLE["cosmic_ray"], optimal_rho(charge_e, sigma**2)
    return kind.name, kind.is_event, *place, float(charge_e.sum()), rho, -1, float("nan")


def _draw_ray_pixels(
    amplifier: Amplifier, rng: np.random.Generator, x: float, row: float
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Pixels (y, x, t) of a cosmic ray and the charge in each.

    Its track runs over the rows of the detector: in a stack of images along y, in continuous readout along time.
    """
    start = [rng.uniform(0, amplifier.n_y - 1), x, row] if amplifier.detector_axis == Y_AXIS else [0.0, x, row]
    along = amplifier.detector_axis
    ray: CosmicRay = draw_cosmic_ray(rng, start[along], x, amplifier.residual.shape[along], amplifier.n_columns)
    pixels = [np.full(ray.rows.shape, round(place)) for place in start]
    pixels[along], pixels[1] = ray.rows, ray.columns
    return (pixels[0], pixels[1], pixels[2]), ray.charge_e


def _add(amplifier: Amplifier, window: tuple[slice, slice, slice], sigmas: np.ndarray) -> None:
    """Add to the residual in float32, limited to the range of float16."""
    total = amplifier.residual[window].astype(np.float32) + sigmas
    amplifier.residual[window] = np.clip(total, -LARGEST_HALF, LARGEST_HALF)


def scramble_rows(amplifier: Amplifier, rng: np.random.Generator, spike_sigma: float = 6.0) -> Amplifier:
    """Noise without events: pixels above ``spike_sigma`` masked, rows in random order.

    This destroys everything longer than a row, but keeps signals shared by a row and the distribution of the noise.
    """
    order = rng.permutation(amplifier.n_rows)
    residual = np.array(amplifier.residual)
    residual[np.abs(residual) > spike_sigma] = np.nan
    return replace(
        amplifier, residual=np.ascontiguousarray(residual[:, :, order]), row_residual=amplifier.row_residual[order]
    )

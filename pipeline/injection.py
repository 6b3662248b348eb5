"""Events and cosmic rays injected into calibrated amplifiers: electrons, through the same point-spread function."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from shutterless.pipeline.artefacts import CosmicRay, draw_cosmic_ray
from shutterless.pipeline.events import (
    STAR_KINDS,
    Event,
    amplitude_limits,
    central_rows,
    draw_event,
    event_stamp,
    optimal_rho,
    scale_to_rho,
)
from shutterless.pipeline.store import BLOCK_ROWS, Amplifier

INJECTED_COLUMNS = (
    "kind",
    "is_event",
    "x",
    "row_start",
    "row_stop",
    "row_peak",
    "amplitude_e",
    "rho",
    "star_id",
    "star_mag",
)
SEPARATION_PX = 24  # between injections whose rows overlap, so that each is alone in its strip
SEPARATION_ROWS = 128
_MAX_TRIES = 40


@dataclass(frozen=True)
class InjectionSettings:
    """What is injected into an amplifier.

    Parameters
    ----------
    kinds : tuple of (str, float)
        Kinds of event and their shares.
    orphan_fraction : float
        Share of bursts that stand on no star.
    min_rho, rho_scale : float
        Optimal S/N: ``min_rho`` plus an exponential of this scale.
    bright_fraction, max_rho : float
        This share is log-uniform between 20 and ``max_rho`` instead.
    faintest_ray : float
        Cosmic rays are dimmed by a factor log-uniform between this and 1, so that the difficult ones are many.
    """

    kinds: tuple[tuple[str, float], ...] = (("flare", 0.3), ("burst", 0.4), ("occultation", 0.2), ("glint", 0.1))
    orphan_fraction: float = 0.4
    min_rho: float = 4.5
    rho_scale: float = 5.0
    bright_fraction: float = 0.1
    max_rho: float = 500.0
    faintest_ray: float = 0.01


def inject(
    amplifier: Amplifier, rng: np.random.Generator, settings: InjectionSettings, n_events: int, n_cosmic_rays: int = 0
) -> tuple[Amplifier, pd.DataFrame]:
    """Inject events and cosmic rays into a copy of an amplifier.

    Parameters
    ----------
    amplifier : Amplifier
    rng : Generator
    settings : InjectionSettings
    n_events, n_cosmic_rays : int
        How many to try; fewer are injected where the amplifier has no room left for more.

    Returns
    -------
    amplifier : Amplifier
        Its residual in memory.
    truth : DataFrame
        `INJECTED_COLUMNS`, one row per injection.

    Notes
    -----
    Light that is added brings its own photon noise, exactly: the sum of two Poisson variates is one. Light that is
    taken away should take its noise with it; it does not, so the noise in an injected occultation stays that of the
    undimmed star. On background-limited stars, all fainter than r = 10.5, that is next to nothing.
    """
    residual = np.array(amplifier.residual)
    target = replace(amplifier, residual=residual)
    room = _Room()
    rows = []
    for _ in range(n_events):
        placed = _place_event(target, rng, settings, room)
        if placed is not None:
            rows.append(_add_event(target, *placed, rng))
    for _ in range(n_cosmic_rays):
        row = _add_cosmic_ray(target, rng, settings, room)
        if row is not None:
            rows.append(row)
    return target, pd.DataFrame(rows, columns=list(INJECTED_COLUMNS))


class _Room:
    """Places already taken, as (x, first row, last row)."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float]] = []

    def take(self, x: float, start: float, stop: float) -> bool:
        """Take a place and say so, unless it is too near to another."""
        for other, first, last in self._taken:
            if abs(other - x) < SEPARATION_PX and start - SEPARATION_ROWS < last and stop + SEPARATION_ROWS > first:
                return False
        self._taken.append((x, start, stop))
        return True


def _place_event(
    amplifier: Amplifier, rng: np.random.Generator, settings: InjectionSettings, room: _Room
) -> tuple[Event, float, tuple[int, int, int]] | None:
    """Draw an event whose amplitude its star can have, where there is room: the event, its rho and its rows."""
    names, shares = zip(*settings.kinds, strict=True)
    kind = str(rng.choice(names, p=shares))
    for _ in range(_MAX_TRIES):
        try:
            event, flux = _draw_event(amplifier, kind, rng, settings)
        except ValueError:  # too long for what the file holds of this star; another may leave room
            continue
        curve, first, profile = event_stamp(event, amplifier.n_rows, amplifier.n_columns, amplifier.psf_sigma_px)
        rows = central_rows(curve)
        # the noise around the peak stands for that of the whole event here; the truth gets the exact rho
        sigma = amplifier.sigma_rows(slice(first, first + len(profile)), rows[2], rows[2] + 1)[:, 0]
        unit_rho = optimal_rho(profile, sigma**2) * float(np.linalg.norm(curve))
        event = scale_to_rho(event, unit_rho, _draw_rho(rng, settings))
        lowest, highest = amplitude_limits(event, flux)
        if lowest <= abs(event.amplitude_e) <= highest and room.take(event.x, rows[0], rows[1]):
            return event, flux, rows
    return None


def _draw_event(
    amplifier: Amplifier, kind: str, rng: np.random.Generator, settings: InjectionSettings
) -> tuple[Event, float]:
    """An event of unit amplitude somewhere on the amplifier, and the flux of its star (electrons per row)."""
    on_star = kind in STAR_KINDS and not (kind == "burst" and rng.random() < settings.orphan_fraction)
    x, star_id, star_mag, flux = rng.uniform(0, amplifier.n_columns - 1), -1, float("nan"), float("inf")
    begins = 0.0
    if on_star and len(amplifier.streaks):
        star = amplifier.streaks.iloc[int(rng.integers(len(amplifier.streaks)))]
        x, star_id, star_mag, flux = star["x"], int(star["streak_id"]), float(star["mag"]), float(star["flux_e_row"])
        begins = float(np.nan_to_num(star["y0"])) - (amplifier.readout.first_row or 0)
    x = float(np.clip(x, 0, amplifier.n_columns - 1))
    rate = amplifier.readout.row_rate_hz
    event = draw_event(
        rng,
        kind,
        row_rate_hz=rate,
        n_rows=amplifier.n_rows,
        x=x,
        earliest_row=max(begins, 0.0),  # before its streak begins a star cannot flare
        star_id=star_id,
        star_mag=star_mag,
    )
    return event, flux


def _draw_rho(rng: np.random.Generator, settings: InjectionSettings) -> float:
    if rng.random() < settings.bright_fraction:
        return float(np.exp(rng.uniform(np.log(20.0), np.log(settings.max_rho))))
    return float(settings.min_rho + rng.exponential(settings.rho_scale))


def _add_event(
    amplifier: Amplifier, event: Event, flux: float, rows: tuple[int, int, int], rng: np.random.Generator
) -> tuple:
    """Add an event to the residual in place; its truth row."""
    curve, first, profile = event_stamp(event, amplifier.n_rows, amplifier.n_columns, amplifier.psf_sigma_px)
    lit = np.flatnonzero(curve > 1e-6 * curve.max())
    start, stop = int(lit[0]), int(lit[-1]) + 1
    columns = slice(first, first + len(profile))
    sigma = amplifier.sigma_rows(columns, start, stop)
    signal = event.amplitude_e * profile[:, None] * curve[None, start:stop]
    rho = optimal_rho(signal, sigma**2)
    if event.amplitude_e > 0:
        signal = rng.poisson(signal)
    _add(amplifier, columns, slice(start, stop), signal / sigma)
    return event.kind, True, event.x, *rows, event.amplitude_e, rho, event.star_id, event.star_mag


def _add_cosmic_ray(
    amplifier: Amplifier, rng: np.random.Generator, settings: InjectionSettings, room: _Room
) -> tuple | None:
    """Add one cosmic ray in place, if there is room; its truth row."""
    x, row = rng.uniform(0, amplifier.n_columns - 1), rng.uniform(0, amplifier.n_rows - 1)
    ray: CosmicRay = draw_cosmic_ray(rng, row, x, amplifier.n_rows, amplifier.n_columns)
    if not ray.rows.size or not room.take(x, ray.rows.min(), ray.rows.max()):
        return None
    charge_e = ray.charge_e * np.exp(rng.uniform(np.log(settings.faintest_ray), 0))
    blocks = np.minimum(ray.rows // BLOCK_ROWS, amplifier.sigma_e.shape[2] - 1)
    sigma = amplifier.sigma_e[0, ray.columns, blocks]
    amplifier.residual[0, ray.columns, ray.rows] += (charge_e / sigma).astype(amplifier.residual.dtype)
    brightest = int(np.argmax(charge_e))
    place = (float(ray.columns[brightest]), int(ray.rows.min()), int(ray.rows.max()), int(ray.rows[brightest]))
    rho = optimal_rho(charge_e, sigma**2)
    return "cosmic_ray", False, *place, float(charge_e.sum()), rho, -1, float("nan")


def _add(amplifier: Amplifier, columns: slice, rows: slice, sigmas: np.ndarray) -> None:
    """Add to the residual in float32, limited to what float16 holds."""
    total = amplifier.residual[0, columns, rows].astype(np.float32) + sigmas
    amplifier.residual[0, columns, rows] = np.clip(total, -6e4, 6e4)


def scramble_rows(amplifier: Amplifier, rng: np.random.Generator, spike_sigma: float = 6.0) -> Amplifier:
    """Noise without events: pixels above ``spike_sigma`` masked, rows in random order.

    Nothing longer than a row survives; what rows share and how noise is distributed over pixels does.
    """
    order = rng.permutation(amplifier.n_rows)
    residual = np.array(amplifier.residual)
    residual[np.abs(residual) > spike_sigma] = np.nan
    return replace(
        amplifier, residual=np.ascontiguousarray(residual[:, :, order]), row_residual=amplifier.row_residual[order]
    )

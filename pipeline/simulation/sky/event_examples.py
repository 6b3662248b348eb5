"""Draw one example of every kind of event, for pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shutterless.pipeline.events.events import Event, amplitude_limits, draw_event, event_rows, event_stamp
from shutterless.pipeline.events.kinds import EVENT_KINDS, EVENT_TABLE, STAR_KINDS
from shutterless.pipeline.psf import pixel_profile

_N_COLUMNS, _SIGMA_PX, _SKY_E, _READ_NOISE_E = 24, 0.84, 314.0, 10.0


@dataclass(frozen=True)
class EventExample:
    """An event on a star, or on none, over a sky of r = 20.8.

    Parameters
    ----------
    event : Event
    curve_e : ndarray of float64, shape (t,)
        Electrons that the event adds to each row (or removes), summed over columns.
    mean_e : ndarray of float64, shape (t, x)
        Mean electrons of sky, star and event.
    exposed_e : ndarray of float64, shape (t, x)
        The same with photon and read noise.
    """

    event: Event
    curve_e: np.ndarray
    mean_e: np.ndarray
    exposed_e: np.ndarray


def example_event(
    rng: np.random.Generator, kind: str, *, star_flux_e_row: float = 2000.0, row_rate_hz: float = 300.0
) -> EventExample:
    """Draw one event of a kind, as strong as is plausible on its star, in the rows that contain it.

    Parameters
    ----------
    rng : Generator
    kind : str
        One of `shutterless.pipeline.events.kinds.EVENT_KINDS`.
    star_flux_e_row : float
        Electrons per row of the star (2,000: r = 10.1 at ZTF); an event without a star has as many at its peak.
    row_rate_hz : float

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    if kind not in EVENT_KINDS:
        raise ValueError(f"no example of {kind!r}; there are {', '.join(EVENT_KINDS)}")
    x = _N_COLUMNS / 2 - 0.3
    event = draw_event(rng, kind, row_rate_hz=row_rate_hz, n_rows=round(120 * row_rate_hz), x=x, longest_flare_s=1.0)
    on_star = kind in STAR_KINDS
    if on_star:
        event = replace(event, star_id=0)
    strength = amplitude_limits(event, star_flux_e_row)[1] if on_star else star_flux_e_row
    event = replace(event, amplitude_e=float(np.copysign(min(strength, star_flux_e_row), event.amplitude_e)))
    event, n_rows = _cut_out(event, row_rate_hz)
    curve, first_column, profile = event_stamp(event, n_rows, _N_COLUMNS, _SIGMA_PX)
    mean_e = np.full((n_rows, _N_COLUMNS), _SKY_E)
    if on_star:
        mean_e += star_flux_e_row * pixel_profile(np.arange(_N_COLUMNS) - x, _SIGMA_PX)
    mean_e[:, first_column : first_column + len(profile)] += event.amplitude_e * np.outer(curve, profile)
    mean_e = np.maximum(mean_e, 0.0)
    exposed_e = rng.poisson(mean_e) + _READ_NOISE_E * rng.standard_normal(mean_e.shape)
    return EventExample(event, event.amplitude_e * curve, mean_e, exposed_e)


def _cut_out(event: Event, row_rate_hz: float) -> tuple[Event, int]:
    """Move an event to the middle of the rows that show it; their number is returned too."""
    whole = replace(event, row_peak=round(120 * row_rate_hz) / 2 + event.row_peak % 1)
    shown_s = EVENT_TABLE[event.kind].shown_s
    if shown_s is not None:
        n_rows = round(shown_s * row_rate_hz)
        return replace(event, row_peak=n_rows / 2), n_rows
    start, stop, _ = event_rows(event.kind, whole.light_curve(round(120 * row_rate_hz), _SIGMA_PX))
    margin = max((stop - start) // 2, 12)
    return replace(whole, row_peak=whole.row_peak - start + margin), stop - start + 1 + 2 * margin

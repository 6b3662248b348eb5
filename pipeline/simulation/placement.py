"""Place the events of a simulated amplifier: draw the star or place and the amplitude of each, without overlaps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shutterless.pipeline.events.events import (
    EDGES,
    Event,
    amplitude_limits,
    choose_cut,
    draw_event,
    event_rows,
    event_stamp,
    optimal_rho,
    scale_to_rho,
)
from shutterless.pipeline.events.kinds import EVENT_TABLE, LONGEST_FLARE_S, Place
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.simulation.scene import Rows, Scene
from shutterless.pipeline.simulation.settings import SceneError, SceneSettings

_LEAST_SEPARATION_PX, _LEAST_GAP_ROWS = 12.0, 12
# of the peak; fainter light does not count, and light below its square is not stored
_FAINTEST = 1e-9
_PIECE_ROWS = 2048


@dataclass(frozen=True)
class PlacedEvent:
    """An event and the pixels it lights: ``event.amplitude_e * outer(curve, profile)``, from a first row and column on.

    Parameters
    ----------
    event : Event
    first_row : int
        File row of the first entry of ``curve``.
    curve : ndarray of float64, shape (t,)
        Light curve of unit amplitude over those rows of the file that it lights.
    first_column : int
    profile : ndarray of float64, shape (w,)
    rho : float
        Optimal S/N, which may be below the requested one.
    rows : (int, int, int)
        First, last and peak file row of the central 90 %.
    y0 : float
        Detector row of its star, or of the orphan.
    """

    event: Event
    first_row: int
    curve: np.ndarray
    first_column: int
    profile: np.ndarray
    rho: float
    rows: tuple[int, int, int]
    y0: float

    def within(self, block: slice) -> tuple[int, np.ndarray]:
        """First row, counted from the block's, and light curve of the part that falls into a block of file rows."""
        start = max(block.start, self.first_row)
        stop = max(min(block.stop, self.first_row + len(self.curve)), start)
        return start - block.start, self.curve[start - self.first_row : stop - self.first_row]


def place_events(
    settings: SceneSettings, scene: Scene, rng: np.random.Generator, rows: Rows, orphan_y0: np.ndarray
) -> list[PlacedEvent]:
    """Draw the events of one amplifier and file, without overlaps.

    Parameters
    ----------
    rows : sequence of int, length t
        Sequence row numbers of the file.
    orphan_y0 : ndarray, shape (settings.events,)
        Detector row of each event that is on no star.

    Raises
    ------
    SceneError
        If the events do not fit.
    """
    placed: list[PlacedEvent] = []
    for _ in range(40 * settings.events):
        if len(placed) == settings.events:
            break
        kind, rho = str(rng.choice(settings.kinds)), rng.uniform(*settings.rho)
        # nothing happened before the shutter opened
        cut = choose_cut(rng, settings.partial, EDGES if rows[0] > 0 else EDGES[1:])
        try:
            candidate = place_event(
                scene, rng, kind, rho, rows, float(orphan_y0[len(placed)]), cut, settings.longest_flare_s
            )
        except ValueError:  # this kind is too long for the file or has no star; the next draw may be another kind
            continue
        if not any(_clash(candidate, other) for other in placed):
            placed.append(candidate)
    if len(placed) < settings.events:
        raise SceneError(
            f"only {len(placed)} of {settings.events} events of kinds {settings.kinds} fit into {len(rows)} rows and "
            f"{scene.n_columns} columns with {len(scene.x)} stars; ask for fewer, or for more rows"
        )
    return placed


def _clash(one: PlacedEvent, other: PlacedEvent) -> bool:
    apart = abs(one.event.x - other.event.x) >= _LEAST_SEPARATION_PX
    before = one.rows[1] + _LEAST_GAP_ROWS < other.rows[0] or other.rows[1] + _LEAST_GAP_ROWS < one.rows[0]
    return not (apart or before)


def place_event(
    scene: Scene,
    rng: np.random.Generator,
    kind: str,
    rho: float,
    rows: Rows,
    orphan_y0: float = 0.0,
    cut: str | None = None,
    longest_flare_s: float = LONGEST_FLARE_S,
) -> PlacedEvent:
    """Draw one event of a kind, choose its star or place, and give it the amplitude of optimal S/N ``rho``.

    ``cut`` and ``longest_flare_s`` are those of `shutterless.pipeline.events.events.draw_event`. If the ``rho`` is
    plausible on no star, the star that comes nearest is chosen and the amplitude is limited. ``PlacedEvent.rho`` is the
    resulting S/N.
    """
    reach = 6 * scene.psf_sigma_px
    x = rng.uniform(reach, max(scene.n_columns - 1 - reach, reach))
    event = draw_event(
        rng, kind, row_rate_hz=scene.row_rate_hz, n_rows=len(rows), x=x, longest_flare_s=longest_flare_s, cut=cut
    )
    place = EVENT_TABLE[kind].place
    if place == Place.STAR or (place == Place.EITHER and rng.random() < 0.5):
        event = _choose_star(scene, rng, event, rho, rows)
    y0 = float(scene.y0[event.star_id]) if event.star_id >= 0 else orphan_y0
    first_row, curve, first_column, profile = _lit_stamp(scene, event, rows, y0)
    lit = np.flatnonzero(np.abs(curve) > _FAINTEST)
    if lit.size == 0:
        raise ValueError("none of its light falls into these rows")
    lit_rows = rows[first_row + lit[0] : first_row + lit[-1] + 1]
    variance = scene.variance_e2(lit_rows, first_column, len(profile))
    unit_rho = optimal_rho(np.outer(curve[lit[0] : lit[-1] + 1], profile), variance)
    event = scale_to_rho(event, unit_rho, rho)
    if event.star_id >= 0:
        limits = amplitude_limits(event, scene.flux_e_row[event.star_id])
        event = replace(
            event, amplitude_e=float(np.copysign(np.clip(abs(event.amplitude_e), *limits), event.amplitude_e))
        )
    reached = abs(event.amplitude_e) * unit_rho
    if kind == "eclipse":  # the rows of the shadow's change, not of the streak's beginning or end
        start, stop, peak = event_rows(kind, light_curve_by_pieces(event, len(rows), scene.psf_sigma_px))
    else:
        start, stop, peak = (first_row + row for row in event_rows(kind, curve))
    if event.star_id < 0:  # light that is read in row k of the ramp fell at most k rows from the register
        y0 *= min(1.0, (rows[max(start, 0)] + 1) / scene.n_transit)
    return PlacedEvent(event, first_row, curve, first_column, profile, reached, (start, stop, peak), y0)


def light_curve_by_pieces(event: Event, n_rows: int, sigma_rows: float) -> np.ndarray:
    """Light curve of unit amplitude over a file's rows, shape (t,), in the memory of some thousand rows and the result.

    A light curve depends only on the distance of rows from the peak, so it can be computed in pieces. At once, a flare
    much longer than a row would need a hundred numbers per row.
    """
    pieces = [
        replace(event, row_peak=event.row_peak - start).light_curve(min(_PIECE_ROWS, n_rows - start), sigma_rows)
        for start in range(0, n_rows, _PIECE_ROWS)
    ]
    return np.concatenate(pieces)


def _lit_stamp(scene: Scene, event: Event, rows: Rows, y0: float) -> tuple[int, np.ndarray, int, np.ndarray]:
    """First file row, light curve, first column and profile of an event, where its place has light."""
    _, first_column, profile = event_stamp(event, 1, scene.n_columns, scene.psf_sigma_px)
    curve = light_curve_by_pieces(event, len(rows), scene.psf_sigma_px)
    lit = np.flatnonzero(np.abs(curve) > _FAINTEST * _FAINTEST)
    if lit.size == 0:
        raise ValueError("none of its light falls into these rows")
    first, last = int(lit[0]), int(lit[-1])
    curve = curve[first : last + 1].copy()
    if event.star_id >= 0 or scene.close_row is not None:  # nothing before its streak begins or after it ends
        curve *= scene.streak(rows[first : last + 1], y0)
    return first, curve, first_column, profile


def _choose_star(scene: Scene, rng: np.random.Generator, event: Event, rho: float, rows: Rows) -> Event:
    """Put an event on a star whose streak covers it, and on which the amplitude for ``rho`` is most plausible."""
    curve = light_curve_by_pieces(event, len(rows), scene.psf_sigma_px)
    reach = 6 * scene.psf_sigma_px
    start, stop, peak = event_rows(event.kind, curve)
    has_light = scene.y0 < rows[start] - reach
    if scene.close_row is not None:
        has_light &= scene.y0 + scene.close_row > rows[stop] + reach
    stars = np.flatnonzero(has_light & (scene.x > reach) & (scene.x < scene.n_columns - 1 - reach))
    if stars.size == 0:
        raise ValueError("no star shines yet" if scene.close_row is None else "no star shines all through it")
    # a first estimate of each star's unit rho from its variance in one row, the last before the drain
    guess = rows[-1:] if scene.close_row is None else rows[peak : peak + 1]
    variance = scene.variance_e2(guess, 0, scene.n_columns)[0]
    columns = np.rint(scene.x[stars])[:, None].astype(int) + np.arange(-int(reach), int(reach) + 1)
    profiles = pixel_profile(columns - scene.x[stars][:, None], scene.psf_sigma_px)
    unit_rho = np.sqrt(np.sum(curve**2) * np.sum(profiles**2 / variance[columns], axis=1))
    limits = amplitude_limits(replace(event, star_id=0), 1.0)
    relative = rho / unit_rho / scene.flux_e_row[stars]
    excess = np.maximum(relative / limits[1], limits[0] / relative)
    suitable = stars[excess <= 1]
    star = int(rng.choice(suitable)) if suitable.size else int(stars[np.argmin(excess)])
    return replace(event, x=float(scene.x[star]), star_id=star, star_mag=float(scene.mag[star]))

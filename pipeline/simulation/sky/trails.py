"""Compute the trails of satellites, aircraft and meteors in the rows of one amplifier.

An object is drawn once, in the focal plane of the whole sequence (`moving_lights.draw_trails`). Each amplifier then
selects those that cross it (`trails_in_amplifier`) and adds their light to the rows that it renders (`add_trails`).

Light that falls on detector row y at time t is read in row ``k = v t + y``. So an object with image velocity (wx, wy)
leaves a straight trail of slope ``dx/dk = wx / (v + wy)``. Trails of geosynchronous satellites are within 3 degrees of
vertical, and those of low orbits are far from it. Meteors are so fast that their trails are those on the sky.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import erf

import numba
import numpy as np

from shutterless.pipeline.astrometry.focal_plane import CENTRAL_OBSTRUCTION, FocalPlane
from shutterless.pipeline.simulation.sky.moving_lights import Brightness, SkyTrail, TrailError

_REACH = 5.0  # standard deviations of the point-spread function that are lit
_STEP = 0.5  # of σ along the path; the midpoint rule over a Gaussian errs by 1e-34, and by 0.3 % where a light begins
_PATCH_ROWS = 512  # rendered at once for sums
_PUPIL_POINTS = 48  # of a disc far out of focus; motion blurs the gaps between them
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True)
class AmplifierTrail:
    """The part of a moving light that falls on one amplifier, in read coordinates.

    Parameters
    ----------
    kind : str
    object_id : int
    x, y : float
        Column and detector row at ``start_s``.
    velocity_x, velocity_y : float
        Pixels per second.
    start_s, stop_s : float
        First and last time at which it lights pixels of this amplifier, in seconds since the shutter opened.
    begin_s, end_s : float
        First and last time of its light anywhere.
    brightness : Brightness
    sigma_px, blur_px : float
        Width of the point-spread function of a star, and diameter of the pupil's image.
    row_rate_hz : float
    n_columns, n_transit : int
    """

    kind: str
    object_id: int
    x: float
    y: float
    velocity_x: float
    velocity_y: float
    start_s: float
    stop_s: float
    begin_s: float
    end_s: float
    brightness: Brightness
    sigma_px: float
    blur_px: float
    row_rate_hz: float
    n_columns: int
    n_transit: int

    @property
    def slope(self) -> float:
        """Columns per sequence row, ``wx / (v + wy)``."""
        rows_s = self.row_rate_hz + self.velocity_y
        return float(np.divide(self.velocity_x, rows_s)) if rows_s != 0 else float(np.copysign(np.inf, self.velocity_x))

    @property
    def angle_deg(self) -> float:
        """Angle from vertical (a star's streak), from -90 to 90 degrees; positive leans to higher columns."""
        return float(np.degrees(np.arctan(self.slope)))

    @property
    def row_enter(self) -> float:
        """Sequence row of the first light."""
        return self.row_rate_hz * self.start_s + self.y

    @property
    def row_leave(self) -> float:
        """Sequence row of the last light; before `row_enter` if the image outruns the rows towards the register."""
        return self.row_enter + (self.row_rate_hz + self.velocity_y) * (self.stop_s - self.start_s)

    @property
    def x_enter(self) -> float:
        """Column of the first light."""
        return self.x

    @property
    def x_leave(self) -> float:
        """Column of the last light."""
        return self.x + self.velocity_x * (self.stop_s - self.start_s)

    @property
    def reach_px(self) -> float:
        """Distance from the path within which it lights pixels."""
        return _reach(self.sigma_px, self.blur_px)

    @property
    def rows(self) -> tuple[int, int]:
        """First and last sequence row that it can light."""
        low, high = sorted((self.row_enter, self.row_leave))
        return int(np.floor(low - self.reach_px)), int(np.ceil(high + self.reach_px))

    @property
    def amplitude_e(self) -> float:
        """Electrons in its brightest row, summed over columns."""
        return float(trail_light(self)[1].max())


def _reach(sigma_px: float, blur_px: float) -> float:
    return _REACH * float(np.hypot(sigma_px, blur_px / 4)) + blur_px / 2 + 1


def trails_in_amplifier(
    trails: Sequence[SkyTrail],
    plane: FocalPlane,
    ccd: int,
    quadrant: int,
    *,
    row_rate_hz: float,
    sigma_px: float,
    close_s: float = np.inf,
) -> list[AmplifierTrail]:
    """Find the moving lights that fall on one amplifier.

    Parameters
    ----------
    trails : sequence of SkyTrail
    plane : FocalPlane
    ccd, quadrant : int
        From 1.
    row_rate_hz : float
    sigma_px : float
        Width of a star's Gaussian point-spread function (pixels).
    close_s : float
        Time at which the shutter closes, in seconds since it opened.
    """
    if row_rate_hz <= 0 or sigma_px <= 0:
        raise TrailError(f"row_rate_hz {row_rate_hz} and sigma_px {sigma_px} must be positive")
    frame = plane.frame(ccd, quadrant)
    found = []
    for trail in trails:
        x, y = frame.to_read(trail.x, trail.y)
        velocity_x, velocity_y = frame.sign_x * trail.velocity_x, frame.sign_y * trail.velocity_y
        reach = _reach(sigma_px, trail.blur_px)
        start, stop = _passage_s(
            ((x, velocity_x, plane.n_columns), (y, velocity_y, plane.n_transit)), trail.time_s, reach
        )
        start, stop = max(start, trail.begin_s, 0.0), min(stop, trail.end_s, close_s)
        if start < stop == np.inf:
            raise TrailError(
                f"a {trail.kind} that stands still shines without end; give it end_s, or close the shutter"
            )
        if start < stop:
            found.append(
                AmplifierTrail(
                    kind=trail.kind,
                    object_id=trail.object_id,
                    x=x + velocity_x * (start - trail.time_s),
                    y=y + velocity_y * (start - trail.time_s),
                    velocity_x=velocity_x,
                    velocity_y=velocity_y,
                    start_s=start,
                    stop_s=stop,
                    begin_s=trail.begin_s,
                    end_s=trail.end_s,
                    brightness=trail.brightness,
                    sigma_px=sigma_px,
                    blur_px=trail.blur_px,
                    row_rate_hz=row_rate_hz,
                    n_columns=plane.n_columns,
                    n_transit=plane.n_transit,
                )
            )
    return found


def _passage_s(axes: tuple[tuple[float, float, int], ...], time_s: float, reach: float) -> tuple[float, float]:
    """First and last time of a path within ``reach`` of the pixels; axes hold place, velocity and number of pixels."""
    start, stop = -np.inf, np.inf
    for place, velocity, n_pixels in axes:
        low, high = -0.5 - reach - place, n_pixels - 0.5 + reach - place
        if velocity == 0:
            if not low < 0 < high:
                return np.inf, -np.inf
            continue
        times = sorted((time_s + low / velocity, time_s + high / velocity))
        start, stop = max(start, times[0]), min(stop, times[1])
    return start, stop


def pupil_points(blur_px: float, sigma_px: float) -> tuple[np.ndarray, float]:
    """Approximate the image of a point nearer than infinity by equal Gaussians.

    Parameters
    ----------
    blur_px : float
        Diameter of the pupil's image, an annulus around the central obstruction.
    sigma_px : float
        Width of a star.

    Returns
    -------
    points : ndarray of float64, shape (p, 2)
        Their offsets along columns and rows.
    sigma_px : float
        Their width. An annulus not much wider than a star becomes one Gaussian, wider by the annulus's variance
        ``R² (1 + ε²)/4`` along each axis.
    """
    radius = blur_px / 2
    if radius < 1.5 * sigma_px:
        return np.zeros((1, 2)), float(np.sqrt(sigma_px**2 + radius**2 * (1 + CENTRAL_OBSTRUCTION**2) / 4))
    share = (np.arange(_PUPIL_POINTS) + 0.5) / _PUPIL_POINTS
    distance = radius * np.sqrt(CENTRAL_OBSTRUCTION**2 + (1 - CENTRAL_OBSTRUCTION**2) * share)
    angle = _GOLDEN_ANGLE * np.arange(_PUPIL_POINTS)
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1), sigma_px


def add_trails(mean_e: np.ndarray, first_row: int, trails: Sequence[AmplifierTrail]) -> None:
    """Add the light of moving sources to a block of rows, in place.

    Parameters
    ----------
    mean_e : ndarray of float64, shape (t, x)
        Mean electrons of consecutive sequence rows, all columns of the amplifier.
    first_row : int
        Sequence row of the first.
    trails : sequence of AmplifierTrail

    Notes
    -----
    The path is cut into equal time steps, shorter than σ. Each step adds its electrons as Gaussians integrated over
    pixels, without the part beyond the first and the last detector row. The sum of a pixel and its order do not depend
    on how the rows are cut into blocks.
    """
    for trail in trails:
        if mean_e.shape[1] != trail.n_columns:
            raise TrailError(
                f"rows of {mean_e.shape[1]} columns cannot take a trail on an amplifier of {trail.n_columns}; "
                "give all columns"
            )
        first, last = trail.rows
        if first < first_row + len(mean_e) and last >= first_row:
            _add_patch(mean_e, first_row, 0, trail)


def _add_patch(patch_e: np.ndarray, first_row: int, first_column: int, trail: AmplifierTrail) -> None:
    """Add a trail to a patch of pixels, shape (t, x)."""
    light = trail.brightness
    points, sigma = pupil_points(trail.blur_px, trail.sigma_px)
    duration = trail.stop_s - trail.start_s
    # a step must be short on the detector and in rows
    speed = np.hypot(trail.velocity_x, max(abs(trail.velocity_y), abs(trail.row_rate_hz + trail.velocity_y)))
    n_steps = int(np.ceil(duration / min(_STEP * sigma / speed, light.shortest_s)))
    _add_path(
        patch_e, first_row, trail.x - first_column, trail.y, trail.velocity_x, trail.velocity_y,
        trail.start_s, duration / n_steps, n_steps, trail.row_rate_hz, trail.n_transit, points, sigma,
        light.flux_e_s, light.period_s, light.phase, light.wave, light.flash_e_s, light.flash_s,
        trail.begin_s if light.fades else 0.0, trail.end_s - trail.begin_s if light.fades else 0.0,
    )  # fmt: skip


def trail_patches(trail: AmplifierTrail, first_row: int, n_rows: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Render a trail in pieces that cover only the columns it lights.

    Parameters
    ----------
    trail : AmplifierTrail
    first_row, n_rows : int
        Range of sequence rows.

    Yields
    ------
    first_row, first_column : int
    electrons : ndarray of float64, shape (t, x)
    """
    low, high = max(first_row, trail.rows[0]), min(first_row + n_rows - 1, trail.rows[1])
    margin = trail.reach_px
    for top in range(low, high + 1, _PATCH_ROWS):
        rows = min(_PATCH_ROWS, high + 1 - top)
        columns = np.array([trail.x_enter, trail.x_leave])
        if trail.row_leave != trail.row_enter:  # where the path passes the patch
            ends = np.sort([trail.row_enter, trail.row_leave])
            edges = np.clip(np.array([top - margin, top + rows + margin]), ends[0], ends[1])
            columns = trail.x_enter + trail.slope * (edges - trail.row_enter)
        left = max(int(np.floor(columns.min() - margin)), 0)
        right = min(int(np.ceil(columns.max() + margin)), trail.n_columns - 1)
        if right >= left:
            patch = np.zeros((rows, right - left + 1))
            _add_patch(patch, top, left, trail)
            yield top, left, patch


def trail_light(
    trail: AmplifierTrail, first_row: int | None = None, n_rows: int | None = None
) -> tuple[int, np.ndarray]:
    """Electrons of a trail in each row, summed over columns.

    Parameters
    ----------
    trail : AmplifierTrail
    first_row, n_rows : int or None
        Range of sequence rows; None for all that it lights.

    Returns
    -------
    first_row : int
    light : ndarray of float64, shape (t,)
    """
    if first_row is None or n_rows is None:
        first_row, n_rows = trail.rows[0], trail.rows[1] - trail.rows[0] + 1
    light = np.zeros(n_rows)
    for top, _, patch in trail_patches(trail, first_row, n_rows):
        light[top - first_row : top - first_row + len(patch)] = patch.sum(axis=1)
    return first_row, light


def trail_rho(trail: AmplifierTrail, first_row: int, n_rows: int, variance_e2: float) -> float:
    """Optimal S/N of a trail in a range of rows over a background of equal variance per pixel (electrons²)."""
    squares = sum(float(np.sum(patch**2)) for _, _, patch in trail_patches(trail, first_row, n_rows))
    return float(np.sqrt(squares / variance_e2))


@numba.njit(cache=True, nogil=True)
def _add_path(
    mean, first_row, x0, y0, velocity_x, velocity_y, start, step_s, n_steps, row_rate, n_transit, points, sigma,
    flux, period, phase, wave, flash, flash_s, begin, span,
):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled  # fmt: skip
    """Compiled loop of `add_trails` for a trail; ``x0`` counts from the patch's first column, ``span`` 0: no fading."""
    n_rows, n_columns = mean.shape
    reach = _REACH * sigma
    width = np.empty(2 * int(np.ceil(reach)) + 3)
    per_sigma = 1 / (np.sqrt(2.0) * sigma)
    extent = reach + 1 + np.sqrt(np.max(points[:, 0] ** 2 + points[:, 1] ** 2))
    origin = row_rate * (start + 0.5 * step_s) + y0 + velocity_y * 0.5 * step_s
    rows_per_step = (row_rate + velocity_y) * step_s
    first, last = _steps_between(origin, rows_per_step, n_steps, first_row - extent, first_row + n_rows + extent)
    for i in range(first, last):
        since = (i + 0.5) * step_s
        t = start + since
        cycle = t / period + phase
        light = flux * (1 + wave * np.sin(2 * np.pi * cycle))
        if (cycle - np.floor(cycle)) * period < flash_s:
            light += flash
        if span > 0:
            u = (t - begin) / span
            light *= 6 * u * (1 - u)
        share = light * step_s / len(points) / 4  # each erf difference is twice a fraction
        clocked = row_rate * t
        for p in range(len(points)):
            x = x0 + velocity_x * since + points[p, 0]
            y = y0 + velocity_y * since + points[p, 1]
            left = max(int(np.ceil(x - reach - 0.5)), 0)
            right = min(int(np.floor(x + reach + 0.5)) + 1, n_columns)
            top = max(int(np.ceil(clocked + y - reach - 0.5)), first_row)
            bottom = min(int(np.floor(clocked + y + reach + 0.5)) + 1, first_row + n_rows)
            if left >= right or top >= bottom:
                continue
            below = erf((left - 0.5 - x) * per_sigma)
            for column in range(left, right):
                above = erf((column + 0.5 - x) * per_sigma)
                width[column - left] = above - below
                below = above
            # fraction of a row that is on the detector in this step
            below = erf((max(top - 0.5 - clocked, -0.5) - y) * per_sigma)
            for row in range(top, bottom):
                edge = min(max(row + 0.5 - clocked, -0.5), n_transit - 0.5)
                above = max(erf((edge - y) * per_sigma), below)
                electrons = share * (above - below)
                below = above
                if electrons > 0:
                    for column in range(left, right):
                        mean[row - first_row, column] += electrons * width[column - left]


@numba.njit(cache=True, nogil=True)
def _steps_between(origin, rows_per_step, n_steps, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Half-open range of the steps whose row ``origin + i rows_per_step`` lies between two rows."""
    if rows_per_step == 0:
        return (0, n_steps) if low <= origin <= high else (0, 0)
    one, other = (low - origin) / rows_per_step, (high - origin) / rows_per_step
    first = int(min(max(np.floor(min(one, other)), 0), n_steps))
    last = int(min(max(np.ceil(max(one, other)) + 1, 0), n_steps))
    return first, last

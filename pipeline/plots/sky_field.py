"""Draw a patch of sky: stars by magnitude, candidates and the segments on which they lie, north up and east left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import skycoord_to_pixel
from matplotlib.axes import Axes

from shutterless.pipeline.plots.frames import BLACK, BLUE, GREY, VERMILLION

_UNITS = ((1.0, "deg", 1.0), (1 / 60, "arcmin", 60.0), (0.0, "arcsec", 3600.0))  # from which half width (deg) on
_LARGEST_POINT, _SMALLEST_POINT = 120.0, 1.5  # areas (points squared)
_CIRCLE = 350.0
_MAGS_OF_POINTS = 6.0  # magnitudes from the largest point to the smallest
_BAR_SHARE = 0.25  # of the width


def plot_sky_field(
    centre: SkyCoord, half_width_deg: float, ax: Axes, *, stars: SkyCoord | None = None, mag: np.ndarray | None = None,
    points: SkyCoord | None = None, segments: tuple[SkyCoord, SkyCoord] | None = None,
    outlines: Sequence[SkyCoord] = (), point_names: Sequence[str] = (), segment_names: Sequence[str] = (),
) -> Axes:  # fmt: skip
    """Draw a square patch of sky in gnomonic projection, in which great circles are straight.

    Parameters
    ----------
    centre : SkyCoord
    half_width_deg : float
        Of the patch.
    ax : Axes
    stars, mag : SkyCoord and ndarray of float64, shape (s,), optional
        The brighter, the larger the point.
    points : SkyCoord, shape (c,), optional
        Candidates on stars, as open circles.
    segments : (SkyCoord, SkyCoord), optional
        Both ends of the segments of the others, shape (o,) each.
    outlines : sequence of SkyCoord
        Corners of amplifiers, in order.
    point_names, segment_names : sequence of str
        Words beside each point, and each segment, if they are given.

    Returns
    -------
    Axes
        Offsets from the centre, with a scale bar and arrows to north and east.
    """
    unit, factor = next((name, factor) for least, name, factor in _UNITS if half_width_deg >= least)
    plane = _tangent_plane(centre, factor)
    half = half_width_deg * factor

    def place(sky: SkyCoord) -> np.ndarray:
        return np.array(skycoord_to_pixel(sky, plane, origin=0))

    if stars is not None and mag is not None:
        near = stars.separation(centre).deg < 1.5 * half_width_deg
        x, y = place(stars[near])
        inside = (np.abs(x) < half) & (np.abs(y) < half)
        _draw_stars(x[inside], y[inside], mag[near][inside], ax)
    for outline in outlines:
        ax.fill(*place(outline), facecolor="none", edgecolor=GREY, lw=0.8)
    if segments is not None and len(segments[0]):
        first, last = place(segments[0]), place(segments[1])
        ax.plot([first[0], last[0]], [first[1], last[1]], color=VERMILLION, lw=1.3)
        _name_places((first + last) / 2, segment_names, VERMILLION, ax)
    if points is not None and len(points):
        x, y = place(points)
        ax.scatter(x, y, s=_CIRCLE, facecolor="none", edgecolor=BLUE, lw=1.6, zorder=3)
        _name_places(np.array([x, y]), point_names, BLUE, ax)
    ax.set(xlim=(half, -half), ylim=(-half, half), aspect="equal")
    ax.set(xlabel=f"East of the centre ({unit})", ylabel=f"North of the centre ({unit})")
    _draw_compass(half, unit, ax)
    return ax


def _name_places(places: np.ndarray, names: Sequence[str], colour: str, ax: Axes) -> None:
    """Words beside places, shape (2, n); places without words have none."""
    for x, y, name in zip(*places, names or [""] * places.shape[1], strict=True):
        ax.annotate(name, (x, y), (9, 4), textcoords="offset points", color=colour, fontsize="small", zorder=4)


def _tangent_plane(centre: SkyCoord, factor: float) -> WCS:
    """WCS whose pixels are offsets from a centre, to the east and to the north, so many to a degree."""
    plane = WCS(naxis=2)
    plane.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plane.wcs.cunit = ["deg", "deg"]
    plane.wcs.radesys = "ICRS"
    plane.wcs.crval = [centre.icrs.ra.deg, centre.icrs.dec.deg]
    plane.wcs.crpix = [1.0, 1.0]
    plane.wcs.cdelt = [1 / factor, 1 / factor]
    plane.wcs.set()
    return plane


def _draw_stars(x: np.ndarray, y: np.ndarray, mag: np.ndarray, ax: Axes) -> None:
    """Points whose area falls with the magnitude, and a legend of whole magnitudes."""
    if not len(mag):
        return
    brightest, faintest = float(np.nanmin(mag)), float(np.nanmax(mag))
    ax.scatter(x, y, s=_area(mag, brightest), color=BLACK, lw=0)
    shown = np.arange(np.ceil(brightest), np.floor(faintest) + 1)
    for value in shown[:: max(1, len(shown) // 4)]:
        ax.scatter([], [], s=_area(np.array([value]), brightest), color=BLACK, lw=0, label=f"mag {value:.0f}")
    if len(shown):
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small")


def _area(mag: np.ndarray, brightest: float) -> np.ndarray:
    share = np.clip((mag - brightest) / _MAGS_OF_POINTS, 0, 1)
    return _LARGEST_POINT * (_SMALLEST_POINT / _LARGEST_POINT) ** share


def _draw_compass(half: float, unit: str, ax: Axes) -> None:
    """Scale bar in the lower left corner, arrows to north and east in the lower right one."""
    length = _round_length(2 * half * _BAR_SHARE)
    left, low = 0.92 * half, -0.9 * half
    ax.plot([left, left - length], [low, low], color=GREY, lw=2.5, solid_capstyle="butt")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
    ax.text(left - length / 2, low + 0.03 * half, f"{length:g} {unit}", ha="center", va="bottom", color=GREY, bbox=box)
    corner, arm = (-0.88 * half, -0.9 * half), 0.18 * half
    for dx, dy, name, ha, va in ((0, arm, "N", "center", "bottom"), (arm, 0, "E", "right", "center")):
        tip = corner[0] + dx, corner[1] + dy
        ax.annotate("", tip, corner, arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1.5})
        ax.text(*tip, name, ha=ha, va=va, color=GREY, bbox=box)


def _round_length(length: float) -> float:
    """1, 2 or 5 times a power of ten, not above a length."""
    decade = 10.0 ** np.floor(np.log10(length))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= length))

"""Sub-second events as a row-by-row readout sees them: light curves, the optimum S/N, random draws. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import erfc, erfcx, j0, ndtr

from shutterless.pipeline.psf import pixel_profile

KINDS = ("noise", "flare", "burst", "occultation", "glint", "cosmic_ray", "pickup")
EVENT_KINDS = ("flare", "burst", "occultation", "glint")
DEFAULT_KINDS = ("flare", "burst", "occultation", "glint")  # what scenes and injections draw unless told otherwise
STAR_KINDS = ("flare", "burst", "occultation")

# Tovar Mendoza et al. 2022 (AJ 164, 17; arXiv:2205.05706), continuous flare template, time in units of the FWHM
_FLARE_A, _FLARE_B, _FLARE_C = 0.9687734504, -0.2512997059, 0.2267597495
_FLARE_D = (0.1555188078, 1.215053953)
_FLARE_F = (0.1269586502, 1 - 0.1269586502)

# Fresnel patterns are averaged over an r-like band of ±13 % (five wavelengths) and end at 8 Fresnel scales,
# where that average has damped the fringes below a percent
_BAND = np.linspace(0.87, 1.13, 5)
_FRESNEL_REACH = 8.0
_FRESNEL_STEP = 0.02

# scale of each kind in seconds, drawn log-uniformly: width of flares (Tovar Mendoza 2022; longer ones do not fit into
# a file), length of bursts, FWHM of satellite glints (Nir et al. 2021, arXiv:2011.03497); of occultations the time in
# which the shadow moves by a Fresnel scale (1.28 km at 40 au and 550 nm; 5 to 30 of them a second)
SCALE_RANGES_S = {"flare": (0.05, 2.0), "burst": (3e-4, 1.0), "occultation": (1 / 30, 1 / 5), "glint": (0.1, 0.3)}
# change of flux over the star's own flux that is taken for plausible
RELATIVE_AMPLITUDES = {"flare": (0.1, 20.0), "burst": (0.1, 100.0), "occultation": (0.1, 1.0)}
# rows, in units of the scale, before and after the peak that hold the central 90 % of the fluence
_EXTENTS = {"flare": (0.5, 15.5), "burst": (0.75, 0.75), "occultation": (3.2, 3.2), "glint": (0.75, 0.75)}


@dataclass(frozen=True)
class Event:
    """One event in one amplifier of one file.

    Parameters
    ----------
    kind : str
        One of `EVENT_KINDS`.
    x : float
        Column position (read order).
    row_peak : float
        File row of the peak (of an occultation: of mid-event).
    scale_rows : float
        Flare, glint and Gaussian burst: FWHM; top-hat burst: length; occultation: rows in which the shadow moves by one
        Fresnel scale √(λD/2).
    amplitude_e : float
        Signed electrons per row at the peak before smearing, summed over columns.
    star_id : int
        -1 for an orphan.
    star_mag : float
        NaN for an orphan.
    shape : tuple of (str, value)
        Further arguments of `event_light_curve`.
    """

    kind: str
    x: float
    row_peak: float
    scale_rows: float
    amplitude_e: float
    star_id: int = -1
    star_mag: float = float("nan")
    shape: tuple[tuple[str, Any], ...] = ()

    def light_curve(self, n_rows: int, sigma_rows: float) -> np.ndarray:
        """Light curve of unit amplitude over the file's rows, shape (t,)."""
        return event_light_curve(self.kind, n_rows, self.row_peak, self.scale_rows, sigma_rows, **dict(self.shape))


def event_light_curve(
    kind: str, n_rows: int, row_peak: float, scale_rows: float, sigma_rows: float, **shape: Any
) -> np.ndarray:
    """Mean of an event's light curve over each row, smeared by the row marginal of the point-spread function.

    Parameters
    ----------
    kind : str
        One of `EVENT_KINDS`.
    n_rows : int
        Rows of the file; row ``k`` integrates from ``k - 1/2`` to ``k + 1/2``.
    row_peak, scale_rows : float
        As in `Event`; the peak may lie outside the file, whose rows then hold a part of the event.
    sigma_rows : float
        Gaussian width of the point-spread function along rows (pixels).
    **shape
        Burst: ``profile`` ``"tophat"`` (default) or ``"gaussian"``. Occultation by a disc in front of a point star:
        ``radius`` of the disc and ``impact`` (closest distance of its centre) in Fresnel scales.

    Returns
    -------
    ndarray of float64, shape (t,)
        Peak +1 before integration and smearing; the sign is carried by the amplitude. The sum over all rows is the
        event's area in rows, so an event far shorter than a row peaks far below 1.
    """
    if kind not in EVENT_KINDS:
        raise ValueError(f"{kind!r} is no kind of event; known are {', '.join(EVENT_KINDS)}")
    offsets = np.arange(n_rows) - row_peak
    if kind == "flare":
        return _integrate_rows(flare_template, offsets, scale_rows, sigma_rows, reach=(-3.0, 100.0))
    if kind == "occultation":
        radius, impact = shape["radius"], shape["impact"]
        dip = _occultation_dip(radius, impact)
        return _integrate_rows(dip, offsets, scale_rows, sigma_rows, reach=(-_FRESNEL_REACH, _FRESNEL_REACH))
    profile = "gaussian" if kind == "glint" else shape.get("profile", "tophat")
    if profile == "gaussian":
        return _gaussian_rows(offsets, scale_rows, sigma_rows)
    if profile == "tophat":
        return _tophat_rows(offsets, scale_rows, sigma_rows)
    raise ValueError(f"burst profile {profile!r} is neither 'tophat' nor 'gaussian'")


def flare_template(time_fwhm: Any) -> np.ndarray:
    """Light curve of a stellar flare, peak 1, time in units of the template's width parameter (its FWHM is 1.09).

    Notes
    -----
    Tovar Mendoza et al. 2022 (AJ 164, 17), equation of the continuous template: a Gaussian rise convolved with two
    exponential decays. ``exp(a) erfc(z)`` is evaluated as ``exp(a - z²) erfcx(z)`` where ``z > 0``, which neither
    overflows nor loses the far rise; ``a - z² = (2 B t - t²) / C²``.
    """
    return _flare_unscaled(np.asarray(time_fwhm, dtype=np.float64)) / _flare_peak()


def _flare_unscaled(time: np.ndarray) -> np.ndarray:
    total = np.zeros_like(time)
    for decay, fraction in zip(_FLARE_D, _FLARE_F, strict=True):
        shift = _FLARE_B / _FLARE_C + decay * _FLARE_C / 2
        z = shift - time / _FLARE_C
        rising = np.exp((2 * _FLARE_B * time - time**2) / _FLARE_C**2) * erfcx(np.maximum(z, 0.0))
        falling = np.exp(np.minimum(shift**2 - decay * time, 50.0)) * erfc(np.minimum(z, 0.0))
        total += fraction * np.where(z > 0, rising, falling)
    return np.sqrt(np.pi) * _FLARE_A * _FLARE_C / 2 * total


@lru_cache(maxsize=1)
def _flare_peak() -> float:
    return float(_flare_unscaled(np.linspace(-0.5, 0.5, 100_001)).max())


def fresnel_pattern(distance: Any, radius: float) -> np.ndarray:
    """Brightness behind an opaque disc lit by a point source of one wavelength; 1 far away.

    Parameters
    ----------
    distance : array_like
        Distance from the shadow's centre in Fresnel scales √(λD/2).
    radius : float
        Radius of the disc in Fresnel scales.

    Notes
    -----
    Roques, Moncuquet & Sicardy 1987 (AJ 93, 1549) in the form
    ``I(ρ) = |1 + iπ exp(iπρ²/2) ∫₀ʳ exp(iπR²/2) J₀(πρR) R dR|²``; Gauss-Legendre with 64 nodes, enough for πρr < 50.
    """
    rho = np.asarray(distance, dtype=np.float64)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    r = radius * (nodes + 1) / 2
    integrand = np.exp(0.5j * np.pi * r**2) * r * weights * radius / 2
    integral = j0(np.pi * rho[..., None] * r) @ integrand
    return np.abs(1 + 1j * np.pi * np.exp(0.5j * np.pi * rho**2) * integral) ** 2


@lru_cache(maxsize=512)
def _radial_dip(radius: float) -> CubicSpline:
    """Light lost (1 - I) against distance from the shadow's centre: mean over the band, tapered to 0 at the reach."""
    rho = np.arange(0.0, _FRESNEL_REACH + _FRESNEL_STEP, _FRESNEL_STEP)
    lost = 1 - np.mean([fresnel_pattern(rho / np.sqrt(w), radius / np.sqrt(w)) for w in _BAND], axis=0)
    taper = np.clip((_FRESNEL_REACH - rho) / 1.0, 0.0, 1.0)
    return CubicSpline(rho, lost * np.sin(np.pi / 2 * taper) ** 2)


def occultation_depth(radius: float, impact: float) -> float:
    """Largest fraction of a point star's light that an occultation takes away before smearing.

    Parameters
    ----------
    radius, impact : float
        Radius of the occulter and closest distance of its shadow's centre, in Fresnel scales.
    """
    along = np.arange(0.0, _FRESNEL_REACH, _FRESNEL_STEP)
    return float(_radial_dip(radius)(np.hypot(along, impact)).max())


def _occultation_dip(radius: float, impact: float) -> Any:
    """Light lost along the chord, as a function of Fresnel scales from mid-event, peak 1."""
    radial, depth = _radial_dip(radius), occultation_depth(radius, impact)

    def dip(along: np.ndarray) -> np.ndarray:
        rho = np.hypot(along, impact)
        return np.where(rho < _FRESNEL_REACH, radial(np.minimum(rho, _FRESNEL_REACH)), 0.0) / depth

    return dip


def _integrate_rows(
    shape: Any, offsets: np.ndarray, scale_rows: float, sigma_rows: float, reach: tuple[float, float]
) -> np.ndarray:
    """Convolve ``shape(rows / scale)`` with the pixel-integrated point-spread function, on a grid of 1/m rows.

    The grid has at least 32 points a scale and 8 a row, so events far shorter than a row keep their exact area.
    """
    curve = np.zeros(len(offsets))
    margin = int(np.ceil(6 * sigma_rows + 1))
    inside = np.flatnonzero((offsets > reach[0] * scale_rows - margin) & (offsets < reach[1] * scale_rows + margin))
    if inside.size == 0:
        return curve
    m = int(np.ceil(max(8.0, 32 / scale_rows)))
    sub_rows = (np.arange(m) + 0.5) / m - 0.5
    rows = np.arange(inside[0] - margin, inside[-1] + margin + 1) + offsets[0]
    samples = shape((rows[:, None] + sub_rows) / scale_rows)
    kernel = pixel_profile(np.arange(-margin, margin + 1)[:, None] - sub_rows, sigma_rows) / m
    for lag in range(2 * margin + 1):  # row k collects from row k - (lag - margin)
        start = 2 * margin - lag
        curve[inside] += samples[start : start + inside.size] @ kernel[lag]
    return curve


def _gaussian_rows(offsets: np.ndarray, fwhm_rows: float, sigma_rows: float) -> np.ndarray:
    width = fwhm_rows / np.sqrt(8 * np.log(2))
    return width * np.sqrt(2 * np.pi) * pixel_profile(offsets, float(np.hypot(width, sigma_rows)))


def smeared_step(offsets: np.ndarray, sigma_rows: float) -> np.ndarray:
    """Light that is switched on at offset 0, integrated over rows and smeared: 0 far before, 1 far after."""

    def integral(z: np.ndarray) -> np.ndarray:
        return sigma_rows * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))

    return integral((offsets + 0.5) / sigma_rows) - integral((offsets - 0.5) / sigma_rows)


def _tophat_rows(offsets: np.ndarray, length_rows: float, sigma_rows: float) -> np.ndarray:
    """Top-hat centred on the peak: on at one end, off at the other."""
    half = length_rows / 2
    curve = smeared_step(offsets + half, sigma_rows) - smeared_step(offsets - half, sigma_rows)
    return np.where(np.abs(offsets) < half + 10 * sigma_rows + 1, np.maximum(curve, 0.0), 0.0)  # rounding is 1e-12


def event_stamp(event: Event, n_rows: int, n_columns: int, sigma_px: float) -> tuple[np.ndarray, int, np.ndarray]:
    """Light curve and column profile of an event: its pixels are ``amplitude_e * outer(curve, profile)``.

    Returns
    -------
    curve : ndarray, shape (t,)
        Unit amplitude, all rows of the file.
    first_column : int
    profile : ndarray, shape (w,)
        Existing columns within 6 σ + 1 of the event, from ``first_column``; a source at the edge loses what falls
        beside.
    """
    reach = 6 * sigma_px + 1
    columns = np.arange(max(int(np.ceil(event.x - reach)), 0), min(int(np.floor(event.x + reach)) + 1, n_columns))
    first_column = int(columns[0]) if columns.size else 0
    return event.light_curve(n_rows, sigma_px), first_column, pixel_profile(columns - event.x, sigma_px)


def optimal_rho(signal_e: np.ndarray, variance_e2: np.ndarray) -> float:
    """S/N that no detector can beat, √Σ s²/V: signal and variance per pixel, broadcast against each other."""
    return float(np.sqrt(np.sum(np.square(signal_e) / variance_e2)))


def scale_to_rho(event: Event, unit_rho: float, rho: float) -> Event:
    """Give an event the amplitude at which its optimal S/N is ``rho``.

    Parameters
    ----------
    unit_rho : float
        Optimal S/N at an amplitude of 1 electron per row (`optimal_rho` of curve times profile).
    """
    sign = -1.0 if event.kind == "occultation" else 1.0
    return replace(event, amplitude_e=sign * rho / unit_rho)


def amplitude_limits(event: Event, star_flux_e_row: float) -> tuple[float, float]:
    """Smallest and largest plausible ``|amplitude_e|`` of an event.

    An occultation takes at most what its diffraction pattern takes from a point star; less stands for a star with a
    disc or an unresolved companion. Orphans are not limited.
    """
    if event.star_id < 0:
        return 0.0, float("inf")
    lowest, highest = RELATIVE_AMPLITUDES[event.kind]
    if event.kind == "occultation":
        shape = dict(event.shape)
        highest = min(highest, occultation_depth(shape["radius"], shape["impact"]))
        lowest = min(lowest, highest)
    return lowest * star_flux_e_row, highest * star_flux_e_row


def central_rows(fluence: np.ndarray) -> tuple[int, int, int]:
    """First row, last row and peak row of the central 90 % of an event's ``|fluence|`` per row, shape (t,)."""
    light = np.abs(np.asarray(fluence, dtype=np.float64))
    cumulative = np.cumsum(light)
    if not cumulative[-1] > 0:
        raise ValueError("an event without light in this file has no central rows")
    first, last = np.searchsorted(cumulative, np.array([0.05, 0.95]) * cumulative[-1])
    last = min(last, len(light) - 1)
    inside = light[first : last + 1]
    # the first row of a flat top, not one that rounding picks
    return int(first), int(last), int(first + np.argmax(inside > (1 - 1e-9) * inside.max()))


def draw_event(
    rng: np.random.Generator,
    kind: str,
    *,
    row_rate_hz: float,
    n_rows: int,
    x: float,
    earliest_row: float = 0.0,
    star_id: int = -1,
    star_mag: float = float("nan"),
) -> Event:
    """Draw an event of unit amplitude whose central 90 % lie between ``earliest_row`` and the end of the file.

    Scales come from `SCALE_RANGES_S`, log-uniform, and no longer than what fits.

    Raises
    ------
    ValueError
        If not even the shortest event of this kind fits.
    """
    before, after = _EXTENTS[kind]
    margin = 4.0  # rows of smearing on either side
    shortest, longest = (scale * row_rate_hz for scale in SCALE_RANGES_S[kind])
    fitting = (n_rows - 1 - earliest_row - 2 * margin) / (before + after)
    if fitting < shortest:
        raise ValueError(
            f"a {kind} needs at least {shortest * (before + after) + 2 * margin:.0f} rows, "
            f"rows {earliest_row:.0f} to {n_rows} hold {n_rows - earliest_row:.0f}"
        )
    scale = float(np.exp(rng.uniform(np.log(shortest), np.log(min(longest, fitting)))))
    row_peak = rng.uniform(earliest_row + margin + before * scale, n_rows - 1 - margin - after * scale)
    return Event(
        kind=kind,
        x=float(x),
        row_peak=float(row_peak),
        scale_rows=scale,
        amplitude_e=-1.0 if kind == "occultation" else 1.0,
        star_id=star_id,
        star_mag=star_mag,
        shape=_draw_shape(rng, kind),
    )


def _draw_shape(rng: np.random.Generator, kind: str) -> tuple[tuple[str, Any], ...]:
    if kind == "burst":
        return (("profile", str(rng.choice(["tophat", "gaussian"]))),)
    if kind == "occultation":
        radius = round(float(rng.uniform(0.3, 2.0)), 2)  # two decimals: the pattern of a radius is cached
        # farther out the fringes brighten more than the shadow dims
        return (("radius", radius), ("impact", float(rng.uniform(0.0, min(radius + 0.3, 2.0)))))
    return ()

"""Compute light curves of events, integrated over rows and smeared by the point-spread function. Arrays only."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import erfc, erfcx, ndtr

from shutterless.pipeline.events.diffraction import REACH, edge_rise, occultation_dip
from shutterless.pipeline.events.red_noise import flickering_waves, qpo_waves
from shutterless.pipeline.psf import pixel_profile

# Tovar Mendoza et al. 2022 (AJ 164, 17; arXiv:2205.05706), continuous flare template, time in units of the FWHM
_FLARE_A, _FLARE_B, _FLARE_C = 0.9687734504, -0.2512997059, 0.2267597495
_FLARE_D = (0.1555188078, 1.215053953)
_FLARE_F = (0.1269586502, 1 - 0.1269586502)

# the Crab pulsar in the visible (Percival et al. 1993, ApJ 407, 276): FWHM of the main pulse over the period, phase of
# the interpulse after it and its height; both pulses are Gaussian here and equally wide
PULSE_WIDTH, INTERPULSE_PHASE, INTERPULSE_HEIGHT = 0.045, 0.40, 0.35

_SIGMA_OF_FWHM = 1 / np.sqrt(8 * np.log(2))


def event_light_curve(
    kind: str, n_rows: int, row_peak: float, scale_rows: float, sigma_rows: float, **shape: Any
) -> np.ndarray:
    """Mean of an event's light curve over each row, smeared by the row marginal of the point-spread function.

    Parameters
    ----------
    kind : str
        One of `shutterless.pipeline.events.kinds.EVENT_KINDS`.
    n_rows : int
        Rows of the file; row ``k`` integrates from ``k - 1/2`` to ``k + 1/2``.
    row_peak, scale_rows : float
        As in `shutterless.pipeline.events.events.Event`. If the peak lies outside the file, its rows hold part of the
        event.
    sigma_rows : float
        Gaussian width of the point-spread function along rows (pixels).
    **shape
        Burst: ``profile`` ``"tophat"`` (default) or ``"gaussian"``. Occultation by a disc: ``radius`` of the disc,
        ``impact`` (closest distance of its centre) and ``star_radius`` (default 0) in Fresnel scales. Eclipse by a
        straight edge: ``direction`` ``"down"`` (default) or ``"up"``, and ``star_radius``. Pulsar: ``period_rows``.
        Flickering: ``exponent`` and ``realisation``. QPO: ``realisation``.

    Returns
    -------
    ndarray of float64, shape (t,)
        Peak +1 before integration and smearing; the amplitude has the sign. The sum over all rows is the event's area
        in rows, so an event far shorter than a row peaks far below 1. An eclipse rises from 0 to 1 and stays there.
    """
    if kind not in _CURVES:
        raise ValueError(f"{kind!r} is no kind of event; known are {', '.join(_CURVES)}")
    return _CURVES[kind](np.arange(n_rows) - row_peak, scale_rows, sigma_rows, **shape)


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


def smeared_step(offsets: np.ndarray, sigma_rows: float) -> np.ndarray:
    """Light that is switched on at offset 0, integrated over rows and smeared: 0 far before, 1 far after."""

    def integral(z: np.ndarray) -> np.ndarray:
        return sigma_rows * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))

    step = (np.asarray(offsets) > 0).astype(np.float64)
    near = np.abs(offsets) < 10 * sigma_rows + 1  # farther out the deviation from 0 or 1 is below rounding
    z = offsets[near]
    step[near] = integral((z + 0.5) / sigma_rows) - integral((z - 0.5) / sigma_rows)
    return step


def _flare_rows(offsets: np.ndarray, fwhm_rows: float, sigma_rows: float) -> np.ndarray:
    return _integrate_rows(flare_template, offsets, fwhm_rows, sigma_rows, reach=(-3.0, 100.0))


def _burst_rows(offsets: np.ndarray, scale_rows: float, sigma_rows: float, *, profile: str = "tophat") -> np.ndarray:
    if profile not in ("tophat", "gaussian"):
        raise ValueError(f"burst profile {profile!r} is neither 'tophat' nor 'gaussian'")
    return (_gaussian_rows if profile == "gaussian" else _tophat_rows)(offsets, scale_rows, sigma_rows)


def _gaussian_rows(offsets: np.ndarray, fwhm_rows: float, sigma_rows: float) -> np.ndarray:
    width = fwhm_rows * _SIGMA_OF_FWHM
    return width * np.sqrt(2 * np.pi) * pixel_profile(offsets, float(np.hypot(width, sigma_rows)))


def _tophat_rows(offsets: np.ndarray, length_rows: float, sigma_rows: float) -> np.ndarray:
    """Top-hat centred on the peak: the difference of two smeared steps."""
    half = length_rows / 2
    curve = smeared_step(offsets + half, sigma_rows) - smeared_step(offsets - half, sigma_rows)
    return np.where(np.abs(offsets) < half + 10 * sigma_rows + 1, np.maximum(curve, 0.0), 0.0)  # rounding is 1e-12


def _occultation_rows(
    offsets: np.ndarray, scale_rows: float, sigma_rows: float, *, radius: float, impact: float, star_radius: float = 0.0
) -> np.ndarray:
    dip = occultation_dip(radius, impact, star_radius)
    return _integrate_rows(dip, offsets, scale_rows, sigma_rows, reach=(-REACH, REACH))


def _eclipse_rows(
    offsets: np.ndarray, scale_rows: float, sigma_rows: float, *, direction: str = "down", star_radius: float = 0.0
) -> np.ndarray:
    """Change of a star's light as a straight edge crosses it: fringes before its ingress, or after its egress."""
    if direction not in ("down", "up"):
        raise ValueError(f"eclipse direction {direction!r} is neither 'down' nor 'up'")
    rise = edge_rise(star_radius)
    shape = rise if direction == "up" else (lambda w: 1 - rise(-w))
    curve = _integrate_rows(shape, offsets, scale_rows, sigma_rows, reach=(-REACH, REACH))
    curve[offsets >= REACH * scale_rows + 6 * sigma_rows + 1] = 1.0
    return curve


def _pulsar_rows(offsets: np.ndarray, span_rows: float, sigma_rows: float, *, period_rows: float) -> np.ndarray:
    """Pulses and interpulses of all periods within half a span of the main pulse in the middle."""
    half = int(span_rows / 2 / period_rows)
    main = np.arange(-half, half + 1) * period_rows
    centres = np.concatenate([main, main + INTERPULSE_PHASE * period_rows])
    heights = np.repeat([1.0, INTERPULSE_HEIGHT], main.size)
    fwhm = PULSE_WIDTH * period_rows
    reach = int(np.ceil(8 * np.hypot(fwhm * _SIGMA_OF_FWHM, sigma_rows) + 1))
    rows = np.rint(centres - offsets[0]).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    light = heights[:, None] * _gaussian_rows(rows + offsets[0] - centres[:, None], fwhm, sigma_rows)
    inside = (rows >= 0) & (rows < len(offsets))
    curve = np.zeros(len(offsets))
    np.add.at(curve, rows[inside], light[inside])
    return curve


def _flickering_rows(
    offsets: np.ndarray, scale_rows: float, sigma_rows: float, *, exponent: float, realisation: int
) -> np.ndarray:
    return flickering_waves(exponent, realisation).light_curve(offsets, scale_rows, sigma_rows)


def _qpo_rows(offsets: np.ndarray, scale_rows: float, sigma_rows: float, *, realisation: int) -> np.ndarray:
    return qpo_waves(realisation).light_curve(offsets, scale_rows, sigma_rows)


def _integrate_rows(
    shape: Callable[[np.ndarray], np.ndarray],
    offsets: np.ndarray,
    scale_rows: float,
    sigma_rows: float,
    reach: tuple[float, float],
) -> np.ndarray:
    """Convolve ``shape(rows / scale)`` with the pixel-integrated point-spread function, on a grid of 1/m rows.

    The grid has at least 32 points per scale and 8 per row, so events far shorter than a row keep their exact area.
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


_CURVES: dict[str, Callable[..., np.ndarray]] = {
    "flare": _flare_rows,
    "burst": _burst_rows,
    "occultation": _occultation_rows,
    "glint": _gaussian_rows,
    "eclipse": _eclipse_rows,
    "pulsar": _pulsar_rows,
    "flickering": _flickering_rows,
    "qpo": _qpo_rows,
}

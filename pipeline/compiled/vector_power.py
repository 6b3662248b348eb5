"""Compute powers of numbers between 0 and 1 so that compiled loops vectorise, which they do not with a library call."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np


def _fit(
    function: Callable[[np.ndarray], np.ndarray], start: float, stop: float, degree: int
) -> tuple[np.float32, ...]:
    """Coefficients of the polynomial through a function's values at Chebyshev's nodes, ascending."""
    series = np.polynomial.chebyshev.Chebyshev.interpolate(function, degree, domain=[start, stop])
    return tuple(np.float32(c) for c in series.convert(kind=np.polynomial.Polynomial).coef)


_LOG = _fit(np.log2, 1.0, 2.0, 6)
_EXP = _fit(np.exp2, 0.0, 1.0, 5)
_LEAST = np.float32(1e-37)  # above all subnormal numbers, and 1e-37 ** 0.2 is negligible
_LEAST_POWER = np.float32(-126)  # of two; below it the exponent has no bits left, and the power counts as 0
_FRACTION_BITS, _FRACTION, _ONE = np.uint32(23), np.uint32(0x7FFFFF), np.uint32(0x3F800000)
_BIAS = np.int32(127)  # of the exponent of a float32


@numba.njit(cache=True)
def vector_power(base, exponent):  # pragma: no cover - compiled
    """``base ** exponent`` to 1e-5.

    Parameters
    ----------
    base : float32
        From 0 to 1; smaller values count as 1e-37.
    exponent : float32
        From 0.2, so that the power of 0 is 0 to that precision, to 3. For larger exponents the error grows.

    Returns
    -------
    float32

    Notes
    -----
    ``2 ** (exponent * log2(base))``, both as polynomials of the fraction and shifts of the exponent's bits.
    """
    bits = np.float32(base if base > _LEAST else _LEAST).view(np.uint32)
    whole = np.float32(np.int32(bits >> _FRACTION_BITS) - _BIAS)
    part = np.uint32((bits & _FRACTION) | _ONE).view(np.float32)
    a, b, c, d, e, f, g = _LOG
    power = exponent * (whole + (a + part * (b + part * (c + part * (d + part * (e + part * (f + part * g)))))))
    power = power if power > _LEAST_POWER else _LEAST_POWER
    whole_power = np.int32(power)  # rounds towards zero; the power is negative
    part = power - np.float32(whole_power) + np.float32(1)
    scale = np.uint32(np.uint32(whole_power + _BIAS - np.int32(1)) << _FRACTION_BITS).view(np.float32)
    a, b, c, d, e, f = _EXP
    return scale * (a + part * (b + part * (c + part * (d + part * (e + part * f)))))

"""Convert the 16 bits of half-precision numbers to single precision and back inside compiled loops.

Numba has no half precision. Each conversion uses integers, selections and one product or sum, so the compiler handles
eight or sixteen values at once. The residuals of a store are ``float16``; a compiled function reads them as
``residual.view(np.uint16)``.
"""

from __future__ import annotations

import numba
import numpy as np

_MAGNITUDE = np.uint32(0x7FFF)  # of a half: all but its sign
_INFINITE_HALF = np.uint32(0x7C00)
_QUIET_HALF = np.uint32(0x7E00)  # NaN as numpy writes it
_EXPONENT = np.uint32(0x7F80_0000)  # of a single: infinite if all set
_SINGLE_MAGNITUDE = np.uint32(0x7FFF_FFFF)
_BIAS = np.float32(2.0**112)  # exponents of singles are counted from 127, of halves from 15
_LEAST_NORMAL = np.uint32(113 << 23)  # 2^-14 as a single: smaller halves are subnormal
_REBIAS = np.uint32(112 << 23)
_ALMOST_HALF = np.uint32(0xFFF)  # of the 13 bits that are dropped
_ALIGN = np.float32(0.5)  # its last bit is 2^-24, as of a subnormal half, so adding it rounds to one
_ALIGN_BITS = np.uint32(126 << 23)
_OVERFLOW = np.uint32(0x477F_F000)  # 65,520, halfway between the largest half and the next value
LARGEST_HALF = 6e4  # near the largest value


def clip_to_half(values: np.ndarray) -> np.ndarray:
    """Half-precision values, limited to `LARGEST_HALF` so that none becomes infinite; NaN stays."""
    return np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)


@numba.njit(inline="always", cache=True)
def half_to_float(bits):  # pragma: no cover - compiled
    """Value of a half-precision number.

    Parameters
    ----------
    bits : uint16
        Sign, 5 bits of exponent, 10 of fraction (IEEE 754 binary16).

    Returns
    -------
    float32
        Exact; infinities and NaN are kept.
    """
    magnitude = np.uint32(bits) & _MAGNITUDE
    scaled = np.float32(np.uint32(magnitude << np.uint32(13)).view(np.float32) * _BIAS)
    special = _EXPONENT if magnitude >= _INFINITE_HALF else np.uint32(0)
    sign = np.uint32((np.uint32(bits) >> np.uint32(15)) << np.uint32(31))
    return np.uint32(np.float32(scaled).view(np.uint32) | special | sign).view(np.float32)


@numba.njit(inline="always", cache=True)
def float_to_half(value):  # pragma: no cover - compiled
    """Half-precision number nearest to a value; ties go to the even one.

    Parameters
    ----------
    value : float32

    Returns
    -------
    uint16
        Its bits. Infinite from 65,520 on.

    Notes
    -----
    Half of the range of the dropped bits, or one less if the last kept bit is even, is added to them. The value rounds
    up if that carries (F. Giesen, float_to_half_fast3_rtne, gist.github.com/rygorous/2156668).
    """
    bits = np.float32(value).view(np.uint32)
    magnitude = np.uint32(bits & _SINGLE_MAGNITUDE)
    odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(magnitude - _REBIAS + _ALMOST_HALF + odd) >> np.uint32(13)
    subnormal = np.uint32(np.float32(np.uint32(magnitude).view(np.float32) + _ALIGN).view(np.uint32) - _ALIGN_BITS)
    half = np.uint32(subnormal if magnitude < _LEAST_NORMAL else normal)
    half = np.uint32(_INFINITE_HALF if magnitude >= _OVERFLOW else half)
    half = np.uint32(_QUIET_HALF if magnitude > _EXPONENT else half)
    return np.uint16(half | np.uint32((bits >> np.uint32(31)) << np.uint32(15)))


def to_single(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Copy of a two-dimensional array in single precision; faster than ``astype`` for half precision.

    Parameters
    ----------
    values : ndarray of float, shape (x, t)
    out : ndarray of float32, at least as large, optional
        Receives the copy in its first elements.

    Returns
    -------
    ndarray of float32, shape (x, t)
    """
    copy = np.empty(values.shape, dtype=np.float32) if out is None else out[: len(values), : values.shape[1]]
    if values.dtype == np.float16:
        _to_single(np.asarray(values).view(np.uint16), copy)
    else:
        copy[:] = values
    return copy


@numba.njit(cache=True, nogil=True)
def _to_single(bits, copy):  # pragma: no cover - compiled
    for x in range(len(bits)):
        line, to = bits[x], copy[x]
        for t in range(len(line)):
            to[t] = half_to_float(line[t])

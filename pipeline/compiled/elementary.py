"""Compute exponential and error function in single precision, without branches or tables, so that loops vectorise."""

from __future__ import annotations

import math

import numba
import numpy as np

_LOG2_E = np.float32(1 / math.log(2))
_ROUND = np.float32(1.5 * 2**23)  # adding and subtracting it rounds to the nearest integer
_ROUND_BITS = np.uint32(0x4B40_0000)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST_EXPONENT = np.float32(-87.0)
_ONE = np.float32(1)
_LARGEST_ERF = np.float32(4)  # argument at which it is 1 to 1.5e-8


@numba.njit(cache=True, fastmath={"contract"}, error_model="numpy")
def exp_single(x):  # pragma: no cover - compiled
    """Exponential of a float32 below 88, to a relative error of 2e-7; ``exp(-87)`` for arguments below -87.

    Notes
    -----
    ``exp(x) = 2^n exp(x - n ln 2)``, the latter by a polynomial (S. Moshier, Cephes library, expf).
    """
    x = max(np.float32(x), _LEAST_EXPONENT)
    shifted = np.float32(x * _LOG2_E + _ROUND)
    n = np.float32(shifted - _ROUND)
    r = np.float32(x - n * _LN2_HIGH - n * _LN2_LOW)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    value = p * (r * r) + r + _ONE
    power = np.uint32(np.uint32(shifted.view(np.uint32) - _ROUND_BITS + np.uint32(127)) << np.uint32(23))
    return value * power.view(np.float32)


@numba.njit(cache=True, fastmath={"contract"}, error_model="numpy")
def erf_single(x):  # pragma: no cover - compiled
    """Error function of a float32, to an error of 3e-7.

    Notes
    -----
    A rational function of degree 13 over 8 (Eigen library, generic_fast_erf_float).
    """
    x = min(max(np.float32(x), -_LARGEST_ERF), _LARGEST_ERF)
    s = x * x
    p = np.float32(-2.72614225801306e-10)
    p = p * s + np.float32(2.77068142495902e-08)
    p = p * s + np.float32(-2.10102402082508e-06)
    p = p * s + np.float32(-5.69250639462346e-05)
    p = p * s + np.float32(-7.34990630326855e-04)
    p = p * s + np.float32(-2.95459980854025e-03)
    p = p * s + np.float32(-1.60960333262415e-02)
    q = np.float32(-1.45660718464996e-05)
    q = q * s + np.float32(-2.13374055278905e-04)
    q = q * s + np.float32(-1.68282697438203e-03)
    q = q * s + np.float32(-7.37332916720468e-03)
    q = q * s + np.float32(-1.42647390514189e-02)
    return x * p / q

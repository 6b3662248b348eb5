"""Exponential and error function against those of scipy."""

import numba
import numpy as np
from scipy.special import erf

from shutterless.pipeline.compiled.elementary import erf_single, exp_single


@numba.njit(error_model="numpy")
def exponentials(x):
    return np.array([exp_single(value) for value in x])


@numba.njit(error_model="numpy")
def error_functions(x):
    return np.array([erf_single(value) for value in x])


def test_exponentials_are_right_to_the_last_digits():
    x = np.linspace(-87, 80, 400_001).astype(np.float32)
    np.testing.assert_allclose(exponentials(x), np.exp(x.astype(np.float64)), rtol=2e-7)
    assert exponentials(np.array([0, -1e9], np.float32)).tolist() == [1.0, exponentials(np.float32([-87]))[0]]


def test_error_function_is_right_to_single_precision():
    x = np.linspace(-7, 7, 400_001).astype(np.float32)
    np.testing.assert_allclose(error_functions(x), erf(x.astype(np.float64)), rtol=1e-6, atol=3.5e-7)
    assert error_functions(np.array([-50, 0, 50], np.float32)).tolist() == [-1.0, 0.0, 1.0]

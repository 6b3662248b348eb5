"""The polynomial form of a power agrees with numpy's within its stated error."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from shutterless.pipeline.compiled.vector_power import vector_power

EXPONENTS = [0.372, 1.0, 1.52, 3.0]


@numba.njit
def powers(base, exponent):
    out = np.empty_like(base)
    for k in range(len(base)):
        out[k] = vector_power(base[k], exponent)
    return out


def check(base: np.ndarray, exponent: float) -> None:
    base = base.astype(np.float32)
    found = powers(base, np.float32(exponent))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, base.astype(np.float64) ** exponent, rtol=0, atol=1e-5 * max(exponent / 3, 1))


@pytest.mark.parametrize("exponent", [0.2, *EXPONENTS, 10.0, 300.0])
def test_is_the_power_from_0_to_1(exponent):
    check(np.linspace(0, 1, 200_001), exponent)
    check(np.geomspace(1e-45, 1, 20_001), exponent)  # below 1e-38 numbers have another form
    check(1 - np.geomspace(1e-8, 0.5, 20_001), exponent)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_ends_are_0_and_1(exponent):
    zero, one = powers(np.array([0, 1], dtype=np.float32), np.float32(exponent))
    assert abs(zero) < 1e-5
    assert abs(one - 1) < 1e-5


@pytest.mark.parametrize(("base", "exponent", "power"), [(0.25, 0.5, 0.5), (0.5, 3.0, 0.125), (0.01, 1.5, 0.001)])
def test_powers_solved_in_the_head(base, exponent, power):
    assert powers(np.array([base], dtype=np.float32), np.float32(exponent))[0] == pytest.approx(power, abs=1e-5)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_never_falls_by_more_than_its_error_where_the_base_rises(exponent):
    """Neighbouring octaves are fitted by one polynomial, whose ends meet at powers of two."""
    octaves = 2.0 ** -np.arange(20)[:, None] * (1 + np.linspace(-1e-3, 1e-3, 101))
    base = np.sort(octaves[octaves <= 1]).astype(np.float32)
    assert np.diff(powers(base, np.float32(exponent)).astype(np.float64)).min() > -1e-5

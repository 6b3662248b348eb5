"""Half-precision numbers convert as in numpy: all of them to single, and singles with ties, overflow and NaN."""

import numba
import numpy as np
import pytest

from shutterless.pipeline.compiled.half_floats import clip_to_half, float_to_half, half_to_float

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)


@numba.njit
def to_floats(halves):
    out = np.empty(len(halves), dtype=np.float32)
    for k in range(len(halves)):
        out[k] = half_to_float(halves[k])
    return out


@numba.njit
def to_halves(values):
    out = np.empty(len(values), dtype=np.uint16)
    for k in range(len(values)):
        out[k] = float_to_half(values[k])
    return out


def check_as_numpy(values: np.ndarray) -> None:
    """Same bits as numpy's conversion; of NaN only the kind and the sign are compared."""
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    found = to_halves(values).view(np.float16)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(np.isnan(found), ~number)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    np.testing.assert_array_equal(found.view(np.uint16)[number], expected.view(np.uint16)[number])


def test_every_half_is_read_as_numpy_reads_it():
    found, expected = to_floats(EVERY_HALF), EVERY_HALF.view(np.float16).astype(np.float32)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~number)
    np.testing.assert_array_equal(found.view(np.uint32)[number], expected.view(np.uint32)[number])


def test_every_half_comes_back():
    number = EVERY_HALF[~np.isnan(EVERY_HALF.view(np.float16))]
    np.testing.assert_array_equal(to_halves(to_floats(number)), number)


def test_ties_go_to_the_even_half():
    """Halves are 1/1024 apart from 1 on: a quarter, a half and three quarters of that beyond the first two of them."""
    step = 2.0**-10
    values = np.array([1 + 0.25 * step, 1 + 0.5 * step, 1 + 0.75 * step, 1 + 1.5 * step], dtype=np.float32)
    np.testing.assert_array_equal(to_halves(values).view(np.float16), np.array([1, 1, 1 + step, 1 + 2 * step]))


def test_between_any_two_halves_values_round_as_numpy_rounds_them():
    """Midpoints, and their neighbours among the singles, between all finite halves, subnormal ones included."""
    finite = EVERY_HALF[:0x7C00].view(np.float16).astype(np.float32)
    middle = np.append((finite[:-1] + finite[1:]) / 2, np.float32(65_520))
    values = np.concatenate([middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))])
    check_as_numpy(np.concatenate([values, -values]))


def test_any_single_rounds_as_numpy_rounds_it():
    bits = np.random.default_rng(1).integers(0, 1 << 32, 1_000_000, dtype=np.uint64).astype(np.uint32)
    check_as_numpy(bits.view(np.float32))
    check_as_numpy(np.random.default_rng(2).normal(size=1_000_000).astype(np.float32))


@pytest.mark.parametrize("value", [0.0, 65_504.0, 65_519.9, 65_520.0, 1e9, np.inf, np.nan, 1e-8, 2.0**-25, 1e-40])
def test_extremes_of_either_sign(value):
    check_as_numpy(np.array([value, -value], dtype=np.float32))


def test_no_value_becomes_infinite_when_it_is_halved():
    halved = clip_to_half(np.array([1.5, -1e9, np.inf, np.nan], np.float32))
    assert halved.dtype == np.float16
    np.testing.assert_array_equal(halved, np.array([1.5, -60_000, 60_000, np.nan], np.float16))

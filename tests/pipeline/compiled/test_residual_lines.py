"""Residuals inside compiled loops: values equal numpy's, masked values are 0, and sums match those in the head."""

import numpy as np
import pytest

from shutterless.pipeline.compiled.residual_lines import compiled_lines, mark_live, sum_bins, unpack_line, weighted_sum


def unpacked(values: np.ndarray) -> tuple[np.ndarray, bool, np.ndarray]:
    (raw,) = compiled_lines(values[None, None])
    line, live = np.empty((2, len(values)), np.float32)
    any_masked = unpack_line(raw, line)
    mark_live(raw, live)
    return line, any_masked, live


def test_every_half_is_read_as_numpy_reads_it_and_what_is_not_finite_as_0():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    line, any_masked, live = unpacked(halves)
    finite = np.isfinite(halves)
    assert any_masked
    np.testing.assert_array_equal(line, np.where(finite, halves, 0).astype(np.float32))
    np.testing.assert_array_equal(live, finite)
    assert not unpacked(halves[finite])[1]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_other_numbers_are_read_as_singles(kind):
    line, any_masked, live = unpacked(np.array([1.25, np.nan, -3e38, -np.inf], dtype=kind))
    assert any_masked
    np.testing.assert_array_equal(line, np.array([1.25, 0, -3e38, 0], dtype=np.float32))
    assert live.tolist() == [1, 0, 1, 0]


def test_lines_are_no_copy_and_cannot_be_written_to():
    residual = np.zeros((2, 3, 5), dtype=np.float16)
    lines = compiled_lines(residual)
    residual[1, 2, 4] = 1
    assert lines.shape == (6, 5)
    assert lines[5, 4] == np.float16(1).view(np.uint16)
    assert not lines.flags.writeable
    assert residual.flags.writeable


@pytest.mark.parametrize("n_taps", [1, 2, 3, 4, 5, 9])
def test_weighted_sum_is_that_of_its_lines(n_taps):
    rng = np.random.default_rng(n_taps)
    lines, weights = rng.standard_normal((12, 40)).astype(np.float32), rng.random(n_taps).astype(np.float32)
    taps, series = rng.permutation(12)[:n_taps], np.full(33, np.nan, np.float32)
    weighted_sum(lines, taps, weights, series)
    np.testing.assert_allclose(series, weights @ lines[taps, :33], atol=1e-5)


@pytest.mark.parametrize(("bin_rows", "expected"), [(1, [1, 2, 3]), (2, [3, 7, 11]), (3, [6, 15, 24])])
def test_sums_of_bins_in_the_head(bin_rows, expected):
    sums = np.empty(3, np.float32)
    sum_bins(np.arange(1, 10, dtype=np.float32), bin_rows, sums)
    assert sums.tolist() == expected

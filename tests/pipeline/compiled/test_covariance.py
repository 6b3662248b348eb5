from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.compiled.covariance import FEWEST_BINS, covariance_of_columns, inverse_roots

N_ROWS = 16 * 1000


def lines(residual: np.ndarray) -> np.ndarray:
    return residual.astype(np.float32)


def moving(seed: int, strength: float) -> np.ndarray:
    """White noise, and lines 19 and 21 that vary against each other, slowly: a star that moves to and fro."""
    rng = np.random.default_rng(seed)
    residual = rng.standard_normal((40, N_ROWS))
    motion = np.repeat(rng.standard_normal(N_ROWS // 16), 16) * strength / 4
    residual[19] += motion
    residual[21] -= motion
    return residual


@pytest.mark.parametrize("seed", range(5))
def test_white_noise_gives_exactly_the_identity(seed):
    found = covariance_of_columns(lines(np.random.default_rng(seed).standard_normal((300, N_ROWS))), 4)
    assert np.array_equal(found, np.broadcast_to(np.eye(9), (300, 9, 9)))


def test_opposite_motion_of_two_lines_is_measured_around_every_line_near_them():
    found = covariance_of_columns(lines(moving(1, 3.0)), 2)
    # a bin of 16 rows sums a constant of 3/4 to 3 sigma
    assert found[20][1, 1] == pytest.approx(10, rel=0.1)
    assert found[20][1, 3] == pytest.approx(-9, rel=0.1)
    assert found[19][2, 4] == pytest.approx(-9, rel=0.1)
    assert np.array_equal(found[10], np.eye(5))


def test_inverse_root_makes_the_lines_white():
    covariance = covariance_of_columns(lines(moving(2, 5.0)), 2)
    roots = inverse_roots(covariance)
    np.testing.assert_allclose(roots @ covariance @ roots, np.broadcast_to(np.eye(5), covariance.shape), atol=1e-9)
    assert np.array_equal(roots[10], np.eye(5))


def test_an_event_is_no_motion():
    residual = np.random.default_rng(3).standard_normal((40, N_ROWS))
    residual[18:23, 5000:5100] += 5.0
    assert np.array_equal(covariance_of_columns(lines(residual), 2)[20], np.eye(5))


@pytest.mark.parametrize(("n_rows", "height"), [(100, 5.0), (300, 1.0)])
def test_several_events_of_one_place_are_hardly_any(n_rows, height):
    """With them the variance would be 10 and 2; their first and last bins may stay."""
    residual = np.random.default_rng(3).standard_normal((40, N_ROWS))
    for start in (2000, 5000, 9000, 12000):
        residual[18:23, start : start + n_rows] += height
    assert np.abs(covariance_of_columns(lines(residual), 2)[20] - np.eye(5)).max() < 0.15


def test_masked_rows_are_left_out_and_a_masked_line_is_white():
    residual = moving(4, 3.0)
    residual[19, 4000:9000] = np.nan
    residual[30] = np.nan
    found = covariance_of_columns(lines(residual), 2)
    assert found[20][1, 3] == pytest.approx(-9, rel=0.15)
    assert np.array_equal(found[30], np.eye(5))


def test_few_rows_are_white():
    short = moving(5, 10.0)[:, : 16 * (FEWEST_BINS - 1)]
    assert np.array_equal(covariance_of_columns(lines(short), 2)[20], np.eye(5))

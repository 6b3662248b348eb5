from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.calibration import residuals as residuals_module
from shutterless.pipeline.calibration.residuals import CHUNK_ROWS, Baseline, fit_baseline, iterate_residuals
from shutterless.pipeline.reading.frames import Frame

GAIN, READ_NOISE_E = 2.0, 5.0


def noise_adu(rng: np.random.Generator, mean_e, shape) -> np.ndarray:
    electrons = rng.poisson(mean_e, shape) + rng.normal(0, READ_NOISE_E, shape)
    return np.rint(electrons / GAIN + 100).astype(np.uint16)


def residuals(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residual, sigma and row residual of a whole frame."""
    chunks = list(iterate_residuals(frame, fit_baseline(frame)))
    return tuple(
        np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("residual", "sigma_e", "row_residual")
    )


def test_variance_is_photons_read_noise_and_digitisation(tiny_profile, make_frame):
    frame = make_frame(np.full((4, 3), 250), tiny_profile)
    baseline = Baseline(np.array([[300.0, 0.0, -20.0]], dtype=np.float32), (), np.full(4, 100.0))
    (chunk,) = iterate_residuals(frame, baseline)
    # a level below zero has no photons, and no negative variance
    np.testing.assert_allclose(chunk.sigma_e**2, [[300 + 25 + 4 / 12, 25 + 4 / 12, 25 + 4 / 12]] * 4, rtol=1e-6)


def test_what_all_columns_share_is_taken_off_and_kept(tiny_profile, make_frame):
    pixels = np.full((3, 8), 250)
    pixels[1] += 3  # 6 e- in the whole row
    pixels[2, 5] += 500  # one pixel, that is not shared
    frame = make_frame(pixels, tiny_profile)
    (chunk,) = iterate_residuals(frame, Baseline(np.full((1, 8), 300, dtype=np.float32), (), np.full(3, 100.0)))
    sigma = np.sqrt(300 + 25 + 4 / 12)
    np.testing.assert_allclose(chunk.row_residual, [0, 6 / sigma, 0], atol=1e-6)
    expected = np.zeros((3, 8))
    expected[2, 5] = 1000 / sigma
    np.testing.assert_allclose(chunk.residual, expected, atol=1e-5)


def test_quiet_sky_leaves_uncorrelated_residuals_of_unit_variance(tiny_profile, make_frame):
    frame = make_frame(noise_adu(np.random.default_rng(1), 300, (6000, 64)), tiny_profile)
    residual, sigma, shared = residuals(frame)
    # the row residual takes one of 64 degrees of freedom
    assert residual.std() / np.sqrt(1 - 1 / 64) == pytest.approx(1, abs=0.005)
    assert abs(np.corrcoef(residual[:-1].ravel(), residual[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(residual[:, :-1].ravel(), residual[:, 1:].ravel())[0, 1]) < 0.03
    assert sigma.mean() == pytest.approx(np.sqrt(300 + 25 + 4 / 12), rel=1e-3)
    assert shared.std() == pytest.approx(1 / 8, rel=0.05)  # mean of 64 columns


def test_pickup_burst_is_removed(tiny_profile, make_frame):
    rng = np.random.default_rng(2)
    quiet = rng.poisson(300, (2000, 64)) + rng.normal(0, READ_NOISE_E, (2000, 64))
    burst = np.zeros(2000)
    burst[1000:1040] = 60 * np.sin(np.arange(40))
    frame = make_frame(np.rint((quiet + burst[:, None]) / GAIN + 100), tiny_profile)
    residual, sigma, shared = residuals(frame)
    assert residual[1000:1040].std() == pytest.approx(0.99, abs=0.06)
    assert abs(np.mean(residual[1000:1040] * np.sign(burst[1000:1040, None]))) < 0.01
    np.testing.assert_allclose(shared[1000:1040] * sigma[1000:1040].mean(), burst[1000:1040], atol=12)


def test_bias_drift_is_followed_by_the_overscan(tiny_profile, make_frame):
    rng = np.random.default_rng(3)
    drift = np.rint(200 * np.sin(np.arange(1000) / 40)).astype(int)  # ADU
    pixels = noise_adu(rng, 300, (1000, 64)).astype(int) + drift[:, None]
    overscan = np.rint(100 + rng.normal(0, READ_NOISE_E / GAIN, (1000, 30))).astype(int) + drift[:, None]
    residual, _, _ = residuals(make_frame(pixels, tiny_profile, overscan))
    assert residual.std() == pytest.approx(0.99, abs=0.02)


def test_slow_level_is_followed_and_a_short_event_is_not(tiny_profile, make_frame):
    rng = np.random.default_rng(4)
    level = np.full((12_000, 64), 300.0) + np.linspace(0, 200, 12_000)[:, None]
    level[6000:6200, 30] += 60
    residual, sigma, _ = residuals(make_frame(noise_adu(rng, level, level.shape), tiny_profile))
    assert residual.std() == pytest.approx(1, abs=0.02)
    # 60 e- in a column for 200 rows: 60 / 20.6 sigma in each, within its own error of 1 / sqrt(200) times its noise
    assert residual[6000:6200, 30].mean() == pytest.approx(60 / sigma[6100, 30], rel=0.1)


def test_chunks_join_without_a_border(tiny_profile, make_frame, monkeypatch):
    """Sky that rises over 150 rows and then slowly falls: to the bit what one chunk of 700 rows gives."""
    sky_e = 300 * np.minimum(np.arange(700) / 150, 1) - np.linspace(0, 60, 700)
    rng = np.random.default_rng(5)
    pixels, overscan = noise_adu(rng, np.maximum(sky_e, 0)[:, None], (700, 64)), noise_adu(rng, 0, (700, 30))
    frame = make_frame(pixels, tiny_profile, overscan, first_row=0, n_transit=150)
    in_chunks = residuals(frame)
    n_chunks = len(list(iterate_residuals(frame, fit_baseline(frame))))
    monkeypatch.setattr(residuals_module, "CHUNK_ROWS", 700)
    in_one = residuals(frame)
    assert (n_chunks, len(list(iterate_residuals(frame, fit_baseline(frame))))) == (-(-700 // CHUNK_ROWS), 1)
    for found, expected in zip(in_chunks, in_one, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (
        in_one[1][CHUNK_ROWS - 9, 5] < in_one[1][CHUNK_ROWS, 5] < in_one[1][CHUNK_ROWS + 9, 5]
    )  # it rises across a border

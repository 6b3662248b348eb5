"""Statistics of columns, put in and found; who is restless alone; the spectrum of a sine."""

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.quality import column_statistics, pickup_spectrum, restless_columns, summarise_quality
from shutterless.pipeline.readout import Readout

READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080)
SIGMA_PX = 0.84


def noise(n_columns: int = 70, n_rows: int = 20_000, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_columns, n_rows)).astype(np.float32)


def test_noise_of_one_sigma_is_measured_as_such():
    table = column_statistics(noise().astype(np.float16))
    np.testing.assert_allclose(table["noise"], 1, atol=5 / np.sqrt(2 * 20_000))
    np.testing.assert_allclose(table["slow"], 1, atol=5 * np.sqrt(2 / 312))
    np.testing.assert_allclose(table["row_correlation"], 0, atol=5 / np.sqrt(20_000))
    np.testing.assert_allclose(table["column_correlation"].iloc[:-1], 0, atol=5 / np.sqrt(20_000))
    assert np.isnan(table["column_correlation"].iloc[-1])
    assert (table["live"] == 20_000).all()


def test_correlations_put_in_are_found():
    """A moving average of two rows correlates successive ones by 1/2, as one of two columns does neighbours."""
    plain = noise()
    rows = (plain[:, 1:] + plain[:, :-1]) / np.sqrt(2)
    assert column_statistics(rows)["row_correlation"].mean() == pytest.approx(0.5, abs=0.01)
    columns = (plain[1:] + plain[:-1]) / np.sqrt(2)
    assert column_statistics(columns)["column_correlation"].iloc[:-1].mean() == pytest.approx(0.5, abs=0.01)


def test_tails_and_masked_pixels_are_counted_apart():
    residual = np.zeros((2, 640), dtype=np.float16)
    residual[0, :3] = [6, 7, -8]
    residual[1, 10:20] = np.nan
    table = column_statistics(residual)
    assert table[["live", "above", "below"]].to_numpy().tolist() == [[640, 2, 1], [630, 0, 0]]


def test_a_column_without_a_live_pixel_has_no_noise():
    table = column_statistics(np.full((1, 100), np.nan, dtype=np.float16))
    assert table["live"].iloc[0] == 0
    assert table[["noise", "slow", "row_correlation"]].isna().all().all()
    assert not restless_columns(table, SIGMA_PX).any()


def test_a_blinking_column_is_restless_and_a_varying_star_is_not():
    residual = noise(60)
    blink = np.where(np.arange(20_000) // 400 % 2, 1.0, -1.0)  # 1 sigma, for 1.3 s
    residual[20] += blink
    residual[35:46] += 3 * np.outer(pixel_profile(np.arange(-5, 6), SIGMA_PX), blink)
    residual[50] += 0.8 * np.random.default_rng(2).standard_normal(20_000)  # noisier by itself, row by row
    table = column_statistics(residual.astype(np.float16))
    np.testing.assert_array_equal(np.flatnonzero(restless_columns(table, SIGMA_PX)), [20, 50])


def test_summary_leaves_bad_columns_out():
    table = pd.DataFrame(
        {
            "live": [100, 50, 100],
            "noise": [1.0, 1.0, 3.0],
            "slow": 1.0,
            "row_correlation": [0.1, 0.3, 0.9],
            "column_correlation": [0.0, 0.2, 0.9],
            "above": [1, 2, 40],
            "below": [0, 1, 9],
        }
    )
    summary = summarise_quality(table, np.array([False, False, True]), 100)
    assert summary == {
        "live_pixel_rows": 150,
        "noise": 1.0,
        "masked_fraction": 0.5,
        "bad_columns": 1,
        "row_correlation": pytest.approx(0.2),
        "column_correlation": pytest.approx(0.1),
        "above": 3,
        "below": 1,
    }


def test_spectrum_shows_a_sine_with_its_amplitude():
    t = np.arange(8192) / 300
    offsets = 3 * np.sin(2 * np.pi * 60 * t)
    offsets[100:105] = np.nan
    frequency, amplitude = pickup_spectrum(offsets, READOUT)
    assert frequency[np.argmax(amplitude)] == pytest.approx(60, abs=300 / 2048)
    assert amplitude.max() == pytest.approx(3, rel=0.1)  # the window's scalloping, and the gap
    assert frequency[-1] == 150


@pytest.mark.parametrize("offsets", [np.empty(0), np.array([1.0, 2.0]), np.full(100, np.nan)])
def test_nothing_has_no_spectrum(offsets):
    frequency, amplitude = pickup_spectrum(offsets, READOUT)
    assert frequency.size == amplitude.size == 0

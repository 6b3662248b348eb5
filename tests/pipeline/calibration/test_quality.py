"""Statistics of columns are measured as put in; variable columns and sines in a spectrum are found."""

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.calibration.quality import (
    column_statistics,
    expected_tails,
    masked_fractions,
    noise_over_time,
    pickup_peaks,
    pickup_spectrum,
    summarise_quality,
    variable_columns,
)
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

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


def test_tails_in_company_are_not_isolated():
    """A cosmic ray of two pixels is not, nor one whose diagonal neighbour is at 4 sigma; noise beside it is."""
    residual = np.zeros((70, 640), dtype=np.float16)
    residual[10, 10:12] = 8
    residual[63, 20], residual[64, 21] = 8, -4  # neighbours across the columns measured together
    residual[64, 40], residual[63, 39] = 8, 2
    residual[69, 639] = -6
    residual[0, 0], residual[0, 1] = 6, np.nan
    table = column_statistics(residual)
    assert (int(table["above"].sum()), int(table["below"].sum())) == (5, 1)
    assert table["isolated_above"].to_numpy().nonzero()[0].tolist() == [0, 64]
    assert table["isolated_below"].to_numpy().nonzero()[0].tolist() == [69]


def test_a_column_without_a_live_pixel_has_no_noise():
    table = column_statistics(np.full((1, 100), np.nan, dtype=np.float16))
    assert table["live"].iloc[0] == 0
    assert table[["noise", "slow", "row_correlation"]].isna().all().all()
    assert not variable_columns(table, SIGMA_PX, np.empty(0)).any()


def test_a_blinking_column_is_variable_and_a_varying_star_is_not():
    residual = noise(60)
    blink = np.where(np.arange(20_000) // 400 % 2, 1.0, -1.0)  # 1 sigma, for 1.3 s
    residual[20] += blink
    residual[35:46] += 3 * np.outer(pixel_profile(np.arange(-5, 6), SIGMA_PX), blink)
    residual[50] += 0.8 * np.random.default_rng(2).standard_normal(20_000)  # noisier by itself, row by row
    table = column_statistics(residual.astype(np.float16))
    np.testing.assert_array_equal(np.flatnonzero(variable_columns(table, SIGMA_PX, np.empty(0))), [20, 50])
    # a column under a bright streak is not judged
    np.testing.assert_array_equal(np.flatnonzero(variable_columns(table, SIGMA_PX, np.array([18.3]))), [50])


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


def test_peaks_are_sines_with_their_frequency_and_amplitude():
    """One between two bins of 300 / 2048 Hz, and one on a bin, under noise of 3 electrons."""
    n_rows = 16_384
    t = np.arange(n_rows) / 300
    offsets = 3 * np.random.default_rng(4).standard_normal(n_rows)
    offsets += 2.0 * np.sin(2 * np.pi * 60 * t) + 1.0 * np.sin(2 * np.pi * 100 * 300 / 2048 * t + 1)
    peaks = pickup_peaks(*pickup_spectrum(offsets, READOUT), n_rows)
    np.testing.assert_allclose(peaks["frequency_hz"], [60, 14.648], atol=0.02)
    np.testing.assert_allclose(peaks["amplitude_e"], [2, 1], atol=0.15)  # noise has 0.08 in a bin
    assert peaks["times_median"].is_monotonic_decreasing


def test_noise_and_drift_have_no_peaks():
    """White noise, and a random walk, whose power falls by four in each octave."""
    rng = np.random.default_rng(5)
    white = rng.standard_normal((30, 8000))
    walks = 0.1 * np.cumsum(rng.standard_normal((30, 8000)), axis=1) + white
    n_peaks = [len(pickup_peaks(*pickup_spectrum(series, READOUT), 8000)) for series in (*white, *walks)]
    assert sum(n_peaks) <= 6  # 2.4 expected


def test_nothing_has_no_peaks():
    peaks = pickup_peaks(np.empty(0), np.empty(0), 0)
    assert peaks.columns.tolist() == ["frequency_hz", "amplitude_e", "times_median"]
    assert peaks.empty


def test_tails_of_bright_pixels_are_gaussian_and_those_of_faint_ones_skew():
    gaussian = 2.8665e-7  # one side, beyond 5
    assert expected_tails(1e7, 10.0) == pytest.approx((gaussian, gaussian), rel=0.05)
    below, above = expected_tails(314.0, 10.0)
    assert below < gaussian / 2
    assert above > 1.8 * gaussian


def test_tails_agree_with_numbers_drawn():
    rng = np.random.default_rng(6)
    drawn = rng.poisson(50, 2_000_000) - 50 + rng.normal(0, 5, 2_000_000)
    for share, expected in zip((drawn < -3 * 75**0.5, drawn > 3 * 75**0.5), expected_tails(50, 5, 3), strict=True):
        assert share.mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / 2_000_000))


def test_masked_fractions_count_rows_of_columns_that_live():
    residual = np.zeros((4, 5), dtype=np.float16)
    residual[1] = np.nan
    residual[2:, 3] = np.nan
    by_column, by_row = masked_fractions(residual)
    np.testing.assert_allclose(by_column, [0, 1, 0.2, 0.2])
    np.testing.assert_allclose(by_row, [0, 0, 0, 2 / 3, 0])
    assert (masked_fractions(np.full((2, 3), np.nan, np.float16))[1] == 1).all()


def test_noise_over_time_follows_what_was_put_in():
    """Twice the noise in the first quarter, a ray that does not count, and a masked quarter."""
    residual = np.tile(np.array([1.0, -1.0], dtype=np.float16), (70, 50))
    residual[:, :25] *= 2
    residual[3, 40] = 30
    residual[:, 75:] = np.nan
    edges, noise = noise_over_time(residual, n_bins=4)
    assert edges.tolist() == [0, 25, 50, 75, 100]
    np.testing.assert_allclose(noise, [2, 1, 1, np.nan])
    assert noise_over_time(residual[:, :3])[0].tolist() == [0, 1, 2, 3]

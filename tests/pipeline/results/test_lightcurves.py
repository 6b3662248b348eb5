"""Light curves: computed in the head, compared with dense least squares, and recovered from noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.time import Time

from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.results.lightcurves import LightCurveError, fit_light_curves

PAIR = ((20.3, 1000.0), (23.3, 300.0))


def profiles(amplifier):
    """Light of each streak on every column, (s, x)."""
    offsets = np.arange(amplifier.n_columns) - amplifier.streaks["x"].to_numpy()[:, None]
    return pixel_profile(offsets, amplifier.psf_sigma_px)


def with_change(amplifier, change_e):
    """The amplifier with a change of flux (s, t) added, its residual in float64."""
    sigma = amplifier.sigma_rows(slice(None), slice(None), 0, amplifier.n_rows)[0]
    return replace(amplifier, residual=amplifier.residual + (profiles(amplifier).T @ change_e / sigma)[None])


def mask(amplifier, column, rows):
    residual = np.array(amplifier.residual)
    residual[0, column, rows] = np.nan
    return replace(amplifier, residual=residual)


def test_one_star_in_one_column_is_solved_in_the_head(make_amplifier):
    star = make_amplifier(n_rows=100, noise=0.0, stars=((20.0, 500.0),))
    level = np.full_like(star.baseline_e, 300.0)
    level[0, 20] = 800.0  # all the light in one column; noise √(300 + 500 + 10²) = 30
    star = replace(star, psf_sigma_px=0.1, baseline_e=level, sigma_e=np.sqrt(level + np.float32(100)))
    star.residual[0, 20, 70] = 2.0
    star.residual[0, 26, 71] = 50.0
    curves = fit_light_curves(star)
    expected = np.full(100, 500.0)
    expected[70] = 560.0
    assert curves.flux_e_row[0] == pytest.approx(expected, rel=1e-6)
    assert curves.error_e_row[0] == pytest.approx(np.full(100, 30.0), rel=1e-6)


def test_changes_of_blended_stars_come_back_exactly(make_amplifier):
    change = np.random.default_rng(3).uniform(-200, 500, (3, 300))
    stars = (*PAIR, (24.4, 50.0))
    curves = fit_light_curves(with_change(make_amplifier(n_rows=300, noise=0.0, stars=stars), change))
    steady = np.array([flux for _, flux in stars])[:, None]
    assert curves.flux_e_row == pytest.approx(steady + change, abs=0.05)  # the baseline is kept in float32


def test_blocks_agree_with_dense_least_squares_row_by_row(make_amplifier):
    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(-0.4, 63.4, 25))
    x = x[np.append(True, np.diff(x) > 0.6)]
    amplifier = make_amplifier(n_rows=300, stars=tuple((value, 200.0) for value in x))
    amplifier.sigma_e[:] *= rng.uniform(0.8, 1.2, amplifier.sigma_e.shape)
    amplifier.residual[rng.random(amplifier.residual.shape) < 0.02] = np.nan
    rows = slice(70, 215)
    curves = fit_light_curves(amplifier, rows)
    steady = fit_light_curves(replace(amplifier, residual=np.zeros_like(amplifier.residual)), rows).flux_e_row
    sigma = amplifier.sigma_rows(slice(None), slice(None), rows.start, rows.stop)[0]
    design = profiles(amplifier).T
    compared = 0
    for t in range(rows.stop - rows.start):
        weight = 1 / amplifier.sigma_e[0, :, (rows.start + t) // BLOCK_ROWS].astype(np.float64)
        data = amplifier.residual[0, :, rows.start + t].astype(np.float64) * sigma[:, t]
        live = np.isfinite(data)
        if np.linalg.matrix_rank(design[live]) < len(x):
            continue
        matrix = design[live] * weight[live, None]
        flux = np.linalg.lstsq(matrix, data[live] * weight[live], rcond=None)[0]
        error = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)))
        seen = np.isfinite(curves.flux_e_row[:, t])
        assert np.array_equal(seen, live[np.clip(np.round(x).astype(int), 0, 63)])
        well = seen & (error < 1e4)  # only the ridge separates two stars on one live column
        assert (curves.flux_e_row - steady)[well, t] == pytest.approx(flux[well], rel=1e-3, abs=0.05)
        assert curves.error_e_row[well, t] == pytest.approx(error[well], rel=1e-3)
        compared += well.sum()
    assert compared > 2000


def test_a_bin_is_the_mean_of_its_rows(make_amplifier):
    amplifier = make_amplifier(n_rows=203)
    single, binned = fit_light_curves(amplifier), fit_light_curves(amplifier, bin_rows=5)
    assert binned.flux_e_row[:, :40] == pytest.approx(single.flux_e_row[:, :200].reshape(2, 40, 5).mean(axis=2))
    assert binned.flux_e_row[:, 40] == pytest.approx(single.flux_e_row[:, 200:].mean(axis=1))
    assert binned.error_e_row[:, 0] == pytest.approx(single.error_e_row[:, 0] / np.sqrt(5))
    assert binned.row[[0, 1, 40]].tolist() == [2.0, 7.0, 201.0]
    assert binned.time_s[1] == pytest.approx(7 / 300)


def test_masked_rows_of_a_bin_do_not_count(make_amplifier):
    amplifier = make_amplifier(n_rows=8)
    single = fit_light_curves(amplifier)
    binned = fit_light_curves(mask(mask(amplifier, 20, slice(4, 8)), 20, 1), bin_rows=4)
    assert binned.flux_e_row[0, 0] == pytest.approx(single.flux_e_row[0, [0, 2, 3]].mean())
    assert np.isnan(binned.flux_e_row[0, 1])
    assert np.isnan(binned.error_e_row[0, 1])
    assert np.isfinite(binned.flux_e_row[1]).all()


def test_errors_are_right_and_a_pair_three_pixels_apart_is_unbiased(make_amplifier):
    amplifier = make_amplifier(n_rows=8192, stars=(*PAIR, (30.0, 80.0), (31.5, 2000.0), (50.0, 40.0)), seed=8)
    curves = fit_light_curves(amplifier)
    truth = amplifier.streaks["flux_e_row"].to_numpy()[:, None]
    pull = (curves.flux_e_row - truth) / curves.error_e_row
    assert pull.std(axis=1) == pytest.approx(np.ones(5), abs=0.05)
    assert np.abs(pull.mean(axis=1)).max() < 4 / np.sqrt(8192)
    assert curves.flux_e_row[:2].mean(axis=1) == pytest.approx(truth[:2, 0], rel=0.02)


def test_an_event_goes_to_the_right_star_of_a_pair(make_amplifier):
    n_events, width, spacing = 80, 4, 40
    amplifier = make_amplifier(n_rows=n_events * spacing, stars=PAIR, seed=4)
    shape = profiles(amplifier)
    sigma = amplifier.sigma_e[0, :, 0]
    change = np.zeros((2, amplifier.n_rows))
    for event in range(n_events):
        star = event % 2
        rho = 10 + event % 5
        amplitude = rho / np.sqrt(width * np.sum((shape[star] / sigma) ** 2))
        change[star, event * spacing : event * spacing + width] = amplitude
    curves = fit_light_curves(with_change(amplifier, change))
    steady = amplifier.streaks["flux_e_row"].to_numpy()[:, None]
    significance = ((curves.flux_e_row - steady) / curves.error_e_row).reshape(2, n_events, spacing)[..., :width]
    chosen = significance.sum(axis=2).argmax(axis=0)
    assert np.mean(chosen == np.arange(n_events) % 2) >= 0.95


def test_a_masked_core_is_nan_and_a_masked_flank_costs_precision(make_amplifier):
    amplifier = make_amplifier(n_rows=200, stars=PAIR)
    whole = fit_light_curves(amplifier)
    core, flank = (fit_light_curves(mask(amplifier, column, slice(90, 110))) for column in (20, 22))
    assert np.isnan(core.flux_e_row[0, 90:110]).all()
    assert np.isnan(core.error_e_row[0, 90:110]).all()
    assert np.isfinite(core.flux_e_row[1]).all()
    assert np.isfinite(flank.flux_e_row).all()
    assert (flank.error_e_row[:, 90:110] > whole.error_e_row[:, 90:110]).all()
    unmasked = np.delete(np.arange(200), np.arange(90, 110))
    for curves in (core, flank):
        assert np.array_equal(curves.flux_e_row[:, unmasked], whole.flux_e_row[:, unmasked])


def test_slow_change_in_the_baseline_is_part_of_the_flux(make_amplifier):
    amplifier = make_amplifier(n_rows=6400, noise=0.0, stars=((20.3, 1000.0),))
    level = 1 + 0.1 * np.linspace(0, 1, 100)
    light = 1000.0 * profiles(amplifier)[0]
    amplifier.baseline_e[0] = (300 + light[:, None] * level).astype(np.float32)
    flux = fit_light_curves(amplifier).flux_e_row[0]
    assert flux[[31, 6368]] == pytest.approx([1000.0, 1100.0], rel=1e-3)


def test_a_streak_has_no_flux_before_it_begins(make_amplifier):
    stars = ((10.0, 1000.0), (25.0, 500.0), (40.0, 800.0), (55.0, 300.0))
    amplifier = make_amplifier(n_rows=3600, noise=0.0, stars=stars, first_row=0)
    amplifier.streaks["y0"] = [1000.0, np.nan, 4000.0, np.nan]  # the third lies beyond the detector and is dropped
    begin_block = (1000 // BLOCK_ROWS, 20, 0, 0)
    fraction = np.minimum((np.arange(57) + 0.5) * BLOCK_ROWS / 3080, 1)
    light = np.array([flux for _, flux in stars])[:, None] * (np.arange(57) >= np.array(begin_block)[:, None])
    amplifier.baseline_e[0] = 300 * fraction + profiles(amplifier).T @ light
    curves = fit_light_curves(amplifier)
    begins = [np.flatnonzero(np.isfinite(flux))[0] for flux in curves.flux_e_row]
    assert begins == [1000, 20 * BLOCK_ROWS, 0, 0]
    for (_, flux), curve, begin in zip(stars, curves.flux_e_row, begins, strict=True):
        assert curve[begin:] == pytest.approx(np.full(3600 - begin, flux), rel=1e-3)
    only_ramp = fit_light_curves(replace(amplifier, residual=amplifier.residual[..., :3072]), slice(2000, 2010))
    assert only_ramp.flux_e_row == pytest.approx(np.outer([flux for _, flux in stars], np.ones(10)))


@pytest.mark.parametrize("opened", ["2026-03-04T05:06:07.123456", "2016-12-31T23:59:58.500000"])
def test_utc_is_that_of_the_readout_also_across_a_leap_second(make_amplifier, opened):
    amplifier = make_amplifier(n_rows=1200, stars=(), first_row=5000, shutter_open_utc=opened)
    curves = fit_light_curves(amplifier)
    for y0 in (np.nan, 5200.0, 1234.5):
        exact = amplifier.readout.event_utc_range(curves.row, np.full(1200, y0))
        for ours, theirs in zip(curves.event_utc_range(y0), exact, strict=True):
            assert np.abs((Time(ours, scale="utc") - Time(theirs, scale="utc")).to_value("s")).max() < 2e-6
    assert np.array_equal(curves.read_utc()[[0]], amplifier.readout.read_utc([0.0]))


def test_light_read_after_the_shutter_closed_fell_before_that(make_amplifier):
    # 15 s after the opening the shutter closes, and the clocks go on for 2 s: rows 4500 to 5100
    amplifier = make_amplifier(
        n_rows=1200, stars=(), first_row=3900, shutter_open_utc="2026-03-04T05:06:07", close_row=4500
    )
    curves = fit_light_curves(amplifier, bin_rows=300)
    earliest, latest = curves.event_utc_range(np.nan)
    closed = "2026-03-04T05:06:22.000000"
    assert latest[2:].tolist() == [closed, closed]
    assert latest[:2].tolist() == curves.read_utc()[:2].tolist()
    assert (earliest < latest).all()
    ours, theirs = curves.event_utc_range(np.nan), amplifier.readout.event_utc_range(curves.row)
    assert [times.tolist() for times in ours] == [times.tolist() for times in theirs]


def test_without_clocks_utc_is_empty_and_without_stars_nothing_is_fitted(make_amplifier):
    curves = fit_light_curves(make_amplifier(n_rows=70, stars=()))
    assert curves.flux_e_row.shape == curves.error_e_row.shape == (0, 70)
    assert set(curves.read_utc()) == {""}
    assert {*curves.event_utc_range(np.nan)[0], *curves.event_utc_range(3.0)[1]} == {""}


def test_streaks_in_any_order_give_the_same(make_amplifier):
    amplifier = make_amplifier(n_rows=64, stars=PAIR)
    turned = fit_light_curves(replace(amplifier, streaks=amplifier.streaks.iloc[::-1]))
    assert np.array_equal(turned.flux_e_row, fit_light_curves(amplifier).flux_e_row)
    assert turned.streaks["x"].tolist() == [20.3, 23.3]


@pytest.mark.parametrize("rows", [slice(0, 101), slice(50, 50), slice(-5, 20), slice(0, 50, 2)])
def test_rows_that_are_not_there_are_refused(make_amplifier, rows):
    with pytest.raises(LightCurveError, match=r"are not a segment of the amplifier's 100 rows; pass slice"):
        fit_light_curves(make_amplifier(n_rows=100), rows)


def test_empty_bins_are_refused(make_amplifier):
    with pytest.raises(LightCurveError, match=r"bin_rows is 0; it must be 1 \(every row\) or more"):
        fit_light_curves(make_amplifier(n_rows=100), bin_rows=0)

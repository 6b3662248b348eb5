from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.psf import pixel_profile, psf_half_width
from shutterless.pipeline.readout import Readout
from shutterless.pipeline.store import BLOCK_ROWS, Amplifier
from shutterless.pipeline.streaks import STREAK_COLUMNS
from shutterless.pipeline.template_bank import (
    BOX_WIDTHS,
    MIN_LIVE_FRACTION,
    _filter_masked,
    _filter_whole,
    _keep_strongest,
    footprint,
    scan,
)

SIGMA_PX = 0.84


def make_amplifier(residual: np.ndarray, sigma_px: float = SIGMA_PX, streak_x=()) -> Amplifier:
    """Amplifier in memory with these residuals (x, t) and a noise of 1 e-."""
    n_columns, n_rows = residual.shape
    blocks = np.ones((1, n_columns, -(-n_rows // BLOCK_ROWS)), dtype=np.float32)
    streaks = pd.DataFrame({name: pd.Series(dtype="float64") for name in STREAK_COLUMNS})
    streaks["x"] = np.asarray(streak_x, dtype=np.float64)
    streaks["y"] = 0.0
    streaks["streak_id"] = np.arange(len(streak_x))
    return Amplifier(
        residual=residual.astype(np.float16)[None],
        baseline_e=100 * blocks,
        sigma_e=blocks,
        row_residual=np.zeros(n_rows, dtype=np.float32),
        streaks=streaks,
        readout=Readout(300.0, 6.2, 10.0, 48_000.0, 3080),
        file="memory.fits",
        entry="memory",
        psf_sigma_px=sigma_px,
        live_pixel_rows=int(np.isfinite(residual).sum()),
        sky_e=100.0,
        sky_sigma_e=1.0,
    )


def noise(shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16).astype(np.float32)


def source(shape: tuple[int, int], x: float, rows: slice, electrons: float) -> np.ndarray:
    """A constant source in some rows, spread over columns by the point-spread function."""
    light = np.zeros(shape)
    light[:, rows] = electrons * pixel_profile(np.arange(shape[0]) - x, SIGMA_PX)[:, None]
    return light


def test_half_width_holds_all_but_a_thousandth():
    for sigma_px in (0.3, 0.84, 2.0):
        half = psf_half_width(sigma_px)
        assert pixel_profile(np.arange(-half, half + 1), sigma_px).sum() > 0.999


def test_kernels_have_unit_norm_even_at_the_edge():
    kernels = footprint(make_amplifier(np.zeros((20, 64))), 0, np.arange(20)).kernels
    np.testing.assert_allclose(np.sum(kernels**2, axis=1), 1, rtol=1e-5)
    half = kernels.shape[1] // 2
    assert np.all(kernels[0, :half] == 0)
    np.testing.assert_allclose(kernels[10], kernels[10, ::-1], atol=1e-6)


def test_kernel_is_centred_on_the_streak_of_its_column():
    kernels = footprint(make_amplifier(np.zeros((20, 64)), streak_x=[10.3]), 0, np.arange(20)).kernels
    profile = pixel_profile(np.arange(-3, 4) - 0.3, SIGMA_PX)
    np.testing.assert_allclose(kernels[10], profile / np.linalg.norm(profile), atol=1e-6)


@pytest.mark.parametrize("width", [1, 4, 32, 512])
@pytest.mark.parametrize("sign", [1, -1])
def test_box_has_the_signal_to_noise_of_the_book(width, sign):
    # one column, no point-spread function: amplitude a at noise 1 over w rows has S/N a sqrt(w)
    residual = np.zeros((9, 2048))
    amplitude = sign * 12 / np.sqrt(width)
    residual[4, 1024 : 1024 + width] = np.float16(amplitude)
    (trigger,) = scan(make_amplifier(residual, sigma_px=0.05)).itertuples()
    assert (trigger.x, trigger.row_start, trigger.width_rows) == (4, 1024, width)
    assert trigger.snr == pytest.approx(amplitude * np.sqrt(width), rel=1e-3)


def test_matched_filter_collects_the_root_of_the_summed_squares():
    residual = source((24, 200), 12.0, slice(80, 96), 6.0)
    (trigger,) = scan(make_amplifier(residual)).itertuples()
    assert (trigger.x, trigger.row_start, trigger.width_rows) == (12, 80, 16)
    profile = pixel_profile(np.arange(-9, 10), SIGMA_PX)
    assert trigger.snr == pytest.approx(6 * np.sqrt(np.sum(profile**2)) * np.sqrt(16), rel=2e-3)


def test_source_between_columns_counts_in_full_where_its_streak_is_known():
    residual = source((24, 200), 12.4, slice(80, 96), 6.0)
    (unknown,) = scan(make_amplifier(residual)).itertuples()
    (known,) = scan(make_amplifier(residual, streak_x=[12.4])).itertuples()
    profile = pixel_profile(np.arange(-9, 10) - 0.4, SIGMA_PX)
    assert known.snr == pytest.approx(6 * np.sqrt(np.sum(profile**2)) * 4, rel=2e-3)
    assert 0.9 * known.snr < unknown.snr < known.snr


def test_scan_equals_a_plain_search_over_noise():
    residual = noise((70, 3000))  # more columns than are scanned at a time
    triggers = scan(make_amplifier(residual), threshold=3.5)
    kernel = footprint(make_amplifier(residual), 0, np.arange(len(residual))).kernels
    padded = np.pad(residual, ((3, 3), (0, 0)))
    series = np.array([kernel[x] @ padded[x : x + 7] for x in range(70)])
    cumulative = np.pad(np.cumsum(series, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    highest = 0.0
    for width in BOX_WIDTHS:
        stride = max(1, width // 8)
        starts = np.arange(0, 3000 - width + 1, stride)
        snr = (cumulative[:, starts + width] - cumulative[:, starts]) / np.sqrt(width)
        highest = max(highest, np.abs(snr).max())
        for trigger in triggers[triggers["width_rows"] == width].itertuples():
            assert trigger.snr == pytest.approx(snr[trigger.x, trigger.row_start // stride], abs=2e-3)
    assert len(triggers) > 50
    assert triggers["snr"].abs().max() == pytest.approx(highest, abs=2e-3)
    assert triggers["snr"].abs().min() >= 3.5


def test_clean_noise_gives_unit_variance_and_no_trigger_above_the_optimum():
    triggers = scan(make_amplifier(noise((500, 4000), seed=3)))
    # 2e6 pixels are 0.0006 amplifier-hours; even 7 sigma in them would be one chance in a thousand
    assert np.max(np.abs(triggers["snr"].to_numpy()), initial=0) < 6.6
    assert len(triggers) < 40


def test_masked_filter_equals_the_whole_one_where_nothing_is_masked():
    block = noise((7, 500))
    kernel = footprint(make_amplifier(np.zeros((20, 64))), 0, np.arange(20)).kernels[10]
    whole, masked, live = np.empty(500, np.float32), np.empty(500, np.float32), np.empty(501, np.float32)
    _filter_whole(block, np.arange(7), kernel, whole)
    assert _filter_masked(block, np.arange(7), kernel, masked, live) == 500
    np.testing.assert_allclose(masked, whole, atol=1e-5)
    np.testing.assert_array_equal(live, np.arange(501))


def test_masked_path_finds_the_same_away_from_the_mask():
    residual = noise((40, 8000), seed=4)
    holes = residual.copy()
    holes[::5, 0] = np.nan  # one pixel in reach of every column
    whole, masked = (scan(make_amplifier(image), threshold=3.8) for image in (residual, holes))
    whole, masked = (table[table["row_start"] > 3000].reset_index(drop=True) for table in (whole, masked))
    assert len(whole) > 20
    pd.testing.assert_frame_equal(whole, masked, atol=1e-2)


def test_filter_over_half_the_light_keeps_unit_variance():
    residual = noise((1, 4000))
    block = np.concatenate(
        [np.full((3, 4000), np.nan, dtype=np.float32), residual, np.full((3, 4000), np.nan, dtype=np.float32)]
    )
    kernel = footprint(make_amplifier(np.zeros((20, 64)), sigma_px=0.5), 0, np.arange(20)).kernels[10]
    kernel = np.pad(kernel, 3 - len(kernel) // 2)
    assert kernel[3] ** 2 > MIN_LIVE_FRACTION
    series, live = np.empty(4000, np.float32), np.empty(4001, np.float32)
    assert _filter_masked(block, np.arange(7), kernel, series, live) == 4000
    np.testing.assert_allclose(series, residual[0], rtol=1e-5)


def test_box_over_a_mostly_masked_stretch_says_nothing():
    residual = np.full((9, 400), np.nan)
    residual[:, 100:172:3] = 0
    residual[4, 100:172:3] = 2  # these 24 rows have S/N 2 sqrt(24) = 9.8, but are only a third of any box
    assert len(scan(make_amplifier(residual, sigma_px=0.05))) == 0
    residual[:, 101:172:3] = 0
    residual[4, 101:172:3] = 2  # two thirds
    assert scan(make_amplifier(residual, sigma_px=0.05))["snr"].max() > 10


def test_masked_pixels_under_a_source_do_not_dilute_it():
    residual = source((24, 200), 12.0, slice(80, 96), 6.0)
    whole = scan(make_amplifier(residual))["snr"].max()
    residual[:, 84] = np.nan
    assert scan(make_amplifier(residual))["snr"].max() == pytest.approx(whole * np.sqrt(15 / 16), rel=1e-2)


def test_wholly_masked_amplifier_has_no_triggers():
    assert len(scan(make_amplifier(np.full((20, 100), np.nan)))) == 0


def test_file_shorter_than_a_box_is_scanned_with_the_others():
    residual = np.zeros((9, 5))
    residual[4, 1:4] = 5
    (trigger,) = scan(make_amplifier(residual, sigma_px=0.05)).itertuples()
    assert (trigger.row_start, trigger.width_rows) == (1, 3)


def test_two_events_in_a_column_are_two_triggers_and_a_flip_of_sign_too():
    residual = np.zeros((9, 2000))
    residual[4, 300:304], residual[4, 1500:1504], residual[4, 1600:1604] = 10, 5, -5
    triggers = scan(make_amplifier(residual, sigma_px=0.05))
    assert triggers[["row_start", "width_rows"]].to_numpy().tolist() == [[300, 4], [1500, 4], [1600, 4]]
    np.testing.assert_allclose(triggers["snr"], [20, 10, -10])


def test_keep_strongest_in_the_head():
    hits = np.array(
        [
            [10, 100, 4, 9.0],  # the cause
            [12, 102, 8, 7.0],  # two columns off, overlapping: explained
            [14, 102, 8, 6.5],  # four columns off: a trigger of its own
            [10, 300, 4, -6.0],  # elsewhere in time
        ]
    )
    kept = _keep_strongest(hits, 1, 64)
    assert kept[["x", "row_start", "snr"]].to_numpy().tolist() == [[10, 100, 9.0], [14, 102, 6.5], [10, 300, -6.0]]

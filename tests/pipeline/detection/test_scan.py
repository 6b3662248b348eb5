from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from flat_amplifier import flat_amplifier

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.compiled.residual_lines import compiled_lines, weighted_sum
from shutterless.pipeline.detection import box_search
from shutterless.pipeline.detection.box_search import BoxWidths, _rescale, filter_rows, search_pixels
from shutterless.pipeline.detection.scan import (
    LONGEST_BOX_S,
    MIN_LIVE_OF_BOX,
    _keep_strongest,
    box_widths,
    choose_hits,
    footprint,
    scan,
)
from shutterless.pipeline.psf import pixel_profile, psf_half_width, stack_profile
from shutterless.pipeline.reading.readout import Readout

SIGMA_PX = 0.84
READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080)
BOX_WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
SEARCH_ROWS = box_search.SCAN_BLOCK_ROWS


def make_amplifier(residual: np.ndarray, sigma_px: float = SIGMA_PX, streak_x=()) -> Amplifier:
    """Amplifier in memory with these residuals (x, t) and a noise of 1 e-."""
    return flat_amplifier(residual, sky_e=100.0, sigma_e=1.0, sigma_px=sigma_px, streak_x=streak_x)


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


@pytest.mark.parametrize("n_y", [1, 5])
def test_light_of_many_sources_is_that_of_each(n_y):
    y, x = np.arange(n_y) - np.array([[0.2], [-0.4], [2.0]]), np.arange(-3, 4) - np.array([[0.1], [0.0], [-0.5]])
    together = stack_profile(y, x, SIGMA_PX, n_y)
    assert together.shape == (3, n_y, 7)
    for i in range(3):
        np.testing.assert_array_equal(together[i], stack_profile(y[i], x[i], SIGMA_PX, n_y))


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
    whole, masked, seen = np.empty((3, 500), np.float32)
    weighted_sum(block, np.arange(7), kernel, whole)
    weighted_sum(block, np.arange(7), kernel, masked)
    _rescale(np.ones_like(block), np.arange(7), kernel, masked, seen)
    np.testing.assert_allclose(masked, whole, atol=1e-5)
    np.testing.assert_array_equal(seen, np.ones(500))


def filtered(block: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Filtered light of one pixel over all lines of a block (k, t), and which rows are valid if some are masked."""
    lines, n_rows = compiled_lines(block[None]), block.shape[1]
    series, seen, whole = np.empty((1, n_rows), np.float32), np.empty((1, n_rows), np.float32), np.empty(1, bool)
    taps = np.arange(len(block))
    filter_rows(lines, taps, 0, n_rows, taps[None], kernel[None].astype(np.float32), series, seen, whole)
    assert whole[0] == np.isfinite(block[kernel > 0]).all()
    return series[0], seen[0]


def test_filter_of_masked_pixels_in_the_head():
    """Weights 0.6 and 0.8: alone the first holds 36 % of the weight, too little, the second 64 %."""
    block = np.array([[1, 1, np.nan, np.nan], [2, np.nan, 2, np.nan]], dtype=np.float16)
    series, seen = filtered(block, np.array([0.6, 0.8]))
    np.testing.assert_allclose(series, [0.6 + 1.6, 0, 1.6 / 0.8, 0], rtol=1e-6)
    assert seen.tolist() == [1, 0, 1, 0]


def plain_search(series: np.ndarray, seen: np.ndarray, threshold: float) -> list[tuple[int, int, int, float]]:
    """Plain twin of `search_pixels` for rows of unit variance (p, t), by cumulative sums."""
    found = []
    total, live = (np.pad(np.cumsum(part, axis=1, dtype=np.float64), ((0, 0), (1, 0))) for part in (series, seen))
    for pixel in range(len(series)):
        for width in BOX_WIDTHS:
            starts = np.arange(0, series.shape[1] - width + 1, max(1, width // 8))
            count = live[pixel, starts + width] - live[pixel, starts]
            snr = (total[pixel, starts + width] - total[pixel, starts]) / np.sqrt(np.maximum(count, 1))
            high = (count >= MIN_LIVE_OF_BOX * width) & (np.abs(snr) >= threshold)
            runs: list[list[int]] = []
            for i in np.flatnonzero(high):
                last = runs[-1][-1] if runs else i
                if not runs or starts[i] - starts[last] > width or (snr[i] > 0) != (snr[last] > 0):
                    runs.append([])
                runs[-1].append(int(i))
            peaks = (max(run, key=lambda i: abs(snr[i])) for run in runs)
            found += [(pixel, int(starts[i]), width, float(snr[i])) for i in peaks]
    return found


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_search_equals_a_plain_one_for_every_width_and_both_signs_with_masks(kind):
    rng = np.random.default_rng(7)
    residual = rng.standard_normal((6, SEARCH_ROWS + 3000)).astype(kind)  # more rows than are searched at a time
    residual[1, rng.random(residual.shape[1]) < 0.3] = np.nan
    residual[2, SEARCH_ROWS - 700 : SEARCH_ROWS + 500] = np.nan
    residual[3, :5000] = np.nan
    residual[4] = np.nan
    residual[5, 20] = np.inf  # as good as masked
    seen = np.isfinite(residual)
    widths = BoxWidths.up_to(BOX_WIDTHS, residual.shape[1])
    pixels = np.arange(6)[:, None]
    hits = search_pixels(compiled_lines(residual[None]), pixels, np.ones((6, 1), np.float32), widths, 2.5)
    expected = np.array(plain_search(np.where(seen, residual, 0), seen, 2.5))
    assert {(width, sign) for width in BOX_WIDTHS for sign in (-1, 1)} == set(
        zip(expected[:, 2], np.sign(expected[:, 3]), strict=True)
    )
    hits, expected = (table[np.lexsort(table.T[[1, 2, 0]])] for table in (hits, expected))
    np.testing.assert_array_equal(hits[:, [0, 2]], expected[:, [0, 2]])
    np.testing.assert_allclose(hits[:, 3], expected[:, 3], atol=1e-5)
    # a box that loses a masked row and gains another is tied with the one before
    assert np.mean(hits[:, 1] == expected[:, 1]) > 0.999
    assert np.all(np.abs(hits[:, 1] - expected[:, 1]) <= hits[:, 2])


@pytest.mark.parametrize(
    ("row_rate_hz", "longest"), [(1.0, 16), (20.0, 64), (300.0, 1024), (1000.0, 3072), (20_000.0, 49_152)]
)
def test_longest_box_is_as_long_in_time_at_every_row_rate(row_rate_hz, longest):
    widths = box_widths(replace(READOUT, row_rate_hz=row_rate_hz))
    assert widths[-1] == longest
    assert widths[:6] == (1, 2, 3, 4, 6, 8)
    if 5 < row_rate_hz < 14_000:
        assert widths[-1] <= LONGEST_BOX_S * row_rate_hz < 4 / 3 * widths[-1] + 1
    assert all(SEARCH_ROWS % max(1, width // 8) == 0 for width in widths)


def test_boxes_of_stacks_of_images_are_as_many_images_whatever_their_pace():
    assert box_widths(READOUT) == BOX_WIDTHS
    assert box_widths(replace(READOUT, n_transit=0, row_rate_hz=1 / 1800)) == BOX_WIDTHS


@pytest.mark.parametrize("start", [-3, -1, 0, 1])
@pytest.mark.parametrize("width", [1, 2, 4, 32, 1024, 3072])
def test_box_at_the_border_of_two_blocks_of_rows_is_found_once(width, start):
    first = SEARCH_ROWS + start * width // 2
    first -= first % max(1, width // 8)
    residual = np.zeros((1, 1, SEARCH_ROWS + 5000), dtype=np.float16)
    residual[0, 0, first : first + width] = 16 / np.sqrt(width)
    widths = BoxWidths.up_to(box_widths(replace(READOUT, row_rate_hz=1000.0)), residual.shape[2])
    hits = search_pixels(compiled_lines(residual), np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32), widths, 5.0)
    assert len(np.unique(hits[:, 2])) == len(hits)  # one run of every width
    assert hits[np.argmax(hits[:, 3]), 1:].tolist() == [first, width, pytest.approx(16, rel=1e-3)]


def test_search_of_a_million_rows_is_that_of_its_parts():
    """No sum grows along the file: an S/N of its end is exactly what it would be at its beginning."""
    part = 2 * np.abs(noise((1, SEARCH_ROWS))) + 1  # every sum grows
    widths = BoxWidths.up_to(BOX_WIDTHS, part.shape[1])
    one = np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32), widths, 8.0
    short = search_pixels(compiled_lines(part[None]), *one)
    long = search_pixels(compiled_lines(np.tile(part, 80)[None]), *one)
    narrow = short[(short[:, 2] == 1) & (short[:, 1] > 2) & (short[:, 1] < SEARCH_ROWS - 2)]
    assert len(narrow) > 3
    last = long[(long[:, 2] == 1) & (long[:, 1] >= 79 * SEARCH_ROWS)]
    last[:, 1] -= 79 * SEARCH_ROWS
    assert {tuple(hit) for hit in narrow} <= {tuple(hit) for hit in last}


def test_pixel_without_a_known_noise_is_no_trigger():
    """Its kernel and those of the three pixels on either side are NaN; beyond these nothing changes."""
    amplifier = make_amplifier(noise((40, 4000), seed=9))
    whole = scan(amplifier, 4.0)
    amplifier.sigma_e[0, 5] = np.nan
    found = scan(amplifier, 4.0)
    assert not found["x"].between(2, 8).any()
    assert np.isfinite(found["snr"]).all()
    far = [table[table["x"] > 12].reset_index(drop=True) for table in (whole, found)]
    assert len(far[0]) > 10
    pd.testing.assert_frame_equal(*far, check_exact=True)


def test_part_of_the_rows_is_scanned_as_an_array_of_its_own():
    """Rows of a larger array do not lie one after another in memory."""
    amplifier = make_amplifier(noise((40, 4096), seed=8))
    part = amplifier.between(1024, 4096)
    alone = make_amplifier(np.array(amplifier.residual[0, :, 1024:]))
    pd.testing.assert_frame_equal(scan(part, 3.8), scan(alone, 3.8), check_exact=True)


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
    assert kernel[3] ** 2 > MIN_LIVE_OF_BOX
    series, seen = filtered(block, kernel)
    assert seen.sum() == 4000
    np.testing.assert_allclose(series, residual[0], rtol=1e-5)


def test_box_over_a_mostly_masked_segment_says_nothing():
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


def made_hits(**columns) -> pd.DataFrame:
    return pd.DataFrame({"y": 0, "width_rows": 3, **columns})


def test_hits_are_all_measured_if_they_are_few_enough():
    hits = made_hits(x=[5, 90, 700], row_start=[10, 500, 900], snr=[6.0, -7.0, 8.0])
    assert choose_hits(hits, 3).tolist() == [True] * 3
    assert choose_hits(hits, 2).tolist() == [False, True, True]  # the strongest of either sign
    assert choose_hits(hits.iloc[:0], 1).tolist() == []


def test_of_too_many_hits_a_row_of_pickup_and_a_column_that_blinks_come_last():
    pickup = made_hits(x=np.arange(0, 3000, 10), row_start=5000, snr=20.0)
    blinking = made_hits(x=1234, row_start=np.arange(300) * 90, snr=30.0)
    faint = made_hits(x=np.arange(40) * 70 + 3, row_start=np.arange(40) * 600 + 250, snr=-6.0)
    hits = pd.concat([pickup, blinking, faint], ignore_index=True)
    chosen = choose_hits(hits, 60)
    assert chosen.sum() == 60
    assert chosen[-40:].all()
    assert 0 < chosen[:300].sum() < 20
    assert 0 < chosen[300:600].sum() < 20

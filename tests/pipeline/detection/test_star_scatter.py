"""Scatter of a star's own light: 1 for noise, true for a variable star, unchanged by a single event."""

from dataclasses import replace

import numpy as np
import pytest
from flat_amplifier import flat_amplifier

from shutterless.pipeline.compiled.residual_lines import compiled_lines
from shutterless.pipeline.detection.star_scatter import (
    ERROR_MARGIN,
    MIN_BOXES,
    MIN_POOLED,
    StarScatter,
    _filter_pixel,
    _median_deviation,
    _ordered_boxes,
    _spread,
    _sum_boxes,
)
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.simulation.sky.atmosphere import draw_waves

N_ROWS, X = 8192, 20
NOWHERE = (10**6, 10**6)  # rows of no event in the file


def with_variable_star(make_amplifier, light: np.ndarray, **settings):
    """Amplifier whose star at column 20 changes by ``light`` (electrons per row)."""
    amplifier = make_amplifier(n_rows=N_ROWS, stars=((float(X), 1000.0),), **settings)
    columns = np.arange(X - 5, X + 6)
    change = np.outer(pixel_profile(columns - X, amplifier.psf_sigma_px), light) / amplifier.sigma_e[0, columns, :1]
    amplifier.residual[0, columns] = amplifier.residual[0, columns].astype(np.float32) + change
    return amplifier


def variation(rms_e: float) -> np.ndarray:
    return draw_waves(np.random.default_rng(3), rms_e, 200.0).value(np.arange(N_ROWS))


def test_noise_has_no_scatter_of_its_own(make_amplifier):
    scatter = StarScatter(make_amplifier(n_rows=N_ROWS))
    for width in (1, 7, 64, 500):
        assert scatter.scatter(0, X, width, *NOWHERE) < 1.1
        assert scatter.scatter(0, 50, width, *NOWHERE) < 1.1


def test_scatter_grows_with_the_width_of_the_box_until_the_file_holds_too_few(make_amplifier):
    amplifier = with_variable_star(make_amplifier, variation(40.0))
    scatter = StarScatter(amplifier)
    kernel = pixel_profile(np.arange(-5, 6), amplifier.psf_sigma_px)
    noise = amplifier.sigma_e[0, X - 5 : X + 6, 0]
    per_row = 40 * np.sqrt(np.sum((kernel / noise) ** 2))  # S/N of one row at the rms
    # variation over 200 rows is constant in a box of 32, so it adds up: √(1 + 32 s²)
    assert scatter.scatter(0, X, 32, *NOWHERE) == pytest.approx(np.sqrt(1 + 32 * per_row**2), rel=0.25)
    assert (
        scatter.scatter(0, X, 1, *NOWHERE) < scatter.scatter(0, X, 16, *NOWHERE) < scatter.scatter(0, X, 64, *NOWHERE)
    )
    assert scatter.scatter(0, X, 4000, *NOWHERE) == scatter.scatter(0, X, N_ROWS // MIN_BOXES, *NOWHERE)


def test_an_event_is_not_its_stars_scatter(make_amplifier):
    light = np.zeros(N_ROWS)
    light[1000:2000] = 300
    light[5000:7500] = 300
    scatter = StarScatter(with_variable_star(make_amplifier, light))
    assert scatter.scatter(0, X, 128, *NOWHERE) > 2  # two events of half a file are a scatter ...
    light[5000:] = 0
    scatter = StarScatter(with_variable_star(make_amplifier, light))
    assert scatter.scatter(0, X, 128, 1000, 1999) < 1.15  # ... one is not


def test_a_smooth_event_that_fills_the_file_is_not_its_stars_scatter(make_amplifier):
    light = 300 * np.exp(-np.arange(N_ROWS) / 3000)
    assert StarScatter(with_variable_star(make_amplifier, light)).scatter(0, X, 128, 0, 7000) < 2
    assert StarScatter(with_variable_star(make_amplifier, variation(40.0))).scatter(0, X, 128, 0, 7000) > 2


def test_a_short_event_does_not_change_the_scatter(make_amplifier):
    light = np.zeros(N_ROWS)
    light[4000:4100] = 300
    assert StarScatter(with_variable_star(make_amplifier, light)).scatter(0, X, 100, *NOWHERE) < 1.15


def test_many_events_at_once_are_measured_as_each_alone(make_amplifier):
    amplifier = with_variable_star(make_amplifier, variation(40.0))
    amplifier.residual[0, X + 1, 3000:3100] = np.nan
    rng = np.random.default_rng(1)
    start = rng.integers(0, N_ROWS - 600, 30)
    events = np.zeros(30, np.int64), rng.integers(X - 3, X + 9, 30), rng.integers(1, 600, 30), start, start + 50
    together = StarScatter(amplifier).scatters(*events)
    assert together.tolist() == [StarScatter(amplifier).scatter(*event) for event in zip(*events, strict=True)]
    assert together.max() > 2
    assert together.min() == 1


def test_boxes_are_those_of_the_live_rows_in_the_head():
    """Weights 0.6 and 0.8; one row of the second box is masked in one of the lines."""
    lines = np.array([[1, 1, 2, 2, 3, 3, 3, 3, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1, 5, 5]], dtype=np.float16)
    lines[1, 4] = np.nan
    light, seen, is_whole = _filter_pixel(
        compiled_lines(lines[None]), np.array([0, 1]), np.array([0.6, 0.8], np.float32)
    )
    np.testing.assert_allclose(light, [0.6, 0.6, 1.2, 1.2, 0, 2.6, 2.6, 2.6, 4.6, 4.6], rtol=1e-6)
    assert not is_whole
    first, boxes = _sum_boxes(light, seen, is_whole, 4)
    assert first.tolist() == [0, 4]  # the last two rows are no box
    np.testing.assert_allclose(boxes, [3.6 / np.sqrt(4), 7.8 / np.sqrt(3)], rtol=1e-6)
    seen[4:6] = 0
    assert _sum_boxes(light, seen, is_whole, 4)[0].tolist() == [0]  # no more than half of the second is live


@pytest.mark.parametrize("n", [8, 9, 200])
def test_median_deviation_is_that_of_numpy(n):
    values = np.random.default_rng(n).standard_normal(n)
    assert _median_deviation(values) == np.median(np.abs(values - np.median(values)))


@pytest.mark.parametrize("width", [1, 3, 4, 16])
def test_boxes_of_whole_rows_are_those_of_rows_of_which_all_are_live(width):
    light = np.random.default_rng(2).standard_normal(4 * 16 + 7).astype(np.float32)
    whole, counted = (_sum_boxes(light, np.ones_like(light), is_whole, width) for is_whole in (True, False))
    for one, other in zip(whole, counted, strict=True):
        assert one.tolist() == other.tolist()
    rows = light[: len(whole[1]) * width].reshape(-1, width).astype(np.float64)
    np.testing.assert_allclose(whole[1], rows.sum(axis=1) / np.sqrt(width), rtol=1e-12)


@pytest.mark.parametrize("digits", [1, 9])
@pytest.mark.parametrize("scatter", [0.5, 0.95, 1.0, 1.05, 2.0])
def test_the_scatter_away_from_an_event_is_that_of_the_other_boxes(scatter, digits):
    """One digit leaves many boxes with equal S/N."""
    rng = np.random.default_rng(7)
    for n, width in ((30, 8), (400, 1), (3000, 2)):
        light, valid = (scatter * rng.standard_normal(n * width)).astype(np.float32), np.ones(n * width, np.float32)
        first, boxes, ordered = _ordered_boxes(light.round(digits), valid, True, width)
        assert ordered.tolist() == sorted(boxes.tolist())
        for before, length in rng.integers(0, n * width // 2, (20, 2)).tolist():
            after = before + (length if n > 30 else 3 * width)
            away = boxes[(first + width <= before) | (first > after)]
            deviation = 1.4826 * np.median(np.abs(away - np.median(away)))
            sure = deviation * (1 - ERROR_MARGIN * 1.17 / np.sqrt(2 * len(away)))
            for least in (1.0, 1.5):
                assert _spread(first, boxes, ordered, width, before, after, ERROR_MARGIN, least) == max(sure, least)


def test_masked_columns_and_edges_have_none(make_amplifier):
    amplifier = make_amplifier(n_rows=N_ROWS)
    amplifier.residual[0, 0] = np.nan
    scatter = StarScatter(amplifier)
    assert scatter.scatter(0, 0, 10, *NOWHERE) == 1
    assert scatter.scatter(0, amplifier.n_columns - 1, 10, *NOWHERE) < 1.1


def test_triggers_are_measured_by_the_scatter_and_an_event_on_a_still_star_is_not(make_amplifier):
    variable = find_triggers(with_variable_star(make_amplifier, variation(40.0)), 5.0)
    on_star = variable[(variable["x"] - X).abs() < 2]
    assert on_star["snr"].abs().max() < 8  # up to 40 sigma of photon noise
    burst = np.zeros(N_ROWS)
    burst[4000:4030] = 200
    found = find_triggers(with_variable_star(make_amplifier, burst), 5.0)
    profile = pixel_profile(np.arange(-5, 6), 0.84)
    sigma = make_amplifier(n_rows=64, stars=((float(X), 1000.0),)).sigma_e[0, X - 5 : X + 6, 0]
    assert found["snr"].max() == pytest.approx(200 * np.sqrt(30 * np.sum((profile / sigma) ** 2)), rel=0.1)


def under_cloud(relative: float, n_stars: int, rows: int = N_ROWS, event: bool = False) -> StarScatter:
    """Stars of 2,000 e-/row, noise of 20 e-, all through one cloud that changes in 1,000 rows."""
    rng = np.random.default_rng(4)
    columns = np.arange(20 * (n_stars + 1))
    x = 20.0 * (1 + np.arange(n_stars))
    light = 2000.0 * pixel_profile(columns[:, None] - x, 0.85).sum(axis=1)
    cloud = draw_waves(rng, relative, 1000.0).value(np.arange(rows))
    residual = rng.standard_normal((len(columns), rows)) + np.outer(light / 20.0, cloud)
    if event:
        residual[18:23, 4000:5000] += 5.0
    amplifier = flat_amplifier(residual, sky_e=300.0, sigma_e=20.0, sigma_px=0.85, streak_x=x)
    amplifier.streaks["flux_e_row"] = 2000.0
    return StarScatter(replace(amplifier, baseline_e=amplifier.baseline_e + light[None, :, None].astype(np.float32)))


@pytest.mark.parametrize("event", [False, True])
def test_cloud_is_measured_by_all_stars_together(event):
    scatter = under_cloud(0.02, 12, event=event)
    assert scatter.pooled_fraction(64) == pytest.approx(0.02, rel=0.4)
    # a file of 8 boxes tells nothing of one star; S/N 60 a row, so 2 % of 1,024 rows are 38 sigma
    assert scatter.scatter(0, 20, 1024, *NOWHERE) > 15


def test_still_air_has_no_pooled_scatter():
    scatter = under_cloud(0.0, 12)
    assert [scatter.pooled_fraction(width) for width in (1, 16, 256, 2048)] == [0, 0, 0, 0]


def test_few_stars_are_not_pooled():
    assert under_cloud(0.02, MIN_POOLED - 1).pooled_fraction(64) == 0


def test_scatter_in_short_boxes_holds_for_long_ones():
    """One star of its own waves: 16 boxes of 512 rows would leave it constant."""
    light = variation(40.0)
    one = StarScatter(with_cloudless_star(light))
    assert one.scatter(0, X, 512, *NOWHERE) >= 0.9 * one.scatter(0, X, 64, *NOWHERE) > 1.5


def with_cloudless_star(light: np.ndarray):
    residual = np.random.default_rng(5).standard_normal((60, N_ROWS))
    residual += np.outer(pixel_profile(np.arange(60) - X, 0.85), light) / 20.0
    amplifier = flat_amplifier(residual, sky_e=300.0, sigma_e=20.0, sigma_px=0.85, streak_x=[float(X)])
    amplifier.streaks["flux_e_row"] = 1000.0
    return amplifier

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.exposure import calibrate_exposure, exposure_shape
from shutterless.pipeline.calibration.levels.ramp import (
    MASK_ROWS,
    Ramp,
    _fit_levels,
    _piece_levels,
    _unknown_rows,
    fit_drain,
    fit_ramp,
)
from shutterless.pipeline.calibration.residuals import fit_baseline
from shutterless.pipeline.detection.scan import scan
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.simulation.content import AmplifierContent
from shutterless.pipeline.simulation.rendering import render
from shutterless.pipeline.simulation.scene import Scene, draw_scene
from shutterless.pipeline.simulation.settings import SceneSettings

ZERO_POINT, SKY_E = 24.49, 314.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> SceneSettings:
    """ZTF with 192 columns: everything of the ramp is in a column and its neighbours."""
    text = resources.files("shutterless.pipeline.reading.profiles").joinpath("ztf.toml").read_text()
    path = tmp_path_factory.mktemp("profile") / "narrow.toml"
    path.write_text(text.replace("n_columns = 3072", "n_columns = 192"))
    return SceneSettings(instrument=str(path))


def make_scene(settings: SceneSettings, stars: Sequence[tuple[float, float, float]]) -> Scene:
    """Stars by hand: (x, y0, magnitude)."""
    x, y0, mag = np.array(stars, dtype=np.float64).reshape(-1, 3).T
    empty = draw_scene(replace(settings, n_bright_stars=0), 1, 1)
    return replace(empty, x=x, y0=y0, mag=mag, flux_e_row=10 ** (0.4 * (ZERO_POINT - mag)) / 300)


def expose(settings: SceneSettings, scene: Scene, n_rows: int, first_row: int = 0, seed: int = 1) -> Frame:
    """Frame without an event."""
    rows = first_row + np.arange(n_rows)
    data, overscan = render(settings, AmplifierContent(scene, rows), np.random.default_rng(seed))
    readout = Readout(
        300.0, 6.2, 10.0, 48_000.0, 3080, first_row=first_row, zero_point_mag=ZERO_POINT, pixel_scale_arcsec=1.012
    )
    return Frame(data, overscan, readout, settings.profile, Path("memory.fits"))


def highest(triggers: pd.DataFrame) -> float:
    return float(np.max(np.abs(triggers["snr"].to_numpy()), initial=0))


@pytest.fixture
def calibrate() -> Callable[[Frame], Amplifier]:
    def calibrate(frame: Frame) -> Amplifier:
        residual = np.empty(exposure_shape(frame), np.float16)
        return calibrate_exposure(frame, residual).amplifier("entry")

    return calibrate


def test_unknown_rows_surround_onsets_and_fill_short_levels():
    around = (100 - MASK_ROWS, 100 + MASK_ROWS + 1)
    assert _unknown_rows(np.array([100]), 1000) == [around]
    assert _unknown_rows(np.array([100, 130]), 1000) == [around, (124, 137), (100, 130)]
    assert _unknown_rows(np.array([], dtype=int), 1000) == []


def test_staircase_takes_the_median_between_breaks():
    binned = np.array([1, 1, 1, 9, 1, 5, 5, 5], dtype=np.float32)  # bins of 16 rows, an outlier in the fourth
    assert _piece_levels(binned, np.array([80]), 128).tolist() == [1, 5]


def test_columns_near_an_onset_step_at_its_row_and_the_others_never():
    rows = np.full((800, 20), 300, dtype=np.float32)
    rows[400:, 6:15] += 50
    deficit, mask, final_e = _fit_levels(rows, np.zeros(800), (np.array([10]), np.array([400]), np.array([50.0])), None)
    np.testing.assert_array_equal(final_e, np.where(np.abs(np.arange(20) - 10) <= 4, 350, 300))
    np.testing.assert_array_equal(deficit, np.where(rows < final_e, -50, 0))
    np.testing.assert_array_equal(np.argwhere(mask[:, 10])[[0, -1], 0], [400 - MASK_ROWS, 400 + MASK_ROWS])
    assert mask.sum() == 9 * (2 * MASK_ROWS + 1)


def test_drain_of_time_reversed_rows_is_the_reversed_ramp():
    rng = np.random.default_rng(2)
    fraction = np.minimum((np.arange(1600) + 1) / 1000, 1)
    rows = (300 * fraction[:, None] + rng.normal(0, 10, (1600, 40))).astype(np.float32)
    rows[500:, 19:22] += 200
    readout = Readout(300.0, 6.2, 10.0, 48_000.0, 1000, first_row=0, close_row=5000, seeing_arcsec=2.0)
    ramp = fit_ramp(rows, 0, 1000, readout.psf_sigma_px, 10.0)
    drain = fit_drain(rows[::-1], 1000, 4400, readout)  # of 1600 rows 600 come before the closing
    np.testing.assert_array_equal(drain.deficit_e, ramp.deficit_e[::-1])
    np.testing.assert_array_equal(drain.onset_mask, ramp.onset_mask[::-1])
    assert (drain.onset_x[0], drain.onset_row[0]) == (ramp.onset_x[0], 1000 - 500)


def test_ramp_without_noise_is_its_own_straight_line():
    fraction = np.minimum((np.arange(1600) + 1) / 1000, 1).astype(np.float32)
    ramp = fit_ramp(np.repeat(300 * fraction[:, None], 64, axis=1), 0, 1000, 0.84, 10.0)
    assert ramp.sky_e == pytest.approx(300, rel=1e-5)
    np.testing.assert_allclose(ramp.deficit_e, np.repeat(-300 * (1 - fraction[:, None]), 64, axis=1), atol=0.01)
    assert not ramp.onset_mask.any()
    assert ramp.n_rows == 1600


def test_sky_of_a_simulated_ramp_is_recovered(settings):
    ramp = fit_baseline(expose(settings, make_scene(settings, []), 5500)).ramps[0]
    assert ramp.sky_e == pytest.approx(SKY_E, rel=0.02)


STARS = {
    "no star": [],
    "in the very first row": [(100.3, 0.5, 9.0)],
    "in the first rows": [(100.3, 5.0, 10.0), (40.0, 20.0, 12.0), (150.0, 40.0, 13.0)],
    "neighbours 3 px and 12 rows apart": [(100.3, 1000.0, 11.0), (103.3, 1012.0, 11.5)],
    "one column, 7 rows apart": [(100.1, 2622.8, 11.4), (100.1, 2629.6, 10.7)],
    "one column, 40 rows apart": [(100.1, 1500.0, 12.0), (100.4, 1540.0, 10.0)],
    "just before the ramp ends": [(100.3, 3070.0, 11.0), (50.0, 3079.5, 10.0)],
    "magnitude 7.5": [(100.3, 1500.0, 7.5)],
    "half off the amplifier": [(-0.4, 700.0, 10.0), (191.4, 1800.0, 11.0)],
}
SEGMENTES = {
    "whole": (5500, 0),
    "ends in the ramp": (2000, 0),
    "starts in the ramp": (4500, 1000),
    "ends 20 rows past the ramp": (3100, 0),
    "both ends in the ramp": (1500, 800),
}


@pytest.mark.parametrize("stars", STARS.values(), ids=STARS)
def test_onset_of_a_streak_is_no_trigger(settings, calibrate, stars):
    amplifier = calibrate(expose(settings, make_scene(settings, stars), 5500))
    assert highest(scan(amplifier)) < 6.5
    assert highest(find_triggers(amplifier)) < 6.5
    assert amplifier.live_pixel_rows > 0.99 * amplifier.residual.size


@pytest.mark.parametrize(("n_rows", "first_row"), SEGMENTES.values(), ids=SEGMENTES)
@pytest.mark.parametrize("seed", [5, 17])
def test_crowded_ramp_has_no_trigger(settings, calibrate, n_rows, first_row, seed):
    scene = draw_scene(replace(settings, seed=seed), 1, 1)
    amplifier = calibrate(expose(settings, scene, n_rows, first_row, seed))
    assert highest(scan(amplifier)) < 6.5
    assert amplifier.live_pixel_rows > 0.9 * amplifier.residual.size


@pytest.mark.parametrize("before_end", [-2, 0, 3, 10, 20, 35, 60])
@pytest.mark.parametrize("mag", [9.0, 13.0])
def test_streak_that_begins_as_the_file_ends_is_masked_or_fitted(settings, calibrate, before_end, mag):
    scene = make_scene(settings, [(60.2, 1000.0, 12.0), (100.3, 2000.0 - before_end, mag)])
    triggers = scan(calibrate(expose(settings, scene, 2000)))
    assert highest(triggers) < 6.5


@pytest.mark.parametrize("after_start", [-2, 0, 3, 10, 20, 35, 60])
@pytest.mark.parametrize("mag", [9.0, 13.0])
def test_streak_that_begins_as_the_file_starts_is_masked_or_fitted(settings, calibrate, after_start, mag):
    scene = make_scene(settings, [(60.2, 1500.0, 12.0), (100.3, 1000.0 + after_start, mag)])
    triggers = scan(calibrate(expose(settings, scene, 2500, first_row=1000)))
    assert highest(triggers) < 6.5


@pytest.mark.parametrize("first_row", [0, 1000, 3075])
@pytest.mark.parametrize("n_rows", [2, 16, 64, 100])
def test_very_short_file_in_the_ramp_says_nothing(settings, calibrate, first_row, n_rows):
    scene = draw_scene(replace(settings, seed=3), 1, 1)
    triggers = scan(calibrate(expose(settings, scene, n_rows, first_row)))
    assert highest(triggers) < 6.5


def test_bright_burst_in_the_ramp_stays_a_trigger(settings, calibrate):
    frame = expose(settings, make_scene(settings, [(100.3, 800.0, 12.0)]), 5500)
    frame.pixels_adu[2000:2010, 59:62] += np.array([15, 40, 15], dtype=np.uint16)  # 434 e- a row for 33 ms
    triggers = find_triggers(calibrate(frame))
    strongest = triggers.loc[triggers["snr"].idxmax()]
    assert strongest["snr"] > 20
    assert (strongest["row_start"], strongest["x"]) == (pytest.approx(2000, abs=1), pytest.approx(60, abs=0.5))


def test_detector_rows_of_streaks_are_recovered(settings, calibrate):
    stars = [(30.0, 300.0, 11.0), (70.4, 1200.0, 12.5), (110.0, 2100.0, 10.0), (150.7, 2900.0, 12.0)]
    streaks = calibrate(expose(settings, make_scene(settings, stars), 5500)).streaks
    np.testing.assert_allclose(streaks["y0"], [star[1] for star in stars], atol=3)


def test_detector_rows_count_from_the_start_of_the_sequence(settings, calibrate):
    stars = [(60.0, 500.0, 10.0), (100.3, 2000.0, 11.0)]  # the first one shines already
    streaks = calibrate(expose(settings, make_scene(settings, stars), 4500, first_row=1000)).streaks
    bright = streaks[streaks["mag"] < 12]
    assert np.isnan(bright["y0"].iloc[0])
    assert bright["y0"].iloc[1] == pytest.approx(2000, abs=3)


def test_residual_in_the_ramp_is_as_quiet_as_after_it(settings, calibrate):
    amplifier = calibrate(expose(settings, make_scene(settings, [(100.3, 1500.0, 12.0)]), 6000))
    residual = np.asarray(amplifier.residual[0], dtype=np.float32)
    for rows in (slice(0, 800), slice(800, 3080), slice(3080, 6000)):
        assert np.nanstd(residual[:, rows]) == pytest.approx(1, abs=0.02)


def test_a_ramp_covers_its_own_rows():
    ramp = Ramp(np.zeros((10, 1)), np.zeros((10, 1), bool), 300.0, np.empty(0), np.empty(0), np.empty(0), start=20)
    segments = [(0, 20), (0, 21), (25, 28), (29, 40), (30, 40)]
    assert [ramp.covers(*rows) for rows in segments] == [False, True, True, True, False]


CLOSE_ROW = 9000


def close_shutter(
    settings: SceneSettings, stars: Sequence[tuple[float, float, float]], n_rows: int, first_row: int
) -> Frame:
    """Frame of a sequence whose shutter closes at row 9000."""
    scene = replace(make_scene(settings, stars), close_row=CLOSE_ROW)
    frame = expose(settings, scene, n_rows, first_row)
    return replace(frame, readout=replace(frame.readout, close_row=CLOSE_ROW))


@pytest.mark.parametrize(
    ("n_rows", "first_row"),
    [(6000, 6000), (8000, 5000), (12_500, 0), (3000, 6500), (2000, 9500)],
    ids=["whole", "dark rows at the end", "ramp and drain", "ends in the drain", "starts in the drain"],
)
def test_end_of_a_streak_is_no_trigger(settings, calibrate, n_rows, first_row):
    stars = [(30.0, 300.0, 11.0), (70.4, 1200.0, 12.5), (110.0, 2100.0, 10.0), (150.7, 2900.0, 12.0)]
    amplifier = calibrate(close_shutter(settings, stars, n_rows, first_row))
    assert highest(scan(amplifier)) < 6.5
    assert amplifier.live_pixel_rows > 0.95 * amplifier.residual.size
    residual = np.asarray(amplifier.residual[0], dtype=np.float32)
    assert np.nanstd(residual) == pytest.approx(1, abs=0.02)


def test_detector_rows_of_streaks_that_end_are_recovered(settings, calibrate):
    stars = [(30.0, 300.0, 11.0), (70.4, 1200.0, 12.5), (110.0, 2100.0, 10.0), (150.7, 2900.0, 12.0)]
    streaks = calibrate(close_shutter(settings, stars, 6500, 6000)).streaks
    np.testing.assert_allclose(streaks["y0"], [star[1] for star in stars], atol=3)


def test_dropped_rows_in_the_ramp_are_no_onset(settings, calibrate):
    frame = expose(settings, make_scene(settings, [(100.3, 1500.0, 12.0)]), 5500)
    frame.pixels_adu[1000:1012] = frame.overscan_adu[1000:1012] = 0
    amplifier = calibrate(frame)
    assert highest(scan(amplifier)) < 6.5
    masked = np.isnan(np.asarray(amplifier.residual[0], dtype=np.float32))
    assert masked[:, 1000:1012].all()
    assert masked[:, 960:1000].mean() < 0.05

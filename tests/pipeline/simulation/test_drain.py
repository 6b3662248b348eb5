"""The shutter closes while the clocks continue: the end of light in sky, streaks and events, and the headers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shutterless.pipeline.reading.frames import FrameError, read_frame_info
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.simulation.content import AmplifierContent, draw_content
from shutterless.pipeline.simulation.rendering import mean_electrons
from shutterless.pipeline.simulation.scene import draw_scene
from shutterless.pipeline.simulation.settings import SceneError, SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file

CLOSE = 200


@pytest.fixture
def closing(tiny_profile) -> SceneSettings:
    """64 columns, 50 rows of transit, open for 200 rows."""
    return SceneSettings(
        instrument=tiny_profile,
        rows=400,
        events=0,
        artefacts=False,
        n_bright_stars=0,
        sky_mag=17.0,
        shutter_close_row=CLOSE,
        suffix=".fits",
    )


def with_star(settings: SceneSettings, **values: float):
    star = {"x": 30.0, "y0": 20.0, "mag": 10.0, "flux_e_row": 1000.0, **values}
    return replace(draw_scene(settings, 1, 1), **{name: np.array([value]) for name, value in star.items()})


def test_sky_rises_stays_and_drains(closing):
    exposure = draw_scene(closing, 1, 1).exposure_s(np.arange(400)) * 300
    # by hand: 50 rows of transit; row 225 left the far edge at row 175 and was exposed until row 200
    assert list(exposure[[0, 1, 25, 50, 199, 200, 201, 225, 249, 250, 399]]) == [0, 1, 25, 50, 50, 50, 49, 25, 1, 0, 0]


def test_sky_of_an_exposure_shorter_than_the_transit(closing):
    exposure = draw_scene(replace(closing, shutter_close_row=20), 1, 1).exposure_s(np.arange(80)) * 300
    assert list(exposure[[10, 20, 40, 50, 60, 70]]) == [10, 20, 20, 20, 10, 0]


@pytest.mark.parametrize("atmosphere", [False, True])
def test_a_streak_ends_at_its_own_row(closing, atmosphere):
    quiet = dict.fromkeys(("scintillation_rms", "motion_rms_arcsec", "focus_rms", "transparency_rms"), 0.0)
    settings = replace(closing, atmosphere=atmosphere, sky_mag=40.0, **quiet)
    scene = with_star(settings)
    air = draw_content(replace(settings, n_bright_stars=0), 1, 1, 0).air
    if air is not None:
        air = replace(air, scintillation=replace(air.scintillation, n_stars=1))
    light = mean_electrons(AmplifierContent(scene, range(400), air=air), slice(0, 400)).sum(axis=1)
    # on at row 20, off at row 220: half of the light at each edge, smeared by 0.85 px
    assert np.interp(500, light[15:26], np.arange(15, 26)) == pytest.approx(20, abs=0.02)
    assert np.interp(-500, -light[215:226], np.arange(215, 226)) == pytest.approx(220, abs=0.02)
    np.testing.assert_allclose(light[27:214], 1000, rtol=1e-5)
    np.testing.assert_allclose(light[228:], 0, atol=1e-3)


def test_baseline_of_a_block_is_a_cut_of_the_whole(closing):
    settings = replace(closing, n_bright_stars=20_000)
    scene = draw_scene(settings, 1, 1)
    whole = scene.baseline_e(range(400))
    for start, stop in ((0, 30), (190, 215), (210, 260), (260, 400)):
        np.testing.assert_allclose(scene.baseline_e(range(start, stop)), whole[start:stop], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(whole[CLOSE + 50 + 8 :], 0, atol=1e-9)


@pytest.mark.parametrize("atmosphere", [False, True])
def test_no_event_light_falls_after_the_shutter_closed(closing, atmosphere):
    settings = replace(
        closing, n_bright_stars=20_000, events=12, rows=3000, shutter_close_row=2500, kinds=("flare", "burst", "glint")
    )
    content = draw_content(replace(settings, atmosphere=atmosphere), 1, 1, 0)
    dark = replace(content, events=[])
    difference = mean_electrons(content, slice(0, 3000)) - mean_electrons(dark, slice(0, 3000))
    assert difference[:2500].any()
    np.testing.assert_allclose(difference[2500 + 50 + 8 :], 0, atol=1e-6)
    for placed in content.events:
        lit = placed.first_row + np.flatnonzero(np.abs(placed.curve) > 1e-3 * np.abs(placed.curve).max())
        assert lit[-1] < 2500 + placed.y0 + 6
        if placed.event.star_id >= 0:
            assert placed.rows[1] < 2500 + placed.y0


def test_events_that_would_fall_into_the_dark_find_no_place(closing):
    settings = replace(closing, events=1, kinds=("burst",), first_row=300, shutter_close_row=200)
    with pytest.raises(SceneError, match=r"only 0 of 1 events"):
        draw_content(settings, 1, 1, 0)


def test_cosmic_rays_go_on_after_the_shutter_closed(closing):
    settings = replace(closing, artefacts=True, rows=2000, first_row=300, n_bright_stars=0, row_rate_hz=0.01)
    open_ = draw_content(replace(settings, shutter_close_row=None), 1, 1, 0)
    closed = draw_content(settings, 1, 1, 0)
    places = [[(ray.rows.tolist(), ray.columns.tolist()) for ray in c.cosmic_rays] for c in (open_, closed)]
    assert places[0] == places[1]
    after = sum(min(rows) > CLOSE for rows, _ in places[1])
    assert after > 20
    assert after / len(places[1]) == pytest.approx(1800 / 2000, abs=0.1)


def test_headers_round_trip_to_the_row(closing, tmp_path):
    settings = replace(closing, shutter_close_row=12_345, row_rate_hz=333.3)
    for index in (0, 1):
        profile = tmp_path / "closing.toml"
        profile.write_text(
            Path(settings.instrument).read_text().replace('"TOPEN"', '"TOPEN"\nshutter_close_utc = "TCLOSE"')
        )
        path, _, _ = simulate_file(replace(settings, instrument=str(profile)), 1, index, tmp_path)
        assert read_frame_info(path, str(profile)).readouts[1].close_row == 12_345


def test_closing_time_of_ztf_headers(write_frame):
    # 6 s after opening at 300 rows/s
    primary = {"SHUTCLSD": "2026-03-04T05:06:13.0004"}
    assert read_frame_info(write_frame(primary=primary)).readouts[2].close_row == 1800
    assert read_frame_info(write_frame()).readouts[2].close_row is None
    # single exposures have a closing time and no first row
    for missing in ("SEQROW0", "SHUTOPEN"):
        path = write_frame(primary={**primary, missing: None})
        assert read_frame_info(path).readouts[2].close_row is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("later", r"SHUTCLSD = 'later' is not ISO 8601 UTC .*; correct it with --set SHUTCLSD=VALUE"),
        ("2026-03-04T05:06:07.000", r"SHUTCLSD = 2026-03-04T05:06:07\.000 is not after SHUTOPEN = 2026-03-04T05:06:07"),
    ],
)
def test_closing_times_that_cannot_be(write_frame, value, message):
    with pytest.raises(FrameError, match=message):
        read_frame_info(write_frame(primary={"SHUTCLSD": value}))


def test_unknown_rows_give_no_time_after_closing():
    readout = Readout(
        300.0, 6.2, 10.0, 48_000.0, 3000, first_row=0, shutter_open_utc="2026-03-04T05:06:07.000", close_row=6000
    )
    # row 7500 is read at 25 s and left the far edge at 15 s; the shutter closed at 20 s
    earliest, latest = readout.event_utc_range([7500, 4500, 7500], [np.nan, np.nan, 1800.0])
    assert list(earliest) == ["2026-03-04T05:06:22.000000", "2026-03-04T05:06:12.000000", "2026-03-04T05:06:26.000000"]
    assert list(latest) == ["2026-03-04T05:06:27.000000", "2026-03-04T05:06:22.000000", "2026-03-04T05:06:26.000000"]
    assert Readout.from_dict(readout.to_dict()) == readout

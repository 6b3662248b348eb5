"""Cadence and times of plain cubes, however they are written: right UTC, or none and why."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from fake_cubes import write_plain

from shutterless.pipeline.reading.cubes import read_cube, read_cube_info
from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.fits_files import FrameError

SKY = np.random.default_rng(3).poisson(100, (30, 6, 7)).astype(np.float32)
START = {"DATE-OBS": "2026-03-04T05:06:07"}
# image 10 of 2 s: its middle is 21 s after the start
UTC_10 = "2026-03-04T05:06:28.000000"
MIDDLES = np.arange(30) * 2.0 + 1


def info_of(tmp_path, **options):
    return read_info(write_plain(tmp_path / "c.fits", SKY, **options))


def utc(info, row=10):
    return str(info.readouts[None].read_utc(row)[0])


@pytest.mark.parametrize(
    "cards",
    [
        START,
        {"DATE-OBS": "2026-03-04 05:06:07"},
        {"DATE-OBS": "2026-03-04T05:06:07Z"},
        {"DATE-OBS": "2026-03-04", "TIME-OBS": "05:06:07"},
        {"DATE-OBS": "2026-03-04", "UT": "05:06:07.0"},
        {"DATE-OBS": "2026-03-03T22:06:07-07:00"},
        {"DATE-OBS": "2026-03-04T05:06:44", "TIMESYS": "TAI"},
        {"DATE-BEG": "2026-03-04T05:06:07"},
        {"DATE-AVG": "2026-03-04T05:06:37"},  # 30 images of 2 s
        {"DATE-END": "2026-03-04T05:07:07"},
        {"GPSTIME": "2026-03-04T05:06:07"},
        {"GPS_UTC": "2026-03-04 05:06:07Z"},
        {"DATE-OBS": "2026-03-04T05:06:25", "TIMESYS": "GPS"},
    ],
)
def test_dates_of_many_forms(tmp_path, cards):
    assert utc(info_of(tmp_path, header=cards)) == UTC_10


def test_day_numbers_are_exact_to_a_few_microseconds(tmp_path):
    info = info_of(tmp_path, header={"MJD-OBS": 61103.2125810185})
    assert utc(info)[:21] == "2026-03-04T05:06:27.9"
    assert any("MJD-OBS = 61103.2125810185 is taken" in note for note in info.notes)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({}, "no UTC: DATE-OBS is missing; give it with --set DATE-OBS="),
        ({"DATE-OBS": "2026-03-04"}, "DATE-OBS = 2026-03-04 is a date without a time of the day"),
        ({"DATE-OBS": "0001-01-01T00:00:00"}, "DATE-OBS = 0001-01-01T00:00:00 is not between the years 1960 and 2099"),
        ({**START, "TIMESYS": "LOCAL"}, "in the scale LOCAL, which has no conversion to UTC"),
        ({**START, "TIMEREF": "SOLARSYSTEM"}, "no UTC: TIMEREF = SOLARSYSTEM"),
    ],
)
def test_without_utc_the_reason_is_said(tmp_path, cards, words):
    info = info_of(tmp_path, header=cards)
    assert utc(info) == ""
    assert any(words in note for note in info.notes)


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (MIDDLES, "s"),
        (61103 + (18367 + MIDDLES) / 86400, "d"),  # 05:06:07 is second 18,367 of the day
        (2461103.5 + (18367 + MIDDLES) / 86400, "d"),
        (1772600767 + MIDDLES, "s"),
        (18367 + MIDDLES, "s"),
    ],
    ids=["since DATE-OBS", "MJD", "JD", "Unix", "of the day"],
)
def test_column_of_times_counted_from_anything(tmp_path, times, unit):
    info = info_of(tmp_path, header=START, times=times, unit=unit)
    assert abs(np.datetime64(utc(info)) - np.datetime64(UTC_10)) < np.timedelta64(100, "us")
    assert (len(info.notes) == 0) == (times[0] == 1)


def test_times_since_a_reference_day(tmp_path):
    cards = {"MJDREFI": 61000, "MJDREFF": 0.5}
    times = (103 - 0.5) * 86400 + 18367 + MIDDLES
    info = info_of(tmp_path, header=cards, times=times, unit="s")
    assert abs(np.datetime64(utc(info)) - np.datetime64(UTC_10)) < np.timedelta64(100, "us")
    assert info.notes == ("column TIME is taken for times since MJDREF",)


def test_times_that_cannot_be_told_give_no_utc(tmp_path):
    info = info_of(tmp_path, header=START, times=5e6 + MIDDLES, unit="s")
    assert utc(info) == ""
    assert any(note.startswith("no UTC: column TIME begins at 5e+06 s") for note in info.notes)


def test_unknown_unit_of_times_is_refused(tmp_path):
    with pytest.raises(FrameError, match=r"column TIME is in 'fortnight', known are 's'"):
        info_of(tmp_path, times=MIDDLES, unit="fortnight")


@pytest.mark.parametrize(("unit", "seconds"), [("ms", 1e-3), ("us", 1e-6), ("min", 60), ("h", 3600)])
def test_units_of_times(tmp_path, unit, seconds):
    assert utc(info_of(tmp_path, header=START, times=MIDDLES / seconds, unit=unit)) == UTC_10


@pytest.mark.parametrize(("place", "shift_s"), [(0.0, 1.0), (0.5, 0.0), (1.0, -1.0)])
def test_times_of_the_start_and_the_end_of_exposures(tmp_path, place, shift_s):
    info = info_of(tmp_path, header={**START, "TIMEPIXR": place}, times=MIDDLES - shift_s)
    assert utc(info) == UTC_10
    assert any("of exposures, TIMEPIXR says" in note for note in info.notes) == (place != 0.5)


@pytest.mark.parametrize(
    ("date", "comment"),
    [("05:06:08", "[UTC] middle of exposure"), ("05:06:08", "Mid-exposure"), ("05:06:09", "end of first exposure")],
)
def test_the_comment_of_a_date_may_say_which_moment_it_is(tmp_path, date, comment):
    path = write_plain(tmp_path / "c.fits", SKY, header=START)
    fits.setval(path, "DATE-OBS", value=f"2026-03-04T{date}", comment=comment)
    info = read_info(path)
    assert utc(info) == UTC_10
    assert any(note.startswith("DATE-OBS is taken for the") for note in info.notes)


def test_a_clock_of_gps_that_disagrees_is_said(tmp_path):
    info = info_of(tmp_path, header={**START, "GPSTIME": "2026-03-04T05:06:06.2", "GPS_ST": "none"})
    assert utc(info) == UTC_10
    assert "GPSTIME = 2026-03-04T05:06:06.2 is -0.800 s from DATE-OBS, which is taken" in info.notes


@pytest.mark.parametrize("true_s", [1.998, 2.002])
def test_clock_that_is_a_thousandth_off_is_measured(tmp_path, true_s):
    images = np.tile(SKY, (20, 1, 1))
    path = write_plain(tmp_path / "c.fits", images, header=START, times=np.arange(600) * true_s + 1)
    info = read_cube_info(path)
    assert info.n_rows == 600
    assert info.readouts[None].row_rate_hz == pytest.approx(1 / true_s)
    assert any(f"but the times say {true_s:g} s, which is taken" in note for note in info.notes)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"EXPTIME": 2.0}, "EXPTIME = 2 s is taken, as if no time were lost"),
        ({"HIERARCH ESO DET DIT": 2.0}, "ESO DET DIT = 2 s is taken"),
        ({"TELAPSE": 60.0}, "TELAPSE over 30 images, 2 s, is taken"),
        ({"FPS": 0.5}, "FPS = 0.5 images a second is taken"),
        ({"CTYPE3": "TIME", "CUNIT3": "s", "CDELT3": 2.0}, "CDELT3 = 2 s is taken"),
    ],
)
def test_cadence_from_other_keywords_is_said(tmp_path, cards, words):
    info = info_of(tmp_path, header={"CADENCE": None, **cards})
    assert info.readouts[None].row_rate_hz == 0.5
    assert any(note.startswith("CADENCE is missing; ") and words in note for note in info.notes)


def test_cadence_from_the_table_of_times(tmp_path):
    info = info_of(tmp_path, header={"CADENCE": None}, times=MIDDLES)
    assert info.readouts[None].row_rate_hz == 0.5
    assert any("2 s from the table of times is taken" in note for note in info.notes)


def test_without_any_cadence_it_is_asked_for(tmp_path):
    with pytest.raises(FrameError, match=r"CADENCE is missing and has no default; give it with --set CADENCE=VALUE"):
        info_of(tmp_path, header={"CADENCE": None})


@pytest.mark.parametrize("unit", ["DN/s", "adu/s", "ct/s", "ADU s-1", "counts/sec"])
def test_rates_in_adu(tmp_path, unit):
    cube = read_cube(write_plain(tmp_path / "c.fits", SKY, header={"BUNIT": unit, "GAIN": 3.0}))
    np.testing.assert_array_equal(cube.flux_e, 6 * np.moveaxis(SKY, 0, -1))
    assert cube.noise_is_known


def test_unit_without_electrons_leaves_the_noise_to_the_data(tmp_path):
    cube = read_cube(write_plain(tmp_path / "c.fits", SKY, header={"BUNIT": "MJy/sr"}))
    np.testing.assert_array_equal(cube.flux_e, np.moveaxis(SKY, 0, -1))
    assert not cube.noise_is_known
    assert "BUNIT = 'MJy/sr' counts no electrons: the noise is taken from the data alone" in cube.notes

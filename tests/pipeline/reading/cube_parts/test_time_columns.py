"""Columns of times under any name, as dates, and in numbers of 32 bits; times of releases that are late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time, TimeDelta
from fake_cubes import OPENED, star_images, write_plain, write_tess

from shutterless.pipeline.reading.cube_parts.time_columns import coarse_step, read_times, refine_times
from shutterless.pipeline.reading.cubes import read_cube_info

SKY = np.random.default_rng(3).poisson(100, (30, 6, 7)).astype(np.float32)
UTC_10 = Time("2026-03-04T05:06:28")  # middle of image 10 of 2 s
MJD = 61103 + (18367 + np.arange(30) * 2.0 + 1) / 86400  # of the middles; 05:06:07 is second 18,367 of the day


def with_column(path: Path, name: str, values: np.ndarray, header: dict | None = None) -> Path:
    """A plain cube with a table of one column."""
    write_plain(path, SKY, header=header)
    form = f"A{values.dtype.itemsize // 4}" if values.dtype.kind == "U" else {8: "D", 4: "E"}[values.dtype.itemsize]
    table = fits.BinTableHDU.from_columns([fits.Column(name, form, array=values)])
    with fits.open(path, mode="append") as hdus:
        hdus.append(table)
    return path


def error_s(info, row: int = 10, expected: Time = UTC_10) -> float:
    return float((Time(str(info.readouts[None].read_utc(row)[0])) - expected).to_value("s"))


@pytest.mark.parametrize(
    ("name", "values", "header"),
    [
        ("TIME", MJD, None),
        ("MJD", MJD, None),
        ("MJD-OBS", MJD - 1 / 86400, None),
        ("JD", MJD + 2400000.5, None),
        ("MJD", MJD + 37 / 86400, {"TIMESYS": "TAI"}),
        ("MJD", MJD + 18 / 86400, {"TIMESYS": "GPS"}),
        ("DATE-AVG", Time(MJD, format="mjd").isot, None),
        ("DATE-OBS", Time(MJD - 1 / 86400, format="mjd").isot, None),
        ("UTC", np.char.add(np.char.replace(Time(MJD, format="mjd").isot, "T", " "), "Z"), None),
    ],
)
def test_columns_of_other_names_and_forms(tmp_path, name, values, header):
    info = read_cube_info(with_column(tmp_path / "c.fits", name, values, header))
    assert error_s(info) == pytest.approx(0, abs=1e-4)
    assert any(f"column {name} " in note for note in info.notes)


def test_barycentric_day_numbers_are_no_utc(tmp_path):
    info = read_cube_info(with_column(tmp_path / "c.fits", "MJD", MJD, {"TIMEREF": "SOLARSYSTEM"}))
    assert info.readouts[None].shutter_open_utc is None
    assert any(note.startswith("no UTC: TIMEREF = SOLARSYSTEM") for note in info.notes)


def test_what_is_no_date_has_no_time():
    times = read_times(np.array(["2026-03-04 05:06:07", "lost", "2026-03-04T05:06:09Z"]), "UTC")
    assert np.isnan(times[1])
    assert (times[2] - times[0]) * 86400 == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("cadence_s", [1800.0, 120.0, 20.0])
@pytest.mark.parametrize("numbered", [False, True])
def test_times_of_32_bits_are_taken_from_the_cadences(tmp_path, cadence_s, numbered):
    numbers = np.r_[np.arange(300), np.arange(310, 600)] + 7000 if numbered or cadence_s > 20 else np.arange(600)
    path = write_tess(tmp_path / "t.fits", star_images(len(numbers), 2, 2), cadence_s=cadence_s, numbers=numbers)
    with fits.open(path, memmap=False) as hdus:
        columns = [hdus[1].columns[name] for name in hdus[1].columns.names if numbered or name != "CADENCENO"]
        columns[0] = fits.Column("TIME", "E", unit=columns[0].unit, array=hdus[1].data["TIME"].astype(np.float32))
        hdus[1] = fits.BinTableHDU.from_columns(columns, header=hdus[1].header)
        hdus.writeto(path, overwrite=True)
    info = read_cube_info(path)
    assert info.n_rows == numbers[-1] - numbers[0] + 1
    for row in (0, 150, info.n_rows - 1):  # 32 bits step by 10.5 s
        expected = Time(OPENED, scale="utc", format="isot").tai + TimeDelta(row * cadence_s, format="sec")
        assert error_s(info, row, expected.utc) == pytest.approx(0, abs=0.2)
    assert any(
        "column TIME holds numbers of 32 bits, in steps of 10.5 s: times are taken" in note for note in info.notes
    )


def test_times_of_32_bits_that_are_exact_or_irregular_stay():
    seconds = np.arange(30, dtype=np.float32)
    assert refine_times(seconds.astype(float), None, None, coarse_step(seconds), 1.0, 1.0, "T")[1] == ()
    odd = (61103 + np.cumsum(np.r_[np.full(15, 0.01), np.full(15, 0.05)])).astype(np.float32)
    times, (note,) = refine_times(odd.astype(float), None, None, coarse_step(odd), 0.001, 86400.0, "T")
    np.testing.assert_array_equal(times, odd)
    assert note == "column T holds numbers of 32 bits, in steps of 338 s, and is no more exact than that"


@pytest.mark.parametrize(
    ("release", "processing", "late_s"),
    [
        (26, "", 1.979),
        (1, "spoc-3.3.32", 1.979),
        (27, "spoc-4.0.14-20200108", 1.979),
        (27, "spoc-4.0.28", 0),
        (42, "", 0),
    ],
)
def test_times_of_early_releases_of_tess_are_mended(tmp_path, release, processing, late_s):
    cards = {"DATA_REL": release, "PROCVER": processing}
    info = read_cube_info(write_tess(tmp_path / "t.fits", SKY, cadence_s=120.0, primary=cards))
    assert error_s(info, 0, Time(OPENED)) == pytest.approx(-late_s, abs=1e-4)
    assert any("times of this release are 1.979 s late" in note for note in info.notes) == bool(late_s)
    assert not any("1.5 s apart" in note for note in info.notes)


def test_full_frames_of_early_releases_keep_the_offset_of_their_camera(tmp_path):
    info = read_cube_info(write_tess(tmp_path / "t.fits", SKY, primary={"DATA_REL": 1}))
    assert any("but not for the cameras of full frames" in note for note in info.notes)

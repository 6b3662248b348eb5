"""Cadences out of order, repeated, without times or flagged; a clock without its correction."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from fake_cubes import write_kepler

from shutterless.pipeline.reading.cube_parts.order import order_frames
from shutterless.pipeline.reading.cubes import read_cube

SKY = np.random.default_rng(4).poisson(100, (30, 6, 7)).astype(np.float32)
IN_ORDER = np.arange(30)


def by_table(order, **columns):
    times = 3430 + IN_ORDER * 1765.46 / 86400
    return {"TIME": times[order], "CADENCENO": IN_ORDER[order] + 1, **columns}


def test_swapped_cadences_are_sorted_and_that_is_said(tmp_path):
    order = IN_ORDER.copy()
    order[[5, 20]] = order[[20, 5]]
    one = read_cube(write_kepler(tmp_path / "k.fits", SKY, columns=by_table(IN_ORDER)))
    other = read_cube(write_kepler(tmp_path / "s.fits", SKY[order], columns=by_table(order)))
    np.testing.assert_array_equal(other.flux_e, one.flux_e)
    assert "cadences are out of order at 2 places: they are sorted" in other.notes


def test_halves_and_repetitions():
    times = np.r_[5.0, 6, 7, 1, 2, 3, 3]
    order, notes = order_frames(times, None)
    assert list(order) == [3, 4, 5, 0, 1, 2]
    assert notes == (
        "cadences are out of order at 1 places: they are sorted",
        "1 cadences are repeated: each counts once",
    )
    assert order_frames(None, np.array([1, 2, 2, 3]))[0].tolist() == [0, 1, 3]


def test_what_is_in_order_or_contradicts_itself_stays():
    rising = np.arange(4.0)
    assert order_frames(rising, None) == (None, ())
    assert order_frames(np.array([0.0, np.nan, 1.0]), None) == (None, ())
    assert order_frames(rising[::-1], np.arange(4)) == (None, ())  # numbers rise
    assert order_frames(rising, np.arange(4)[::-1]) == (None, ())
    assert order_frames(None, np.zeros(9, int)) == (None, ())


def test_cadences_without_any_time_stand_by_their_numbers(tmp_path):
    numbers = np.r_[IN_ORDER[:10], IN_ORDER[10:] + 5] + 1
    cube = read_cube(write_kepler(tmp_path / "k.fits", SKY, untimed=range(30), columns={"CADENCENO": numbers}))
    assert cube.flux_e.shape == (6, 7, 35)
    assert np.isnan(cube.flux_e).all(axis=(0, 1)).sum() == 5
    assert list(cube.readout.read_utc(3)) == [""]
    assert np.isnan(cube.readout.archive_time(3))
    assert "no UTC: TIME is NaN throughout; cadences stand by their numbers" in cube.notes


def test_correction_that_is_zero_is_none(tmp_path):
    cube = read_cube(write_kepler(tmp_path / "k.fits", SKY, columns={"TIMECORR": np.zeros(30)}))
    assert list(cube.readout.read_utc(3)) == [""]
    assert any(note.startswith("no UTC: TIMECORR is zero or NaN throughout") for note in cube.notes)


def test_flags_under_another_name_are_read(tmp_path):
    path = write_kepler(tmp_path / "k.fits", SKY, columns={"QUALITY": np.where(IN_ORDER == 4, 16, 0)})
    with fits.open(path, memmap=False) as hdus:
        hdus[1].columns.change_name("QUALITY", "SAP_QUALITY")
        hdus.writeto(tmp_path / "s.fits")
    cube = read_cube(tmp_path / "s.fits")
    assert np.isnan(cube.flux_e[..., 4]).all()
    assert any(note.startswith("SAP_QUALITY flags 1 of 30 cadences") for note in cube.notes)
    without = read_cube(write_kepler(tmp_path / "n.fits", SKY, columns={"QUALITY": None}))
    assert "there is no column QUALITY: no cadence is masked by a flag" in without.notes

"""HDUs of frames in another order, and times of the opening in other forms."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.io import fits

from shutterless.pipeline.reading.frames import read_amplifier, read_frame_info

QUADRANTS = (1, 2, 3, 4)


def rewritten(path, change):
    """The file with its HDUs changed by a function of their list."""
    with fits.open(path, memmap=False) as hdus:
        copies = [hdu.copy() for hdu in hdus]
        fits.HDUList(change(copies)).writeto(path.with_name("changed.fits"), overwrite=True)
    return path.with_name("changed.fits")


def telemetry():
    return fits.BinTableHDU.from_columns([fits.Column("TEMP", "E", array=np.ones(2))], name="TELEMETRY")


def pixels_of(path):
    return [read_amplifier(path, quadrant).pixels_adu for quadrant in QUADRANTS]


@pytest.mark.parametrize("place", [1, 3, 5, 9])
def test_other_hdus_change_nothing(write_frame, place):
    path = write_frame()
    changed = rewritten(path, lambda hdus: [*hdus[:place], telemetry(), *hdus[place:]])
    np.testing.assert_array_equal(pixels_of(changed), pixels_of(path))
    info = read_frame_info(changed)
    assert [layout.data_hdu for layout in info.layouts] == [k + (k >= place) for k in QUADRANTS]
    notes = info.notes
    assert notes == (("the quadrants stand in HDUs 2, 3, 4, 5, found by their shapes",) if place == 1 else notes)


def test_overscans_before_the_data(write_frame):
    path = write_frame()
    changed = rewritten(path, lambda hdus: [hdus[0], *hdus[5:], *hdus[1:5]])
    np.testing.assert_array_equal(pixels_of(changed), pixels_of(path))


def test_names_with_numbers_decide(write_frame):
    path = write_frame(amplifiers=[{"EXTNAME": f"DATA{k}"} for k in QUADRANTS])
    whole = pixels_of(path)
    changed = rewritten(path, lambda hdus: [hdus[0], *hdus[4:0:-1], *hdus[5:]])
    np.testing.assert_array_equal(pixels_of(changed), whole)
    assert "HDUs DATA4, DATA3, DATA2, DATA1 are taken in the order of their numbers" in read_frame_info(changed).notes


@pytest.mark.parametrize(
    ("cards", "utc"),
    [
        ({"SHUTOPEN": "2026-03-04 05:06:07"}, "2026-03-04T05:06:07"),
        ({"SHUTOPEN": "2026-03-04T05:06:44", "TIMESYS": "TAI"}, "2026-03-04T05:06:07"),
        ({"SHUTOPEN": "2026-03-03T22:06:07-0700"}, "2026-03-04T05:06:07"),
    ],
)
def test_opening_is_converted_to_utc(write_frame, cards, utc):
    readout = read_frame_info(write_frame(primary=cards)).readouts[1]
    assert str(readout.read_utc(0)[0]) == f"{utc}.000000"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2026-03-04", "no UTC: SHUTOPEN = 2026-03-04 is a date without a time of the day"),
        ("yesterday", "no UTC: SHUTOPEN = yesterday is no date of the form"),
        ("0001-01-01T00:00:00", "SHUTOPEN = 0001-01-01T00:00:00 is not between the years 1960 and 2099"),
        (None, "no UTC: SHUTOPEN is missing; give it with --set SHUTOPEN="),
    ],
)
def test_opening_that_is_not_known_is_said(write_frame, value, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = read_frame_info(write_frame(primary={"SHUTOPEN": value}))
    assert info.readouts[1].shutter_open_utc is None
    (note,) = info.notes
    assert words in note


def test_other_dates_of_a_frame_are_named_where_its_opening_is_missing(write_frame):
    others = {"DATE-OBS": "2026-03-04", "GPSTIME": "2026-03-04T05:06:07", "DATE-BEG": "2026-03-04T05:06"}
    info = read_frame_info(write_frame(primary={"SHUTOPEN": None, **others}))
    (note,) = info.notes
    assert info.readouts[1].shutter_open_utc is None
    dates = "DATE-BEG = 2026-03-04T05:06, GPSTIME = 2026-03-04T05:06:07"
    assert note.endswith(f"({dates} may be when row 0 was read, or a later moment)")


def test_opening_that_the_user_gives_must_be_understood(write_frame):
    with pytest.raises(ValueError, match=r"--set SHUTOPEN: no UTC: SHUTOPEN = noon is no date"):
        read_frame_info(write_frame(), supplied={"SHUTOPEN": "noon"})

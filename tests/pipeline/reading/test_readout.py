from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.reading.readout import Readout, RowTimes, read_utc_of


def readout(**changes) -> Readout:
    values = {
        "row_rate_hz": 300.0,
        "gain_e_per_adu": 6.2,
        "read_noise_e": 10.0,
        "saturation_adu": 48000.0,
        "n_transit": 3000,
        "first_row": 0,
        "shutter_open_utc": "2026-03-04T05:06:07.000",
        **changes,
    }
    return Readout(**values)


def test_read_times_are_counted_from_the_shutter():
    # 450 rows at 300 Hz are 1.5 s
    assert list(readout().read_utc([0, 450])) == ["2026-03-04T05:06:07.000000", "2026-03-04T05:06:08.500000"]


def test_a_later_file_of_the_sequence_goes_on():
    # its row 150 is sequence row 6150, 20.5 s after the shutter opened
    assert list(readout(first_row=6000).read_utc(150)) == ["2026-03-04T05:06:27.500000"]


def test_a_streak_begins_at_the_row_of_its_star():
    clock = readout(first_row=1000)
    assert clock.has_begun([499, 500, 500], [1500.0, 1500.0, np.nan]).tolist() == [False, True, True]
    assert readout(first_row=None).has_begun([0], [1500.0]).tolist() == [True]
    assert readout(n_transit=0).has_begun([0], [1500.0]).tolist() == [True]


def test_a_leap_second_is_counted():
    # 2016-12-31 ended with 23:59:60; 2 s after 23:59:59 it was 0 o'clock
    clock = readout(shutter_open_utc="2016-12-31T23:59:59.000")
    assert list(clock.read_utc([300, 600])) == ["2016-12-31T23:59:60.000000", "2017-01-01T00:00:00.000000"]


def test_times_of_several_clocks_are_those_of_each():
    clocks = [readout(), readout(shutter_open_utc=None), readout(first_row=6000), readout(row_rate_hz=20.0)]
    rows = [np.array([0, 450]), np.array([3]), 150, np.array([])]
    for found, clock, own in zip(read_utc_of(clocks, rows), clocks, rows, strict=True):
        assert found.tolist() == clock.read_utc(own).tolist()
    assert read_utc_of([], []) == []


@pytest.mark.parametrize("missing", [{"first_row": None}, {"shutter_open_utc": None}])
def test_without_first_row_or_shutter_time_there_is_no_utc(missing):
    clock = readout(**missing)
    assert list(clock.read_utc([0, 10])) == ["", ""]
    earliest, latest = clock.event_utc_range([5, 6])
    assert list(earliest) == list(latest) == ["", ""]
    assert clock.seconds(300) == 1.0


def test_event_time_is_exact_where_y0_is_known():
    # sequence row 6000 is read at 20 s; light from detector row 1500 fell 5 s before
    earliest, latest = readout().event_utc_range([6000], [1500.0])
    assert earliest[0] == latest[0] == "2026-03-04T05:06:22.000000"


def test_seconds_become_rows_to_the_nearest():
    assert [readout().rows_of(seconds) for seconds in (0.0, 0.005, 0.01, 1.0, 16_384 / 300)] == [1, 2, 3, 300, 16_384]
    assert readout(row_rate_hz=20.0).rows_of(0.24) == 5
    assert readout().rows_of(0.01, least=8) == 8


def test_event_time_is_one_transit_wide_where_y0_is_not_known():
    earliest, latest = readout().event_utc_range([6000])
    assert (earliest[0], latest[0]) == ("2026-03-04T05:06:17.000000", "2026-03-04T05:06:27.000000")


def test_event_time_is_not_before_the_shutter_opened():
    earliest, latest = readout().event_utc_range([600])
    assert (earliest[0], latest[0]) == ("2026-03-04T05:06:07.000000", "2026-03-04T05:06:09.000000")


def test_event_time_is_not_after_the_shutter_closed():
    # open for 15 s (4,500 rows); row 6000 is read at 20 s, its light fell between 10 and 15 s; that of row 9000 at 15 s
    earliest, latest = readout(close_row=4500).event_utc_range([4400, 6000, 7500, 9000])
    assert [time[-9:] for time in earliest] == ["11.666667", "17.000000", "22.000000", "22.000000"]
    assert [time[-9:] for time in latest] == ["21.666667", "22.000000", "22.000000", "22.000000"]
    assert readout(close_row=4500).event_utc_range([6000], [2000.0])[1][0][-9:] == "20.333333"  # row 4000, while open


def test_event_rows_of_a_later_file_reach_back_before_it():
    # the file begins with sequence row 1000: the shutter opened 1,000 rows before it and closed with its row 1500
    earliest, latest = readout(first_row=1000, close_row=2500).event_row_range(
        [0, 1400, 2100.5, 2100.5], [np.nan] * 3 + [700]
    )
    assert earliest.tolist() == [-1000, -1000, -899.5, 1400.5]
    assert latest.tolist() == [0, 1400, 1500, 1400.5]
    assert [rows.tolist() for rows in readout(first_row=None).event_row_range([5])] == [[-2995], [5]]


def test_known_and_unknown_y0_in_one_call():
    earliest, latest = readout().event_utc_range([6000, 6000], [0.0, np.nan])
    assert earliest[0] == latest[0] == latest[1] == "2026-03-04T05:06:27.000000"
    assert earliest[1] == "2026-03-04T05:06:17.000000"


def test_no_rows_no_times():
    assert readout().read_utc(np.array([])).shape == (0,)


@pytest.mark.parametrize(("first_row", "expected"), [(0, 500), (2800, 200), (3000, 0), (9000, 0), (None, 0)])
def test_ramp_rows_of_a_file_of_500_rows(first_row, expected):
    assert readout(first_row=first_row).n_ramp_rows(500) == expected


def test_psf_width_and_transit():
    assert readout(seeing_arcsec=2.0, pixel_scale_arcsec=1.0).psf_sigma_px == pytest.approx(2 / 2.3548, rel=1e-4)
    assert readout().transit_s == 10.0


def test_round_trip_through_plain_values():
    clock = readout(supplied=(("ROWRATE", "300"),), ccd=3, quadrant=2)
    assert Readout.from_dict(clock.to_dict()) == clock
    with pytest.raises(ValueError, match=r"unknown fields \['colour'\]"):
        Readout.from_dict({**clock.to_dict(), "colour": "red"})


def cube_clock(**changes) -> Readout:
    """Cadences of 10 s that light reached 1 s later each time; the archive counts days."""
    times = RowTimes(seconds=np.array([0.0, 11.0, 22.0, 33.0]), archive=np.array([5.0, 6.0, 8.0, 9.0]))
    values = {"row_rate_hz": 0.1, "n_transit": 0, "row_times": times, "time_scale": "BJD - 2454833 (TDB)", **changes}
    return readout(**values)


def test_rows_with_times_of_their_own_are_interpolated_and_extrapolated_by_the_cadence():
    np.testing.assert_allclose(cube_clock().seconds([0, 1, 1.5, 3]), [0, 11, 16.5, 33])
    np.testing.assert_allclose(cube_clock().seconds([-0.5, -2, 5]), [-5, -20, 53])
    assert cube_clock().seconds(2) == 22


def test_archive_times_are_kept_in_their_own_scale():
    # mean step (9 - 5) / 3 beyond the ends
    np.testing.assert_allclose(cube_clock().archive_time([0, 2, 2.5, 6, -3]), [5, 8, 8.5, 13, 1])
    assert cube_clock().archive_time(1) == 6
    without = readout().archive_time([1, 2, 3])
    assert without.shape == (3,)
    assert np.isnan(without).all()
    assert np.isnan(readout().archive_time(1))


def test_light_of_a_cube_is_not_delayed():
    earliest, latest = cube_clock().event_utc_range([0, 2, 2], [np.nan, np.nan, 1.0])
    assert list(earliest) == list(latest) == list(cube_clock().read_utc([0, 2, 2]))
    assert earliest[1] == "2026-03-04T05:06:29.000000"
    # cadence 0 began before its middle
    earliest, latest = cube_clock().event_utc_range([-0.5])
    assert earliest[0] == latest[0] == "2026-03-04T05:06:02.000000"


def test_a_cube_has_no_ramp_and_no_transit():
    clock = cube_clock()
    assert (clock.transit_s, clock.n_ramp_rows(4), clock.steady_rows(4)) == (0.0, 0, slice(0, 4))


def test_a_cube_without_utc_has_empty_strings():
    clock = cube_clock(shutter_open_utc=None)
    assert list(clock.read_utc([0, 1])) == ["", ""]
    assert [list(times) for times in clock.event_utc_range([2], [1.0])] == [[""], [""]]


def test_row_times_are_neither_compared_nor_stored():
    clock = cube_clock()
    stored = clock.to_dict()
    assert "row_times" not in stored
    assert stored["time_scale"] == "BJD - 2454833 (TDB)"
    back = Readout.from_dict(stored)
    assert back == clock
    assert hash(back) == hash(clock)
    assert back.row_times is None
    with pytest.raises(ValueError, match=r"unknown fields \['row_times'\]"):
        Readout.from_dict({**stored, "row_times": None})

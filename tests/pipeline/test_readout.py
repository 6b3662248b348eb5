from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.readout import Readout


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


def test_a_leap_second_is_counted():
    # 2016-12-31 ended with 23:59:60; 2 s after 23:59:59 it was 0 o'clock
    clock = readout(shutter_open_utc="2016-12-31T23:59:59.000")
    assert list(clock.read_utc([300, 600])) == ["2016-12-31T23:59:60.000000", "2017-01-01T00:00:00.000000"]


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


def test_event_time_is_one_transit_wide_where_y0_is_not_known():
    earliest, latest = readout().event_utc_range([6000])
    assert (earliest[0], latest[0]) == ("2026-03-04T05:06:17.000000", "2026-03-04T05:06:27.000000")


def test_event_time_is_not_before_the_shutter_opened():
    earliest, latest = readout().event_utc_range([600])
    assert (earliest[0], latest[0]) == ("2026-03-04T05:06:07.000000", "2026-03-04T05:06:09.000000")


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

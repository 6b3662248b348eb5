"""Dates as people write them: the moment that they mean, or the reason why there is none."""

from __future__ import annotations

import pytest

from shutterless.pipeline.reading.headers.dates import (
    DateError,
    find_scale,
    is_plain_utc,
    read_date,
    read_day_number,
    state_start,
)

MOMENT = "2026-03-04T05:06:07.000000"


@pytest.mark.parametrize(
    ("value", "system", "clock"),
    [
        ("2026-03-04T05:06:07", "UTC", None),
        ("2026-03-04 05:06:07", "UTC", None),
        ("2026-03-04T05:06:07.000000000", "UTC", None),
        ("2026-03-04T05:06:07Z", "UTC", None),
        ("2026/03/04 5:06:07 UTC", "UT", None),
        ("2026-03-03T22:06:07-07:00", "UTC", None),
        ("2026-03-03T22:06:07-0700", "UTC", None),
        ("2026-03-04T05:06:44", "TAI", None),  # 37 leap seconds
        ("2026-03-04T05:06:25", "GPS", None),  # 37 - 19
        ("2026-03-04T05:07:16.184", "TT", None),
        ("2026-03-04", "UTC(NIST)", "05:06:07"),
        ("2026-03-04", "UTC", "5h06m07s"),
        ("2026-03-04T05h06m07.000s", "UTC", None),
        ("2026-3-4T5:6:7", "UTC", None),
        ("20260304T050607", "UTC", None),
        ("20260304T050607.0Z", "UTC", None),
        ("2026-063T05:06:07", "UTC", None),
        ("Mar 4 2026 05:06:07", "UTC", None),
        ("March 4, 2026 05:06:07", "UTC", None),
        ("04-MAR-2026 05:06:07", "UTC", None),
        ("2026 Mar 4 05:06:07", "UTC", None),
    ],
)
def test_one_moment_in_many_forms(value, system, clock):
    assert read_date(value, system, clock).utc.isot == MOMENT


def test_hour_24_is_the_end_of_the_day():
    assert read_date("2026-03-04T24:00:00").isot == "2026-03-05T00:00:00.000000"


def test_old_style_is_day_month_year_of_the_last_century():
    assert read_date("26/07/98", clock="01:02:03").isot == "1998-07-26T01:02:03.000000"


@pytest.mark.parametrize(
    ("value", "system", "message"),
    [
        ("2026-03-04", "UTC", r"a date without a time of the day"),
        ("0001-01-01T00:00:00", "UTC", r"not between the years 1960 and 2099: was the clock set\?"),
        ("yesterday", "UTC", r"no date of the form"),
        ("2026-03-04T05h", "UTC", r"no date of the form"),
        ("04/03/2026 05:06:07", "UTC", r"no date of the form"),  # of March or of April
        ("202603040506", "UTC", r"no date of the form"),
        ("1772600767", "UTC", r"no date of the form"),
        ("2026-366T05:06:07", "UTC", r"no date of the calendar"),
        ("2026-000T05:06:07", "UTC", r"no date of the calendar"),
        ("2026-03-04T24:00:01", "UTC", r"no date of the calendar"),
        ("2026-13-04T05:06:07", "UTC", r"no date of the calendar"),
        ("2026-03-04T05:06:07", "LOCAL", r"in the scale LOCAL, which has no conversion to UTC"),
        ("2026-03-04T05:06:07+01:00", "TAI", r"an offset from UTC, but TIMESYS = TAI"),
    ],
)
def test_what_is_no_moment(value, system, message):
    with pytest.raises(DateError, match=message):
        read_date(value, system)


def test_day_numbers():
    assert read_day_number(61103.2125810185).isot[:22] == "2026-03-04T05:06:06.999"[:22]
    assert read_day_number(2461103.7125810185, zero_jd=0.0).isot[:19] == "2026-03-04T05:06:06"
    with pytest.raises(DateError, match=r"not between the years"):
        read_day_number(2461103.7)
    with pytest.raises(DateError, match=r"not a number of days"):
        read_day_number("soon")


def test_first_keyword_that_is_understood_is_taken_and_the_others_are_named():
    attempts = [("DATE-OBS", "today", read_date), ("MJD-OBS", 61103.5, read_day_number)]
    found = state_start(attempts, "DATE-OBS", "give it")
    assert found.moment.isot == "2026-03-04T12:00:00.000000"
    assert found.source.startswith("DATE-OBS = today is no date")
    assert found.source.endswith("MJD-OBS = 61103.5 is taken")
    nothing = state_start([("DATE-OBS", None, read_date)], "DATE-OBS", "give it with --set")
    assert (nothing.moment, nothing.source) == (None, "no UTC: DATE-OBS is missing; give it with --set")


def test_plain_utc():
    assert is_plain_utc("2026-03-04T05:06:07.1", "UTC")
    assert not is_plain_utc("2026-03-04 05:06:07", "UTC")
    assert not is_plain_utc("2026-03-04T05:06:07", "TAI")
    assert find_scale("tdt") == ("tt", 0.0)

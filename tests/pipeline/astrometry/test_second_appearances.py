"""Flashes on no star that two readouts saw, by the clocks and the pointing of another program."""

from __future__ import annotations

import another_program
import numpy as np
import pandas as pd
import pytest
from another_program import N_COLUMNS, N_TRANSIT, RATE_HZ
from astropy.coordinates import SkyCoord

from shutterless.pipeline.astrometry.second_appearances import place_second_appearances

MIDDLE = (150.0, 30.0)
DURATION_S, SNR = 0.05, 10.0


def appearance(name, sky, flash_s, turned_deg, rng=None, quadrant=1, **values):
    """Candidate of a flash, in the quadrant of a CCD that is turned; its column and row have errors."""
    wcs = another_program.pointed_at(*MIDDLE, turned_deg, quadrant)
    x, y0 = another_program.pixel_of(wcs, quadrant, *sky)
    row = y0 + RATE_HZ * flash_s
    if rng is not None:
        x, row = x + rng.normal(0, 0.5), row + rng.normal(0, RATE_HZ * DURATION_S / SNR)
    (ra_1, ra_2), (dec_1, dec_2) = another_program.sky_of(wcs, quadrant, np.array([x, x]), np.array([0.0, N_TRANSIT]))
    times = [
        pd.Timestamp("2026-03-01", tz="UTC") + pd.Timedelta(row / RATE_HZ - ago, "s")
        for ago in (N_TRANSIT / RATE_HZ, 0)
    ]
    return {
        "candidate_id": name, "file": f"turned {turned_deg}", "ccd": 1, "quadrant": quadrant, "duration_s": DURATION_S,
        "snr": SNR, "position_error": 0.51, "time_event_min": times[0], "time_event_max": times[1],
        "segment_ra_1": ra_1, "segment_dec_1": dec_1, "segment_ra_2": ra_2, "segment_dec_2": dec_2, **values,
    }  # fmt: skip


def place(*rows):
    table = pd.DataFrame(rows)
    return place_second_appearances(table, set(table["candidate_id"]))


def sky_in_quadrant(rng):
    """A place that every CCD of these tests sees: within 0.35 deg of the middle."""
    east, north = rng.uniform(0.1, 0.3, 2)
    return MIDDLE[0] + east / np.cos(np.radians(MIDDLE[1])), MIDDLE[1] + north


def quadrant_of(sky, turned_deg):
    """Quadrant of a turned CCD on which a place lies."""
    for quadrant in another_program.RAW_FLIPS:
        x, y0 = another_program.pixel_of(another_program.pointed_at(*MIDDLE, turned_deg, quadrant), quadrant, *sky)
        if 0 <= x < N_COLUMNS and 0 <= y0 < N_TRANSIT:
            return quadrant
    raise AssertionError(f"{sky} is on no quadrant")


@pytest.mark.parametrize("turned_deg", [90.0, 25.0])
def test_a_flash_in_two_readouts_has_a_point_within_its_error(turned_deg):
    rng, apart, errors = np.random.default_rng(1), [], []
    for _ in range(60):
        sky, flash = sky_in_quadrant(rng), rng.uniform(20, 30)
        rows = [appearance(f"at {turn}", sky, flash, turn, rng, quadrant_of(sky, turn)) for turn in (0.0, turned_deg)]
        found = place(*rows).dropna(subset="point_ra")
        assert found["point_with"].tolist() in ([f"at {turned_deg}", "at 0.0"], [])
        points = SkyCoord(found["point_ra"], found["point_dec"], unit="deg")
        apart += points.separation(SkyCoord(*sky, unit="deg")).arcsec.tolist()
        errors += found["point_error"].tolist()
    assert len(apart) >= 0.97 * 2 * 60  # 0.3 % disagree by more than 3 σ
    # of a two-dimensional Gaussian 98.9 % lie within 3 σ
    assert np.mean(np.array(apart) < 3 * np.array(errors)) > 0.95
    assert max(errors) < 3.0


def test_segments_that_are_read_alike_tell_no_point():
    sky = sky_in_quadrant(np.random.default_rng(2))
    quadrant = quadrant_of(sky, 0.0)
    rows = [appearance(name, sky, 25.0, 0.0, None, quadrant, file=name) for name in ("a", "b")]
    assert place(*rows)["point_ra"].isna().all()


def test_readouts_in_opposite_directions_tell_the_row_by_their_times():
    """In one column of sky k1 = y + v t and k2 = (n - y) + v t: the difference of the rows tells y."""
    sky = sky_in_quadrant(np.random.default_rng(3))
    first = appearance("a", sky, 25.0, 0.0, None, quadrant_of(sky, 0.0))
    y = 1000.0  # rows from the register of the first, and from the far edge of the second
    ra, dec = ([first[f"segment_{axis}_{end}"] for end in (1, 2)] for axis in ("ra", "dec"))
    ends = SkyCoord(ra, dec, unit="deg")
    shift = pd.Timedelta(((N_TRANSIT - y) - y) / RATE_HZ, "s")
    turned = {f"segment_{axis}_{3 - end}": first[f"segment_{axis}_{end}"] for axis in ("ra", "dec") for end in (1, 2)}
    times = {name: first[name] + shift for name in ("time_event_min", "time_event_max")}
    found = place(first, {**first, **turned, **times, "candidate_id": "b", "file": "other"})
    way = ends[0].separation(ends[1]).arcsec * y / N_TRANSIT
    point = SkyCoord(found["point_ra"][0], found["point_dec"][0], unit="deg")
    assert ends[0].separation(point).arcsec == pytest.approx(way, abs=0.1)


def test_what_is_no_second_appearance_resolves_nothing():
    sky = sky_in_quadrant(np.random.default_rng(4))
    first = appearance("a", sky, 25.0, 0.0, None, quadrant_of(sky, 0.0))

    def beside(flash_s=25.0, **values):
        second = appearance("b", sky, flash_s, 90.0, None, quadrant_of(sky, 90.0))
        return place(first, {**second, **values})["point_ra"].notna().any()

    assert beside()
    assert not beside(flash_s=25.2)  # another moment, on segments that cross
    assert not beside(snr=-SNR)
    assert not beside(duration_s=3 * DURATION_S)
    assert not beside(time_event_min=pd.NaT)
    assert not beside(file=first["file"], quadrant=first["quadrant"])
    table = pd.DataFrame([first, appearance("b", sky, 25.0, 90.0, None, quadrant_of(sky, 90.0))])
    assert place_second_appearances(table, {"a"})["point_ra"].isna().all()  # where no onset told the rows


def test_among_many_alike_a_time_that_fits_says_nothing():
    sky = sky_in_quadrant(np.random.default_rng(5))
    first = appearance("a", sky, 25.0, 0.0, None, quadrant_of(sky, 0.0))
    true = appearance("b", sky, 25.0, 90.0, None, quadrant_of(sky, 90.0))
    others = [appearance(f"c{k}", sky, 25.3 + k / 10, 90.0, None, quadrant_of(sky, 90.0)) for k in range(20)]
    assert place(first, true)["point_with"][0] == "b"
    assert pd.isna(place(first, true, *others)["point_with"][0])


def test_a_candidate_whose_time_is_known_has_no_track():
    """It stands on a star without a name: one moment, and the whole segment."""
    rng = np.random.default_rng(3)
    sky = sky_in_quadrant(rng)
    one, other = (appearance(f"{turn}", sky, 100.0, turn, quadrant=quadrant_of(sky, turn)) for turn in (0.0, 90.0))
    assert place(one, other)["point_with"].notna().all()
    known = place({**one, "time_event_max": one["time_event_min"]}, other)
    assert known["point_with"].isna().all()

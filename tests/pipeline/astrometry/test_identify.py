"""Streaks named by a catalogue on the sky, positions of candidates, and amplifiers that a catalogue does not fit."""

from __future__ import annotations

from dataclasses import replace

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord

from shutterless.pipeline.astrometry import identify as identify_module
from shutterless.pipeline.astrometry.focal_plane import focal_plane
from shutterless.pipeline.astrometry.identify import describe_solved, identify_stars, read_any_catalogue
from shutterless.pipeline.astrometry.places import SEGMENT_COLUMNS, place_orphans
from shutterless.pipeline.astrometry.pointing import AmplifierSky, field_wcs
from shutterless.pipeline.reading.instruments import load_frame_profile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.barycentric import Direction
from shutterless.pipeline.results.candidates import build_candidates

N_COLUMNS, N_TRANSIT = 3072, 3080
READOUT = Readout(
    300.0, 6.2, 10.0, 48000.0, N_TRANSIT, first_row=0, shutter_open_utc="2026-03-04T05:06:07.000", ccd=4, quadrant=3,
    band="ZTF_r", pixel_scale_arcsec=1.012, zero_point_mag=24.5,
)  # fmt: skip


def sky(ra_deg=150.0, dec_deg=30.0, angle_deg=180.0):
    """Quadrant 3 of CCD 4, both of whose axes are flipped."""
    plane = focal_plane(load_frame_profile("ztf"), N_TRANSIT)
    wcs = field_wcs(Direction(ra_deg, dec_deg), 1.012, angle_deg, True, plane, 4, 3)
    return AmplifierSky(wcs, N_COLUMNS, N_TRANSIT, True, True)


def observed(n=100, seed=3):
    """Streaks as they would be measured, and the catalogue of their stars."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(5, N_COLUMNS - 6, n), rng.uniform(5, N_TRANSIT - 6, n)
    mag = 14.5 + np.log10(rng.random(n)) / 0.4
    place = sky().to_sky(x, y)
    stars = pd.DataFrame({"name": [f"V{k}" for k in range(n)], "ra": place.ra.deg, "dec": place.dec.deg, "mag": mag})
    flux = 10 ** (-0.4 * (mag - 24.5)) / 300
    streaks = pd.DataFrame(
        {
            "streak_id": np.arange(n), "x": x + rng.normal(0, 0.03, n), "y": 0.0, "flux_e_row": flux,
            "flux_error_e_row": 0.003 * flux, "flux_e_s": 300 * flux, "mag": mag + rng.normal(0, 0.05, n),
            "y0": np.where(rng.random(n) < 0.6, y + rng.normal(0, 0.7, n), np.nan),
        }
    )  # fmt: skip
    return streaks, stars, y


def wrong_header():
    """Off by 90 arcsec and turned by 0.2 deg, which together is 38 arcsec here."""
    return sky(150.0 + 50 / 3600 / np.cos(np.radians(30)), 30.0 - 75 / 3600, 180.2)


def identify(streaks, stars, pointing, readout=READOUT):
    return identify_stars({"a": streaks}, {"a": readout}, stars, {"a": pointing})


def test_streaks_get_the_names_positions_and_rows_of_their_stars():
    streaks, stars, y = observed()
    found = identify(streaks, stars, wrong_header())
    assert found.warnings == []
    named = found.streaks["a"]
    sure = (named["star_flag"] == "").to_numpy()
    assert sure.sum() >= 90
    assert named["name"][sure].tolist() == stars["name"][sure].tolist()
    assert np.allclose(named["ra"][sure], stars["ra"][sure])
    assert np.abs(named["y0"] - y)[sure].max() < 1  # also where no onset was seen
    solved = found.solved["a"]
    assert solved.offset_arcsec > 30
    assert solved.rms_arcsec == pytest.approx(0.03, abs=0.01)
    assert solved.numbers()["sky_expected"] == 100
    assert solved.to_sky(1000.0, 2000.0).separation(sky().to_sky(1000.0, 2000.0)).arcsec < 0.3
    line = describe_solved([solved])
    assert line.startswith("the catalogue fits 1 amplifiers: ")
    assert "columns agree to 0.03 arcsec (worst 0.03)" in line
    assert describe_solved([]) == ""


def test_without_onsets_rows_stay_unknown():
    streaks, stars, _ = observed()
    named = identify(streaks.assign(y0=np.nan), stars, wrong_header()).streaks["a"]
    assert named["y0"].isna().all()
    assert (named["name"] == stars["name"]).mean() > 0.95


def test_errors_of_the_catalogue_are_the_errors_of_positions():
    streaks, stars, _ = observed()
    named = identify(streaks, stars.assign(error=[0.02] + [np.nan] * 99), wrong_header())
    first, second = named.streaks["a"]["position_error"][:2]
    assert first == 0.02
    assert second == pytest.approx(named.solved["a"].rms_arcsec)


def test_magnitudes_without_a_zero_point_are_compared_up_to_a_constant():
    streaks, stars, _ = observed()
    stars = stars.assign(mag=stars["mag"] - 24.5)  # as -2.5 log10 of electrons per second
    named = identify(streaks.assign(mag=np.nan), stars, wrong_header()).streaks["a"]
    assert (named["name"] != "").mean() > 0.95
    assert named["mag"].isna().all()


def test_another_field_and_an_unknown_pointing_are_said_and_name_nothing():
    streaks, stars, _ = observed()
    _, others, _ = observed(seed=4)
    for catalogue, pointing, reason in (
        (others, wrong_header(), "a: the catalogue is not used there: the best fit has "),
        (stars, sky(200.0), "a: the catalogue is not used there: 0 stars of the catalogue are near it"),
        (stars, "no RA", "a: the catalogue is not used there: no RA"),
    ):
        found = identify(streaks, catalogue, pointing)
        assert [line.startswith(reason) for line in found.warnings] == [True]
        assert found.solved == {}
        assert (found.streaks["a"]["name"] == "").all()
        assert found.streaks["a"]["ra"].isna().all()
        assert found.streaks["a"]["y0"].equals(streaks["y0"])


def test_what_was_found_from_the_same_streaks_is_kept(monkeypatch):
    """As `watch` does at each look: only an amplifier with other streaks or another pointing is solved again."""
    streaks, stars, _ = observed()
    n_solved, solve = [], identify_module.solve_amplifier
    monkeypatch.setattr(identify_module, "solve_amplifier", lambda *a, **k: n_solved.append(1) or solve(*a, **k))
    kept, pointing, unknown = {}, wrong_header(), "no RA"

    def look(**tables):
        skies = {"a": pointing, "b": pointing, "c": unknown}
        readouts = dict.fromkeys(tables, replace(READOUT, first_row=None))
        return identify_stars(tables, readouts, stars, {name: skies[name] for name in tables}, kept)

    first = look(a=streaks, c=streaks)
    assert len(n_solved) == 1
    again = look(a=streaks.copy(), b=streaks, c=streaks)
    assert len(n_solved) == 2
    assert again.streaks["a"] is first.streaks["a"]
    assert again.solved["a"] is first.solved["a"]
    assert first.warnings == again.warnings == ["c: the catalogue is not used there: no RA"]
    look(a=streaks.iloc[:-1])
    assert len(n_solved) == 3
    pointing = wrong_header()
    look(a=streaks.iloc[:-1])
    assert len(n_solved) == 4


def test_a_catalogue_in_pixels_is_used_as_ever(tmp_path):
    streaks, _, y = observed()
    pixels = pd.DataFrame({"x": streaks["x"], "y": y, "mag": streaks["mag"]})
    pixels.to_csv(tmp_path / "pixels.csv", index=False)
    found = identify(streaks, read_any_catalogue(tmp_path / "pixels.csv"), "no RA")
    assert np.allclose(found.streaks["a"]["y0"], y)
    assert found.solved == {}
    _, stars, _ = observed()
    stars.to_csv(tmp_path / "sky.csv", index=False)
    assert list(read_any_catalogue(tmp_path / "sky.csv")) == list(stars)


def candidates_of(streaks, rows, x, streak_id=-1, readout=READOUT):
    """Candidates at some rows of one column."""
    detections = pd.DataFrame(
        {
            "row_start": rows, "row_stop": rows, "row_peak": rows, "x": float(x), "y": 0.0, "snr": 9.0,
            "streak_id": streak_id if streak_id >= 0 else pd.NA, "amplitude_e": 1.0, "veto": "",
        }
    )  # fmt: skip
    return build_candidates(detections, streaks, readout, file="a.fits", model="bank")


def ends(candidate):
    values = [candidate[name] for name in SEGMENT_COLUMNS]
    return SkyCoord(values[0::2] * u.deg, values[1::2] * u.deg)


def test_a_candidate_on_a_star_has_its_position_and_no_segment():
    streaks, stars, _ = observed()
    found = identify(streaks, stars, wrong_header())
    star = int(np.flatnonzero(found.streaks["a"]["star_flag"] == "")[0])
    table = candidates_of(found.streaks["a"], [5000], streaks["x"][star], star)
    placed = place_orphans(table, found.solved["a"], READOUT).iloc[0]
    assert placed["star_name"] == f"V{star}"
    assert (placed["ra"], placed["dec"]) == pytest.approx(tuple(stars.loc[star, ["ra", "dec"]]))
    assert pd.isna(placed["star_flag"])
    assert placed[list(SEGMENT_COLUMNS)].isna().all()
    assert placed["time_event_min_utc"] == placed["time_event_max_utc"]


def test_an_orphan_lies_on_the_segment_of_its_column():
    streaks, stars, _ = observed()
    found = identify(streaks, stars, wrong_header())
    table = candidates_of(found.streaks["a"], [1000, 5000], 1234.0)
    placed = place_orphans(table, found.solved["a"], READOUT)
    assert placed["ra"].isna().all()
    assert placed["position_error"].tolist() == pytest.approx([0.507, 0.507], abs=0.002)
    # in the ramp light of row 1000 fell at most 1000 rows from the register
    for row, last in ((0, 1000), (1, N_TRANSIT)):
        true = sky().to_sky([1234.0, 1234.0], [0, last])
        assert ends(placed.iloc[row]).separation(true).arcsec.max() < 1.0


def test_where_rows_are_not_known_the_segment_is_longer_by_what_a_pointing_may_be_wrong():
    streaks, stars, _ = observed()
    found = identify(streaks.assign(y0=np.nan), stars, wrong_header())
    placed = place_orphans(candidates_of(found.streaks["a"], [5000], 1234.0), found.solved["a"], READOUT)
    one, other = ends(placed.iloc[0])
    margin = 150 / 1.012
    longest = sky().to_sky([1234.0, 1234.0], [-margin, N_TRANSIT + margin])
    assert one.separation(other).arcsec == pytest.approx(longest[0].separation(longest[1]).arcsec, abs=3)
    for y0 in (0, N_TRANSIT - 1):
        place = sky().to_sky(1234.0, y0)
        assert one.separation(place) + place.separation(other) - one.separation(other) < 0.01 * u.arcsec


def test_a_candidate_on_a_blend_has_both():
    streaks, stars, _ = observed()
    found = identify(streaks, stars, wrong_header())
    named = found.streaks["a"].assign(star_flag="blended")
    placed = place_orphans(candidates_of(named, [5000], named["x"][0], 0), found.solved["a"], READOUT)
    assert placed[["ra", "star_name", *SEGMENT_COLUMNS]].notna().all(axis=None)
    assert placed["position_error"][0] < 0.1

"""Positions of candidates in frames that another program wrote, with headers that point wrong."""

from __future__ import annotations

import another_program
import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from typer.testing import CliRunner

from shutterless.workflows.cli import app

QUADRANT, ON_STAR = 3, 7  # both axes of quadrant 3 are flipped
ORPHAN_X, ORPHAN_Y0 = 1503.4, 2200.0


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Steady frame with 40 stars in one quadrant, an event on one and one on none; header off by 90 arcsec, 0.2 deg."""
    folder, rng = tmp_path_factory.mktemp("field"), np.random.default_rng(3)
    x, y0 = np.linspace(30, 3040, 40) + rng.uniform(-20, 20, 40), rng.integers(0, 3080, 40)
    mag = rng.uniform(10, 13.5, 40)
    stars = [
        another_program.Star(QUADRANT, *place, 10 ** (-0.4 * (m - 24.5)) / 300)
        for *place, m in zip(x, y0, mag, strict=True)
    ]
    pulses = [
        another_program.Pulse(QUADRANT, x[ON_STAR], 300.0, 8.0, 6000.0),
        another_program.Pulse(QUADRANT, ORPHAN_X, 400.0, 8.0, 1500.0),
    ]
    wrong = (150.0 + 60 / 3600 / np.cos(np.radians(30)), 30.0 + 67 / 3600, 0.2)
    path = another_program.write_frame(
        folder / "a.fits", first_row=None, n_rows=600, stars=stars, pulses=pulses, pointing=wrong
    )
    true = another_program.pointed_at(150.0, 30.0, 0.0, QUADRANT)
    ra, dec = another_program.sky_of(true, QUADRANT, x, y0)
    catalogue = pd.DataFrame({"source_id": range(40), "ra": ra, "dec": dec, "phot_g_mean_mag": mag})
    orphan = another_program.sky_of(true, QUADRANT, np.array([ORPHAN_X]), np.array([ORPHAN_Y0]))
    return path, catalogue, np.ravel(orphan)


def search(path, catalogue, out, *more):
    catalogue.to_csv(out.with_suffix(".csv"), index=False)
    arguments = ["search", path, "--model", "template-bank", "--out", out, "--catalogue", out.with_suffix(".csv")]
    result = CliRunner().invoke(app, [*map(str, arguments), "--no-dask", *more])
    assert result.exit_code == 0, result.output
    return result, pd.read_parquet(out / "candidates.parquet")


def test_candidates_on_stars_have_their_position_and_orphans_a_segment(field, tmp_path):
    path, catalogue, orphan = field
    result, candidates = search(path, catalogue, tmp_path / "out")
    assert "the catalogue fits 1 amplifiers: " in result.output
    star = candidates[candidates["star_name"] == str(ON_STAR)].iloc[0]
    true = catalogue.loc[ON_STAR]
    assert (star["ra"], star["dec"]) == pytest.approx((true["ra"], true["dec"]), abs=0.1 / 3600)
    assert star["position_error"] < 0.5
    lost = candidates[(candidates["x"] - ORPHAN_X).abs() < 2].iloc[0]
    assert pd.isna(lost["star_name"])
    assert pd.isna(lost["ra"])
    ends = np.array([lost[["segment_ra_1", "segment_dec_1"]], lost[["segment_ra_2", "segment_dec_2"]]], dtype=float)
    plane = np.array([np.cos(np.radians(30)), 1.0]) * 3600
    along, off = (ends[1] - ends[0]) * plane, (orphan - ends[0]) * plane
    assert 0 < along @ off < along @ along
    # a great circle departs from this straight line by up to 2 arcsec
    assert abs(along[0] * off[1] - along[1] * off[0]) / np.hypot(*along) < 3.0
    amplifiers = pd.read_parquet(tmp_path / "out" / "amplifiers.parquet").set_index("quadrant")
    assert amplifiers["sky_matched"].notna().sum() == 1
    assert amplifiers.loc[QUADRANT, "sky_rms_arcsec"] < 0.2
    assert abs(amplifiers.loc[QUADRANT, "pointing_rotation_deg"]) == pytest.approx(0.2, abs=0.02)
    table = Table.read(tmp_path / "out" / "candidates.ecsv")
    assert str(table["ra"].unit) == "deg"


def test_another_field_names_nothing_and_is_said(field, tmp_path):
    path, catalogue, _ = field
    rng = np.random.default_rng(8)
    other = catalogue.assign(ra=rng.permutation(catalogue["ra"]), dec=rng.permutation(catalogue["dec"]))
    result, candidates = search(path, other, tmp_path / "out")
    assert "the catalogue is not used there: the best fit has " in result.output
    assert candidates[["star_name", "ra", "segment_ra_1"]].isna().all(axis=None)


@pytest.mark.slow
def test_a_flash_on_no_star_that_two_turned_cameras_saw_has_its_place(tmp_path):
    """Two CCDs that see one field at once, one turned by 90 degrees; both see their streaks begin."""
    rng, flash_s, place = np.random.default_rng(6), 11.0, (150.2, 30.15)
    ra, dec, mag = rng.uniform(149.4, 150.6, 400), rng.uniform(29.5, 30.5, 400), rng.uniform(10, 13, 400)
    paths = []
    for ccd, turned in enumerate((0.0, 90.0), start=1):
        stars, pulses = [], []
        for quadrant in another_program.RAW_FLIPS:
            wcs = another_program.pointed_at(150.0, 30.0, turned, quadrant)
            x, y0 = another_program.pixel_of(wcs, quadrant, np.append(ra, place[0]), np.append(dec, place[1]))
            inside = (x > 5) & (x < 3066) & (y0 > 0) & (y0 < 3079)
            stars += [
                another_program.Star(quadrant, x[k], round(y0[k]), 10 ** (-0.4 * (mag[k] - 24.5)) / 300)
                for k in np.flatnonzero(inside[:-1])
            ]
            if inside[-1]:
                pulses.append(another_program.Pulse(quadrant, x[-1], y0[-1] + 300 * flash_s, 8.0, 2500.0))
        paths.append(
            another_program.write_frame(
                tmp_path / f"{ccd}.fits", first_row=0, n_rows=6600, stars=stars, pulses=pulses, ccd=ccd, seed=ccd,
                pointing=(150.0, 30.0, turned), sequence=f"CAM{ccd}",
            )
        )  # fmt: skip
    catalogue = pd.DataFrame({"source_id": range(400), "ra": ra, "dec": dec, "phot_g_mean_mag": mag})
    _, candidates = search(paths[0], catalogue, tmp_path / "out", str(paths[1]))
    found = candidates[candidates["point_ra"].notna()]
    assert len(found) == 2
    apart = np.hypot((found["point_ra"] - place[0]) * np.cos(np.radians(30.15)), found["point_dec"] - place[1]) * 3600
    assert (apart < 3 * found["point_error"]).all()
    assert (found["point_error"] < 3).all()
    assert set(found["point_with"]) == set(found["candidate_id"])

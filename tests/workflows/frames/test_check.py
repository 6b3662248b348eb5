"""What `shutterless check` says of good, odd and bad files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from astropy.io import fits
from fake_cubes import write_plain
from typer.testing import CliRunner

from shutterless.workflows import cli

SKY = np.random.default_rng(8).poisson(100, (30, 6, 7)).astype(np.float32)


def check(*arguments):
    return CliRunner().invoke(cli.app, ["check", *map(str, arguments), "--quiet"], catch_exceptions=False)


def test_every_file_is_described(tmp_path, write_frame):
    cube = write_plain(tmp_path / "c.fits", SKY, header={"DATE-OBS": "2026-03-04 05:06:07"})
    frame = write_frame("f.fits")
    undated = write_plain(tmp_path / "u.fits", SKY)
    result = check(cube, frame, undated)
    assert result.exit_code == 0
    first, second, third, note = result.stdout.splitlines()
    assert first == (
        f"{cube}: cube (cube), 30 images of 6 × 7 pixels, one in 2 s, begins at 2026-03-04T05:06:08.000000 UTC"
    )
    assert second.startswith(f"{frame}: frame (ztf), quadrants 1, 2, 3, 4, 20 rows of 3072 pixels, 300 rows/s, begins")
    assert third.endswith("one in 2 s, no UTC")
    assert note.startswith("    no UTC: DATE-OBS is missing")


def test_bad_file_is_a_problem_in_json(tmp_path):
    good, bad = write_plain(tmp_path / "a.fits", SKY), tmp_path / "b.fits"
    bad.write_bytes(good.read_bytes()[:4000])
    result = check(tmp_path, "--json")
    assert result.exit_code == 1
    one, other = json.loads(result.stdout)
    assert (one["taken_for"], one["rows"], one["problems"]) == ("cube", 30, [])
    assert other["taken_for"] == "nothing"
    assert "truncated: HDU 0 needs 5,040 bytes" in other["problems"][0]
    assert f"{bad}: not understood" in check(bad).stdout


def test_single_images_are_one_cube_if_asked(tmp_path):
    for k, image in enumerate(SKY):
        cards = fits.Header([("DATE-OBS", f"2026-03-04T05:06:{k:02d}"), ("EXPTIME", 0.5), ("GAIN", 1.0)])
        fits.PrimaryHDU(image, header=cards).writeto(tmp_path / f"{k:02d}.fits")
    apart = check(tmp_path)
    assert (apart.exit_code, apart.stdout.count("a series of images is searched as one cube with --stack")) == (1, 30)
    first, *notes = check(tmp_path, "--stack").stdout.splitlines()
    assert first.endswith(
        "00_stack.fits: cube (cube), 30 images of 6 × 7 pixels, one in 1 s, begins at 2026-03-04T05:06:00.250000 UTC"
    )
    assert notes[0].strip() == "30 images of 30 files are one cube"
    assert len(list(tmp_path.iterdir())) == 30


def test_findings_of_a_check_stand_in_the_table_of_a_search(tmp_path):
    odd = write_plain(tmp_path / "odd.fits", SKY, header={"CADENCE": None, "EXPTIME": 2.0, "BUNIT": "MJy/sr"})
    (found,) = json.loads(check(odd, "--json").stdout)
    assert len(found["notes"]) == 3  # where the cadence is from, no UTC, the unit
    options = ["--model", "template-bank", "--false-alarms-per-hour", "1", "--no-dask", "--quiet"]
    command = ["search", str(odd), "--out", str(tmp_path / "found"), *options]
    assert CliRunner().invoke(cli.app, command, catch_exceptions=False).exit_code == 0
    (stated,) = pd.read_parquet(tmp_path / "found" / "amplifiers.parquet")["notes"]
    assert [note for note in found["notes"] if note not in stated] == []

"""The report of a search of images of one pixel."""

from __future__ import annotations

import numpy as np
from fake_cubes import write_plain
from typer.testing import CliRunner

from shutterless.pipeline.calibration.streaks.background import sky_level
from shutterless.workflows import cli


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_one_pixel_is_searched_and_reported(tmp_path):
    light = np.random.default_rng(10).poisson(500, (300, 1, 1)).astype(np.float32)
    path = write_plain(tmp_path / "one.fits", light)
    found = call("search", path, "--out", tmp_path / "out", "--model", "template-bank", "--no-dask")
    assert found.exit_code == 0
    assert "images of 1 × 1 pixels are small: every pixel is at the border" in found.output
    assert call("report", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "report.html").is_file()


def test_level_of_one_column_is_its_value():
    assert sky_level(np.array([7.0])) == 7.0

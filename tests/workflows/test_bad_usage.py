"""Mistakes that users make on the command line: each is answered in at most two lines, with exit code 2."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.workflows import cli
from shutterless.workflows.searching import search
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.tracking import tracking

BANK = ("--model", "template-bank", "--no-dask")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the mistakes are made with: a frame's name, a finished search, a model, a store, settings with errors."""
    where = tmp_path_factory.mktemp("home")
    (where / "empty").mkdir()
    (where / "a_file").write_text("text")
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(where / "a.fits")
    (where / "finished").mkdir()
    (where / "finished" / "search.json").write_text("{}")
    (where / "trained").mkdir()
    for name in ("config.json", "training.json"):
        (where / "trained" / name).write_text(json.dumps({"model_type": "other"}))
    (where / "simulated").mkdir()
    for table in ("truth", "stars"):
        pd.DataFrame({"file": ["x.fits"]}).to_parquet(where / "simulated" / f"{table}.parquet")
    (where / "unknown.toml").write_text("[train]\nepoch = 2\n")
    (where / "damaged.toml").write_text("[train\n")
    (where / "camera.toml").write_text('name = "mine"\n[geometry]\nn_colums = 4\n')
    (where / "jobs.toml").write_text("job = 3\n")
    (where / "stars.csv").write_text("x,mag\n1,2\n")
    (where / "page.txt").write_text("<html>")
    return where


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, folder, tmp_path):
    """A tracking store, and a false-alarm curve of the bank, of this test alone."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    installed = tmp_path / "installed"
    write_rates(installed / "template-bank", RateCurve(np.linspace(9, 5, 100), live_hours=10.0), "simulated")
    for module in (search, tracking):
        monkeypatch.setattr(module, "bundled_folder", lambda: installed)


MISTAKES = [
    # names of commands and options
    (["serach", "a.fits"], "No such command 'serach'"),
    (["search", "a.fits", "--modle", "bundled"], "No such option: --modle"),
    (["search"], "Missing argument 'files'"),
    (["ingest", "a.fits"], "Missing option '--out'"),
    (["train"], "Missing argument 'store'"),
    (["promote", "detector"], "Missing argument 'version'"),
    (["simulate", "--rows", "100"], "Missing option '--out'"),
    (["train", "store", "--model", "transfromer"], "'transfromer' is not one of"),
    (["train", "store", "--model"], "requires an argument"),
    (["search", "a.fits", "--workers", "two"], "Invalid value for '--workers'"),
    (["search", "a.fits", "--false-alarms-per-hour", "many"], "Invalid value for '--false-alarms-per-hour'"),
    (["simulate", "--out", "x", "--rows", "1.5"], "Invalid value for '--rows'"),
    (["report", "empty", "more"], "unexpected extra argument"),
    (["describe", "--resume"], "No such option: --resume"),
    # numbers out of range
    (["search", "a.fits", *BANK, "--false-alarms-per-hour", "-1"], "false_alarms_per_hour = -1"),
    (["search", "a.fits", *BANK, "--false-alarms-per-hour", "0"], "false_alarms_per_hour = 0"),
    (["search", "a.fits", "--workers", "0"], "--workers 0: at least one worker is needed"),
    (["search", "a.fits", "--no-dask", "--workers", "2"], "--no-dask runs in one process"),
    (["search", "a.fits", "--scheduler", "tcp://x:1", "--workers", "2"], "leave out --workers"),
    (["simulate", "--out", "x", "--ccds", "99"], "the mosaic has CCDs 1 to 16"),
    (["simulate", "--out", "x", "--ccds", "0"], "greater than or equal to 1"),
    (["simulate", "--out", "x", "--ccds", "1,1"], "a CCD is named twice"),
    (["simulate", "--out", "x", "--ccds", "one"], "expected numbers such as 1,3 or 1-4"),
    (["simulate", "--out", "x", "--rows", "10"], "blocks of 64 rows"),
    (["simulate", "--out", "x", "--rows", "0"], "[rows] = 0"),
    (["simulate", "--out", "x", "--events", "-3"], "[events] = -3"),
    (["simulate", "--out", "x", "--instrument", "zft"], "no built-in instrument profile 'zft'"),
    (["simulate", "--out", "x", "--instrument", "kepler"], "one of image cubes"),
    (["simulate", "--out", "x", "--set", "row_rate=100"], "did you mean 'row_rate_hz'"),
    (["simulate", "--out", "x", "--set", "sky_mag"], "expected"),
    (["simulate", "--out", "x", "--set", "suffix=.fit"], "known are .fits"),
    (["inject", "a.fits", "--out", "x", "--kinds", "flares"], "flare"),
    (["inject", "a.fits", "--out", "x", "--rho", "20"], "expected two numbers such as 5,20"),
    (["inject", "a.fits", "--out", "x", "--rho", "20,5"], "the smallest comes first"),
    (["lightcurve", "a.fits", "--ra", "12.5"], "--ra and --dec belong together"),
    (["lightcurve", "a.fits", "--ra", "x", "--dec", "y", "--barycentric"], "--ra and --dec"),
    # settings
    (["search", "a.fits", "--set", "ROWRATE"], "expected KEY=VALUE"),
    (["search", "a.fits", "--set", "serach.batch_size=2"], "did you mean"),
    (["search", "a.fits", "--set", "search.batch=2"], "did you mean 'batch_size'"),
    (["search", "a.fits", "--set", "search.batch_size=big"], "batch_size"),
    (["search", "a.fits", "--config", "absent.toml"], "absent.toml cannot be read"),
    (["train", "store", "--config", "unknown.toml"], "did you mean 'epochs'"),
    (["train", "store", "--config", "damaged.toml"], "damaged.toml"),
    (["run", "--set", "train.epochs=0"], "epochs = 0"),
    # what is not there, or is something else
    (["search", "a.fits", "--instrument", "mycamera.toml", *BANK], "mycamera.toml does not exist"),
    (["search", "a.fits", "--instrument", "camera.toml", *BANK], "did you mean"),
    (["search", "a.fits", "--instrument", "nosuch", *BANK], "no built-in instrument profile 'nosuch'"),
    (["search", "a.fits", "--catalogue", "absent.csv", *BANK], "absent.csv"),
    (["search", "a.fits", "--catalogue", "stars.csv", *BANK], "stars.csv lacks y"),
    (["search", "a.fits", "--slurm", "jobs.toml", "--dry-run"], "did you mean 'jobs'"),
    (["search", "a.fits", "--model", "absent", "--no-dask"], "no model 'absent'"),
    (["search", "a.fits", "--model", "empty", "--no-dask"], "empty is not a model folder"),
    (["search", "a.fits", *BANK, "--out", "finished"], "already holds a finished search"),
    (["search", "a.fits", *BANK, "--out", "a_file"], "cannot write to output folder a_file"),
    (["watch", "absent", *BANK], "absent is not a folder that could be watched"),
    (["watch", "a_file", *BANK], "a_file is not a folder that could be watched"),
    (["simulate", "--out", "simulated"], "already holds simulated frames (1)"),
    (["train", "store", "--out", "trained"], "already holds a trained model"),
    (["report", "absent"], "no folder absent"),
    (["report", "empty"], "holds nothing to report"),
    (["report", "finished", "--entry", "x"], "is not a store"),
    (["describe", "nosuch"], "no model 'nosuch'"),
    (["describe", "empty"], "empty is not a model folder"),
    (["describe", "--layers", "3"], "3"),
    (["describe", "--layers", "a-b"], "a-b"),
    (["register", "template-bank"], "has no weights and cannot be registered"),
    (["search", "a.fits", *BANK, "--tracking", "localhost:5000"], "begins with http://"),
]


def test_there_are_sixty():
    assert len(MISTAKES) >= 60
    assert len({tuple(arguments) for arguments, _ in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=lambda value: value if isinstance(value, str) else None
)
def test_a_mistake_is_answered_in_two_lines(arguments, message):
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_a_word_alone_shows_the_help():
    result = CliRunner().invoke(cli.app, [])
    assert result.exit_code == 2
    assert "Usage: " in result.output


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch):
    """Only mistakes of users are put into one line; a fault of this program shows where it is."""
    broken = types.SimpleNamespace(write_report=lambda *_: 1 / 0)
    monkeypatch.setitem(sys.modules, "shutterless.workflows.report.report", broken)
    result = CliRunner().invoke(cli.app, ["report", "empty"])
    assert isinstance(result.exception, ZeroDivisionError)

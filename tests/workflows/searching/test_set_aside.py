"""What a search says beside its candidates: the detector it chose, notes on files, loud triggers that it vetoed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from fake_cubes import write_plain

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.results.candidates import empty_candidates
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching import search as search_module
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.searching.set_aside import (
    N_KEPT,
    describe_absurd,
    describe_vetoed,
    loud_vetoed,
    rank_vetoed,
)
from shutterless.workflows.settings.settings import SearchSettings
from shutterless.workflows.tracking import tracking


def test_loud_vetoed_triggers_are_counted_and_the_strongest_listed():
    triggers = pd.DataFrame(
        {
            "snr": [-30.0, 90.0, 9.0, 50.0, 70.0],
            "row_peak": [5, 301, 6, 7, 8],
            "x": [1.0, 4.2, 1.0, 1.0, 2.0],
            "veto": ["edge", "sharp", "sharp", None, "same row"],
        }
    )
    # a detector that judges by context made the last a candidate, in spite of its veto
    loud = loud_vetoed(triggers, np.array([False, False, False, True, True]))
    assert loud["row_peak"].tolist() == [301, 5]
    assert loud_vetoed(triggers.drop(columns="veto"), np.ones(5, dtype=bool)).empty
    (line,) = describe_vetoed(loud.assign(file="c.fits"), {"sharp": 1, "edge": 1})
    assert line == (
        "2 triggers above 10 σ are no candidates and have a veto (sharp 1, edge 1); the strongest: 90 σ at row 301, "
        "x 4 of c.fits (sharp); -30 σ at row 5, x 1 of c.fits (edge)"
    )
    assert describe_vetoed(rank_vetoed(empty_candidates()), {}) == []


def test_the_strongest_vetoed_triggers_of_all_segments_are_kept():
    tables = [pd.DataFrame({"snr": np.linspace(10, top, N_KEPT), "candidate_id": "c"}) for top in (30.0, -60.0)]
    kept = rank_vetoed(pd.concat(tables))
    assert len(kept) == N_KEPT
    assert kept["snr"].iloc[0] == -60
    assert kept["snr"].abs().is_monotonic_decreasing


@pytest.fixture
def bank(monkeypatch, tmp_path):
    """A false-alarm curve of the bank, and a model for frames that would refuse a cube."""
    installed = tmp_path / "installed"
    write_rates(installed / "template-bank", RateCurve(np.linspace(9, 5, 100), live_hours=10.0), "simulated")
    for module in (search_module, tracking):
        monkeypatch.setattr(module, "bundled_folder", lambda: installed)
    monkeypatch.setattr(search_module, "BUNDLED_MODEL", "template-bank")


def test_cube_is_searched_with_the_bank_where_no_model_is_named(tmp_path, bank):
    pixels = np.arange(11)
    light = np.outer(pixel_profile(pixels - 5.1, 0.85), pixel_profile(pixels - 4.9, 0.85))
    brightness = np.full(300, 400.0)
    brightness[150:153] += 3000
    rng = np.random.default_rng(7)
    paths = []
    for night in ("1", "2"):
        (tmp_path / night).mkdir()
        images = rng.poisson(100 + brightness[:, None, None] * light).astype(np.float32)
        paths.append(write_plain(tmp_path / night / "a.fits", images, header={"SEEING": 2.0, "PIXSCALE": 1.0}))
    found = search_files(
        paths, reference=None, out=tmp_path / "out", settings=SearchSettings(), executor=SerialExecutor()
    )
    assert sorted(found.candidates["file"]) == ["1/a.fits", "2/a.fits"]
    assert found.candidates["candidate_id"].str.startswith(("1-a_", "2-a_")).all()
    assert sorted(found.candidates["path"]) == [str(path) for path in paths]
    assert found.candidates["fits_z"].eq(found.candidates["row_peak"] + 1).all()
    assert (found.candidates["row_peak"] - 151).abs().max() <= 1
    assert "no model was named: image cubes are searched with the template-bank, not template-bank" in found.warnings
    assert sum("no UTC" in line for line in found.warnings) == 1
    notes = pd.read_parquet(tmp_path / "out" / "amplifiers.parquet")["notes"]
    assert notes.str.contains("no UTC: DATE-OBS is missing").all()
    record = json.loads((tmp_path / "out" / "search.json").read_text())
    assert list(record["files"]) == ["1/a.fits", "2/a.fits"]


def found(file, quadrant, snr):
    return pd.DataFrame({"file": file, "quadrant": pd.array([quadrant] * len(snr), "Int64"), "snr": snr})


def test_candidates_that_no_sky_has_are_said():
    many = found("many.fits", 1, [8.0] * 250)
    loud = found("cube.fits", None, [-9800.0, 2000, 3000, 1500, 1200, 7])
    flares = found("flares.fits", 2, [5000.0, 900, 30])
    lines = describe_absurd(pd.concat([many, loud, flares], ignore_index=True))
    assert [line.split(";")[0] for line in lines] == [
        "cube.fits: 6 candidates of up to 9,800 σ are more than a sky has",
        "many.fits, quadrant 1: 250 candidates of up to 8 σ are more than a sky has",
    ]
    assert describe_absurd(flares.iloc[:0]) == []

"""Two searches of the same frames set side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from shutterless.models.evaluation.groups import NO_TRIGGER
from shutterless.workflows.cli import app
from shutterless.workflows.comparison.searches import (
    BOTH,
    FIRST,
    NO_PARTS,
    NOT_SEARCHED,
    SECOND,
    SearchesError,
    compare_found,
)
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching.found import NoSearchError
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import SearchSettings

MANY, FEW = 20_000.0, 1e-9  # false alarms per amplifier-hour: thresholds some 5 σ apart


def run(files: list[Path], camera: str, out: Path, rate: float, threshold: float = 5.0) -> Path:
    settings = SearchSettings(false_alarms_per_hour=rate, own_rates=False, trigger_threshold=threshold)
    search_files(
        files, reference="template-bank", out=out, settings=settings, instrument=camera, executor=SerialExecutor()
    )
    return out


@pytest.fixture(scope="module")
def searches(tiny_camera, busy_frames, tmp_path_factory) -> dict[str, Path]:
    """Both files at a high rate, one at a low rate, and both above 12 σ alone."""
    folder = tmp_path_factory.mktemp("searches")
    return {
        "many": run(busy_frames, tiny_camera, folder / "many", MANY),
        "few": run(busy_frames[:1], tiny_camera, folder / "few", FEW),
        "loud": run(busy_frames, tiny_camera, folder / "loud", MANY, threshold=12.0),
    }


@pytest.fixture
def compared(searches, tmp_path) -> pd.DataFrame:
    return compare_found(searches["many"], searches["few"], tmp_path).causes


def test_a_search_finds_all_that_it_finds_again(searches, tmp_path):
    same = compare_found(searches["many"], searches["many"], tmp_path)
    assert set(same.causes["found_by"]) == {BOTH}
    assert (same.causes["candidate_id_first"] == same.causes["candidate_id_second"]).all()
    assert same.text().splitlines()[1] == "only the first (template-bank) found 0"


def test_every_candidate_of_both_is_in_one_cause(searches, compared):
    few = pd.read_parquet(searches["few"] / "candidates.parquet")
    assert compared["candidate_id_second"].notna().sum() <= len(few)
    assert set(compared["candidate_id_second"].dropna()) <= set(few["candidate_id"])
    assert set(compared["found_by"]) == {BOTH, FIRST}


def test_what_only_one_found_has_the_reason_of_the_other(searches, compared, tmp_path):
    missed = compared[compared["found_by"] == FIRST]
    other_file = missed["file"] != pd.read_parquet(searches["few"] / "candidates.parquet")["file"].iloc[0]
    assert (missed.loc[other_file, "why"] == NOT_SEARCHED).all()
    assert other_file.any()
    score = (
        missed.loc[~other_file, "why"].str.extract(r"below the threshold \(score (.+), threshold (.+)\)").astype(float)
    )
    assert len(score) > 0
    assert (score[0] < score[1]).all()
    assert np.allclose(score[0], missed.loc[~other_file, "snr_first"].abs(), atol=0.01)


def test_the_order_of_the_searches_turns_the_table(searches, compared, tmp_path):
    turned = compare_found(searches["few"], searches["many"], tmp_path).causes
    assert turned["candidate_id_second"].tolist() == compared["candidate_id_first"].tolist()
    assert turned["found_by"].replace(SECOND, FIRST).tolist() == compared["found_by"].tolist()


def test_no_trigger_and_parts_that_are_gone(searches, tmp_path):
    causes = compare_found(searches["many"], searches["loud"], tmp_path / "loud").causes
    faint = causes[causes["snr_first"].abs() < 11]
    assert len(faint) > 0
    assert (faint["why"] == NO_TRIGGER).all()
    bare = shutil.copytree(searches["few"], tmp_path / "bare")
    shutil.rmtree(bare / "parts")
    why = compare_found(searches["many"], bare, tmp_path / "out").causes["why"]
    assert set(why) == {"", NOT_SEARCHED, NO_PARTS}


def test_folders_that_cannot_be_compared(searches, tmp_path):
    with pytest.raises(NoSearchError, match=r"nowhere holds no finished search: search.json is missing"):
        compare_found(searches["few"], tmp_path / "nowhere", tmp_path / "out")
    other = shutil.copytree(searches["few"], tmp_path / "other")
    amplifiers = pd.read_parquet(other / "amplifiers.parquet")
    amplifiers.assign(files="another.fits").to_parquet(other / "amplifiers.parquet")
    with pytest.raises(SearchesError, match=r"have no amplifier of a file in common"):
        compare_found(searches["few"], other, tmp_path / "out")


def test_the_command_says_what_differs(searches, tmp_path):
    arguments = ["compare-searches", str(searches["many"]), str(searches["few"]), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "only the first (template-bank) found" in result.output
    assert "not searched: " in result.output
    assert (tmp_path / "searches.parquet").is_file()

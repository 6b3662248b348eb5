"""The command `export`: what it writes by default and on request, and what it refuses."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from shutterless.workflows.cli import app

from .conftest import ORPHAN, STAR


def export(*words):
    return CliRunner().invoke(app, ["export", *map(str, words), "--no-dask"])


def test_tables_and_regions_are_written_beside_the_search(found):
    result = export(found)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"votable: {found}/export/candidates.vot",
        f"regions: 3 files in {found}/export/regions",
        f"csv: {found}/export/candidates.csv",
    ]
    back = pd.read_csv(found / "export" / "candidates.csv")
    stored = pd.read_parquet(found / "candidates.parquet")
    assert list(back) == list(stored)
    assert back["x"].tolist() == stored["x"].tolist()
    assert pd.to_datetime(back["time_read"]).tolist() == stored["time_read"].tolist()


def test_the_page_and_alerts_of_one_candidate(found, tmp_path):
    """Its file is gone, so the alert has no cut-outs."""
    result = export(found, "--format", "finder", "--format", "alerts", "--candidate", ORPHAN, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"finder: {tmp_path / 'out' / 'finder.html'}" in result.stdout
    assert f"alerts: 1 files in {tmp_path / 'out' / 'alerts'}" in result.stdout
    assert [path.name for path in (tmp_path / "out" / "alerts").iterdir()] == [f"{ORPHAN}.avro"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "voevent"), "--format voevent: there are votable, regions, csv, finder, alerts"),
        (("--candidate", "nobody"), "has no candidate 'nobody'; candidates.parquet lists the names"),
        (("--format", "finder", "--catalogue", "gone.csv"), "no catalogue gone.csv; give --catalogue FILE"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(found, words, message):
    result = export(found, *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_a_folder_without_a_search_is_refused(tmp_path):
    result = export(tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path} holds no finished search: search.json is missing" in result.stderr


def test_one_candidate_is_exported_by_its_name(found, tmp_path):
    assert export(found, "--format", "csv", "--candidate", STAR, "--out", tmp_path).exit_code == 0
    assert pd.read_csv(tmp_path / "candidates.csv")["candidate_id"].tolist() == [STAR]

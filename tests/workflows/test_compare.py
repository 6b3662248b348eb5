"""Tracked runs in one table, the best first."""

from __future__ import annotations

import pandas as pd
import pytest

from shutterless.workflows.compare import CompareError, compare_runs
from shutterless.workflows.tracking import TrackingError, track_run

RUNS = {
    "cnn": {"completeness": 0.5, "loss_mag": 0.4},
    "transformer": {"completeness": 0.75, "loss_mag": 0.2},
    "bank": {"completeness": 0.6, "loss_mag": 0.3},
    "broken": {"threshold": 1.0},
}


@pytest.fixture(scope="module")
def uri(tracking):
    for name, metrics in RUNS.items():
        with track_run(tracking, "comparison", name) as run:
            run.log_params({"family": name, "n_parameters": 12345}, prefix="arch.")
            run.log_metrics(metrics)
    return tracking.uri


@pytest.mark.parametrize("metric", ["completeness", "loss_mag"])
def test_best_is_first_whether_more_or_less_is_better_and_what_lacks_it_last(uri, metric, tmp_path):
    shown = compare_runs(tracking_uri=uri, experiment="comparison", metric=metric, out=tmp_path)
    assert list(shown["run"]) == ["transformer", "bank", "cnn", "broken"]
    assert list(shown[metric].iloc[:3]) == [RUNS[name][metric] for name in shown["run"][:3]]
    assert pd.isna(shown[metric].iloc[3])


def test_metric_without_a_column_of_its_own_is_shown(uri, tmp_path):
    shown = compare_runs(tracking_uri=uri, experiment="comparison", metric="threshold", out=tmp_path)
    assert (shown["run"].iloc[0], shown["threshold"].iloc[0]) == ("broken", 1.0)


def test_table_of_everything_and_page_are_written(uri, tmp_path):
    compare_runs(tracking_uri=uri, experiment="comparison", metric="completeness", out=tmp_path / "new")
    table = pd.read_parquet(tmp_path / "new" / "comparison.parquet")
    assert table["metrics.completeness"].tolist()[:3] == [0.75, 0.6, 0.5]
    assert table["params.arch.n_parameters"].tolist() == ["12345"] * 4
    page = (tmp_path / "new" / "comparison.html").read_text(encoding="utf-8")
    places = [page.index(f">{name}<") for name in ("transformer", "bank", "cnn", "broken")]
    assert places == sorted(places)


def test_unknown_metric_names_those_there_are(uri, tmp_path):
    with pytest.raises(CompareError, match=r"logged 'accuracy'; there are \['completeness', 'loss_mag', 'threshold'\]"):
        compare_runs(tracking_uri=uri, experiment="comparison", metric="accuracy", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_experiment_names_those_there_are(uri, tmp_path):
    with pytest.raises(TrackingError, match=r"no experiment 'comparisons' in sqlite.*; there are \[.*'comparison'"):
        compare_runs(tracking_uri=uri, experiment="comparisons", metric="completeness", out=tmp_path)

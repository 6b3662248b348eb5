"""What of an evaluation becomes a metric, and what does not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.workflows.record import record_evaluation
from shutterless.workflows.tracking import fetch_runs, track_run


def test_finite_numbers_of_a_summary_become_metrics_and_nothing_else(tracking):
    summary = {"detector": "cnn", "family": "cnn", "shuffled": False, "extrapolated": True, "n_parameters": 7}
    summary |= {"completeness": 0.5, "n_events": np.int64(4), "rho50": np.nan, "threshold": -np.inf}
    bins = {"rho_low": 6.0, "rho_high": 7.0, "n": 4, "found": 2, "completeness": 0.5, "low": 0.15, "high": 0.85}
    table = pd.DataFrame([{"kind": "all", **bins, "detector": name} for name in ("cnn", "other")])
    with track_run(tracking, "record", "cnn") as run:
        record_evaluation(run, summary, table)
    (logged,) = fetch_runs(tracking, "record").to_dict("records")
    metrics = {name: value for name, value in logged.items() if name.startswith("metrics.")}
    assert metrics == {"metrics.completeness": 0.5, "metrics.n_events": 4.0}

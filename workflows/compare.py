"""Tracked runs side by side: a table in the terminal, as Parquet and as a page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shutterless.pipeline.store import write_parquet
from shutterless.workflows.page import number, page, table
from shutterless.workflows.tracking import fetch_runs, open_tracking

COLUMNS = {
    "name": "run",
    "params.arch.family": "family",
    "params.arch.n_parameters": "parameters",
    "params.data.seed": "seed",
    "metrics.completeness": "completeness",
    "metrics.completeness_low": "low",
    "metrics.completeness_high": "high",
    "metrics.rho50": "rho50",
    "metrics.loss_mag": "loss_mag",
    "metrics.rate_per_hour": "rate_per_hour",
    "metrics.train_seconds": "train_seconds",
    "run_id": "run_id",
}
HIGHER_IS_BETTER = ("completeness", "completeness_low", "completeness_high", "strips_per_second", "auc", "accuracy")


class CompareError(ValueError):
    """A metric that no run has."""


def compare_runs(*, tracking_uri: str, experiment: str, metric: str, out: Path) -> pd.DataFrame:
    """Compare the finished runs of an experiment.

    Parameters
    ----------
    tracking_uri : str
    experiment : str
    metric : str
        Orders the table, best first; runs without it come last.
    out : Path
        Gets ``comparison.parquet`` (everything that was logged) and ``comparison.html``.

    Returns
    -------
    DataFrame
        The columns of `COLUMNS` that any run has.

    Raises
    ------
    CompareError
        If no run logged the metric; the message names those there are.
    """
    runs = fetch_runs(open_tracking(tracking_uri), experiment)
    column = f"metrics.{metric}"
    if column not in runs:
        known = sorted(name.removeprefix("metrics.") for name in runs if name.startswith("metrics."))
        raise CompareError(f"no run of experiment {experiment!r} logged {metric!r}; there are {known}")
    ascending = metric not in HIGHER_IS_BETTER
    runs = runs.sort_values([column, "name"], ascending=[ascending, True], na_position="last", ignore_index=True)
    shown = runs[[name for name in {**COLUMNS, column: metric} if name in runs]].rename(
        columns={**COLUMNS, column: metric}
    )
    out = Path(out)
    write_parquet(runs.astype({"start_time": "string"}), out / "comparison.parquet")
    (out / "comparison.html").write_text(_write_page(shown, experiment, metric), encoding="utf-8")
    return shown


def _write_page(shown: pd.DataFrame, experiment: str, metric: str) -> str:
    rows = [[value if isinstance(value, str) else number(value, "{:.4g}") for value in row] for row in shown.to_numpy()]
    body = table(list(shown.columns), rows)
    return page(f"Runs of experiment {experiment}", f"Ordered by {metric}, best first", [("runs", "Runs", body)])

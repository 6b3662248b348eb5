"""Compare tracked runs: average models over their seeds, list their differences, and choose a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from shutterless.pipeline.files import write_parquet
from shutterless.workflows.comparison.models import (
    CompareError,
    choose_data,
    group_controls,
    group_models,
    is_ascending,
    prepare_runs,
)
from shutterless.workflows.comparison.page import write_page
from shutterless.workflows.comparison.verdict import Verdict, choose_model
from shutterless.workflows.tracking.tracking import fetch_runs, open_tracking

__all__ = ["CompareError", "Comparison", "compare_runs", "filter_of"]

_IN_TERMINAL = 30  # models
_OF_MODEL = ["model", "n_seeds", "mean", "spread"]


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Parameters
    ----------
    runs : DataFrame
        Every run with all that it logged and its model, the best model first.
    models : DataFrame
        One row per model that was judged on the same data, the best first.
    verdict : Verdict
    metric : str
    """

    runs: pd.DataFrame
    models: pd.DataFrame
    verdict: Verdict
    metric: str

    def text(self) -> str:
        """Return the table and the verdict for a terminal."""
        columns = {"model": "model", "n_parameters": "parameters", "n_seeds": "seeds", "mean": self.metric}
        columns |= {"spread": "spread", "metrics.rho50": "rho50", "metrics.train_seconds": "train_seconds"}
        shown = self.models[[name for name in columns if name in self.models]].rename(columns=columns)
        table = shown.head(_IN_TERMINAL).to_string(index=False, na_rep="-", float_format="{:.4g}".format)
        more = [f"… and {len(shown) - _IN_TERMINAL} more"] if len(shown) > _IN_TERMINAL else []
        return "\n".join([table, *more, "", self.verdict.text()])


def compare_runs(
    *,
    tracking_uri: str,
    experiment: str | Sequence[str],
    metric: str,
    out: Path,
    where: str = "",
    tags: Sequence[str] = (),
) -> Comparison:
    """Compare finished runs.

    Parameters
    ----------
    tracking_uri : str
    experiment : str or sequence of str
    metric : str
        Metric by which models are judged. Paired differences exist for completeness only.
    out : Path
        For ``comparison.parquet`` (a row per run: all that it logged, and its model) and ``comparison.html``.
    where : str
        Only these runs, in MLflow's filter syntax.
    tags : sequence of str
        Only runs with all of these, ``KEY=VALUE``.

    Returns
    -------
    Comparison

    Raises
    ------
    CompareError
        If no run matches, none logged the metric (the message names the logged ones), or all are controls.
    """
    tracking = open_tracking(tracking_uri)
    experiments = [experiment] if isinstance(experiment, str) else list(experiment)
    chosen = filter_of(where, tags)
    runs = fetch_runs(tracking, *experiments, where=chosen)
    _check(runs, experiments, chosen, metric)
    prepared = prepare_runs(runs)
    data = choose_data(prepared, metric)
    models = group_models(prepared, metric, data)
    verdict = choose_model(models, group_controls(prepared), metric, tracking)
    listed = _list_runs(prepared, models, metric)
    comparison = Comparison(listed, models, verdict, metric)
    out = Path(out)
    write_parquet(listed.astype({"start_time": "string"}), out / "comparison.parquet")
    title = ", ".join(experiments) + (f" where {chosen}" if chosen else "")
    (out / "comparison.html").write_text(write_page(listed, models, verdict, metric, tracking, title), encoding="utf-8")
    return comparison


def filter_of(where: str, tags: Sequence[str]) -> str:
    """Join a filter and ``KEY=VALUE`` tags to one filter in MLflow's syntax."""
    parts = [where.strip()] if where.strip() else []
    for tag in tags:
        key, equals, value = tag.partition("=")
        if not (key and equals) or "`" in key or "'" in value:
            raise CompareError(f"tag {tag!r} is not KEY=VALUE (without ` and ')")
        parts.append(f"tags.`{key}` = '{value}'")
    return " and ".join(parts)


def _check(runs: pd.DataFrame, experiments: Sequence[str], where: str, metric: str) -> None:
    wanted = f"experiment {experiments[0]!r}" if len(experiments) == 1 else f"experiments {list(experiments)}"
    if runs.empty:
        raise CompareError(f"no finished run of {wanted}" + (f" matches {where}" if where else ""))
    if f"metrics.{metric}" not in runs:
        known = sorted(name.removeprefix("metrics.") for name in runs if name.startswith("metrics."))
        raise CompareError(f"no run of {wanted} logged {metric!r}; there are {known}")


def _list_runs(prepared: pd.DataFrame, models: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every run with its model's numbers, the best run first, runs that are not judged last."""
    named = models.set_index("key")[_OF_MODEL]
    listed = prepared.drop(columns=["twin"]).join(named, on="key")
    column = f"metrics.{metric}"
    listed = listed.sort_values(
        [column, "name"], ascending=[is_ascending(metric), True], na_position="last", ignore_index=True
    )
    judged = listed["run_id"].isin({run_id for ids in models["run_ids"] for run_id in ids})
    return listed.drop(columns=["key"]).assign(judged=judged)

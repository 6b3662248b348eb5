"""Write the page of a comparison: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from shutterless.workflows.comparison.figures import (
    plot_overlaid_losses,
    plot_size,
    pool_completeness,
    pool_reliability,
)
from shutterless.workflows.comparison.models import GROUPS, differing_hyperparameters
from shutterless.workflows.comparison.pairs import Gap
from shutterless.workflows.comparison.verdict import SHOWN, Verdict, format_gap, format_interval, format_value
from shutterless.workflows.pages.drawings import name_below, new_figure, picture
from shutterless.workflows.pages.figures import plot_completeness, plot_reliability
from shutterless.workflows.pages.formats import Columns, number, tabulate, unbroken
from shutterless.workflows.pages.page import page
from shutterless.workflows.pages.parts import Bullets, Heading, Paragraph, Part, Section, Table
from shutterless.workflows.tracking.tracking import Tracking, read_losses, read_table

_DECIDING = 2  # lines of the verdict, at its start
_LISTED = 50  # models and runs listed; the Parquet file has all
_SEEDS = 3  # of a model, drawn
_SIZE = (6.5, 4.4)  # inches, narrow enough to be read on a telephone
_NAMES_BESIDE = 42  # characters of a line of a legend
_GROUP_NAMES = {"arch": "Architecture", "train": "Training"}


def write_page(
    runs: pd.DataFrame, models: pd.DataFrame, verdict: Verdict, metric: str, tracking: Tracking, title: str
) -> str:
    """Return the page.

    Parameters
    ----------
    runs, models : DataFrame
        As `shutterless.workflows.comparison.compare.Comparison` holds them.
    verdict : Verdict
    metric : str
    tracking : Tracking
        Curves are read from there, for drawn models only: one read takes longer than the figures of a
        hundred runs.
    title : str
        The selection of runs in words.
    """
    drawn = _choose_drawn(models, verdict)
    curves = _read_curves(drawn, tracking)
    sections = [
        Section("verdict", "Verdict", [*_write_verdict(verdict), _describe_scope(runs, models, drawn, metric)]),
        Section("models", "Models", _write_models(models, verdict, metric)),
        Section("pairs", "Against the best", _write_pairs(verdict, metric)),
        Section("hyperparameters", "What differs", _write_hyperparameters(drawn)),
        Section("cost", "Size and cost", _write_cost(drawn, metric)),
        Section("learning", "Learning curves", _write_learning(curves["history"], drawn)),
        Section("completeness", "Completeness", _write_completeness(curves["completeness"], drawn)),
        Section("calibration", "Calibration", _write_calibration(curves["reliability"], drawn)),
        Section("runs", "Runs", _write_runs(runs, metric)),
    ]
    subtitle = f"{len(runs)} runs, {len(models)} models, judged by {metric}"
    return page(f"Comparison: {title}", subtitle, sections)


def _choose_drawn(models: pd.DataFrame, verdict: Verdict) -> pd.DataFrame:
    """The best models and the simplest of the verdict."""
    chosen = [*models["model"].iloc[:SHOWN], verdict.simplest]
    return models[models["model"].isin(chosen)].reset_index(drop=True)


def _read_curves(drawn: pd.DataFrame, tracking: Tracking) -> dict[str, dict[str, list[pd.DataFrame]]]:
    """Histories and tables of each drawn model, as lists over its seeds; models without any are left out."""
    found: dict[str, dict[str, list[pd.DataFrame]]] = {"history": {}, "completeness": {}, "reliability": {}}
    for row in drawn.itertuples():
        histories = [read_losses(tracking, run_id) for run_id in row.curve_ids[:_SEEDS]]
        found["history"][row.model] = [history for history in histories if len(history)]
        for name in ("completeness", "reliability"):
            tables = [read_table(tracking, run_id, name) for run_id in row.run_ids[:_SEEDS]]
            found[name][row.model] = [entry for entry in tables if entry is not None]
    return {name: {model: seeds for model, seeds in part.items() if seeds} for name, part in found.items()}


def _write_verdict(verdict: Verdict) -> list[Part]:
    """The two deciding sentences, then their limits and the results of the controls."""
    deciding, rest = verdict.lines[:_DECIDING], verdict.lines[_DECIDING:]
    verdict_part = Paragraph("\n".join(deciding), "verdict")
    return [verdict_part, Bullets(rest)] if rest else [verdict_part]


def _describe_scope(runs: pd.DataFrame, models: pd.DataFrame, drawn: pd.DataFrame, metric: str) -> Paragraph:
    """How many runs were judged, excluded and drawn, and why."""
    judged = runs["judged"].sum()
    known = runs[f"metrics.{metric}"].notna()
    apart = int((known & ~runs["judged"] & ~runs["control"]).sum())
    sentences = [f"{judged} of {len(runs)} runs are judged, one for each model and seed."]
    if apart:
        sentences.append(f"{apart} others were evaluated on other data, or repeat a seed.")
    if lacking := int((~known & ~runs["control"]).sum()):
        sentences.append(f"{lacking} did not log {metric}.")
    if controls := int(runs["control"].sum()):
        sentences.append(
            f"{controls} are controls with shuffled labels, which are not ranked: what they find is chance."
        )
    if len(drawn) < len(models):
        sentences.append(
            f"Curves are drawn, and read from the store, for {len(drawn)} of {len(models)} models: the best {SHOWN}, "
            f"and the simplest that is not worse, {_SEEDS} seeds of each; more could not be told apart in one figure."
        )
    return Paragraph(" ".join(sentences), "note")


def _write_models(models: pd.DataFrame, verdict: Verdict, metric: str) -> list[Part]:
    def interval(row: pd.Series) -> str:
        low, high = (row.get(f"metrics.{metric}_{end}", np.nan) for end in ("low", "high"))
        return unbroken(format_interval(low, high, metric))

    def spread(row: pd.Series) -> str:
        return "–" if pd.isna(row["spread"]) else unbroken(format_gap(row["spread"], np.nan, metric))

    columns: Columns = {
        "Model": "model",
        "Parameters": ("n_parameters", "{:,.0f}"),
        "Seeds": "n_seeds",
        metric: lambda row: format_value(row["mean"], metric),
        "Spread": spread,
        "95 % interval": interval,
        "ρ at 50 %": _logged("rho50"),
        "Loss (mag)": _logged("loss_mag", "{:.2f}"),
        "Calibration error": _logged("calibration_error"),
        "Trained in (s)": _logged("train_seconds", "{:,.0f}"),
        "Strips/s": _logged("strips_per_second", "{:,.0f}"),
        "Verdict": lambda row: unbroken(_judgement(row, verdict)),
    }
    listed = replace(tabulate(models.head(_LISTED), columns, drop_empty=True), sortable=True)
    note = "Means over seeds; the spread is the standard deviation over seeds, the interval the bootstrap of one run."
    more = f" The first {_LISTED} of {len(models)}; all are in comparison.parquet." if len(models) > _LISTED else ""
    return [listed, Paragraph(note + more, "note")]


def _logged(name: str, pattern: str = "{:.3g}") -> Callable[[pd.Series], str]:
    """Return a function that formats a metric; not every run logged it."""
    return lambda row: number(row.get(f"metrics.{name}"), pattern)


def _judgement(row: pd.Series, verdict: Verdict) -> str:
    words = {"best": row["model"] == verdict.best, "take this": row["model"] == verdict.simplest}
    return ", ".join(word for word, holds in words.items() if holds)


def _write_pairs(verdict: Verdict, metric: str) -> list[Part]:
    if not verdict.gaps:
        return [Paragraph("There is one model alone.", "left-out")]

    def within_one_error(gap: Gap) -> str:
        return ("yes" if gap.within_one_error else "no") if np.isfinite(gap.standard_error) else "not known"

    gaps = sorted(verdict.gaps, key=lambda gap: gap.behind)
    sources: dict[str, list[str]] = {}
    for gap in gaps:
        sources.setdefault(gap.how, []).append(gap.model)
    known = " ".join(f"Of {', '.join(models)}: {how}." for how, models in sources.items())
    note = (
        f"The best is {verdict.best}. Differences with their standard errors; paired ones are taken event by event and "
        "bootstrapped over whole sequences, files or amplifiers (Efron & Tibshirani 1993). The rule: of all models not "
        "worse within one standard error take the one with the fewest parameters (Breiman et al. 1984)."
    )
    columns: Columns = {
        "Model": lambda gap: gap.model,
        "Behind the best by": lambda gap: unbroken(format_gap(gap.behind, gap.standard_error, metric)),
        "95 % interval over events": lambda gap: unbroken(format_interval(gap.low, gap.high, metric, " points")),
        "Within one error": lambda gap: unbroken(within_one_error(gap)),
    }
    return [tabulate(gaps, columns), Paragraph(known, "note"), Paragraph(note, "note")]


def _write_hyperparameters(drawn: pd.DataFrame) -> list[Part]:
    parts: list[Part] = []
    for group in GROUPS:
        differing, single = differing_hyperparameters(drawn, group)
        parts.append(Heading(_GROUP_NAMES[group]))
        if differing.empty:
            parts.append(Paragraph("None: what several of these models have, they have alike.", "left-out"))
        else:
            rows = [[name, *(_number_or_text(value) for value in cells)] for name, cells in differing.iterrows()]
            parts.append(Table(["", *differing.columns], rows))
        if single:
            parts.append(Paragraph(f"Of one family alone: {', '.join(single)}.", "note"))
    return parts


def _number_or_text(value: object) -> str:
    """Format a logged hyperparameter; a dash where a model has none."""
    return "–" if value is None or value is pd.NA or value != value else str(value)


def _write_cost(drawn: pd.DataFrame, metric: str) -> list[Part]:
    drawing = new_figure(*_SIZE)
    plot_size(drawn, metric, drawing.add_subplot(), legend=False)
    name_below(drawing, _NAMES_BESIDE)
    caption = "The metric against the number of learned parameters; bars are the spread over seeds."
    columns: Columns = {
        "Model": "model",
        "Parameters": ("n_parameters", "{:,.0f}"),
        "Trained in (s)": _logged("train_seconds", "{:,.0f}"),
        "Strips per second (one thread)": _logged("strips_per_second", "{:,.0f}"),
    }
    listed = tabulate(drawn, columns)
    return [picture(drawing, caption, alt="metric against parameters"), listed]


def _write_learning(histories: Mapping[str, Sequence[pd.DataFrame]], drawn: pd.DataFrame) -> list[Part]:
    if not histories:
        return [Paragraph("None of the drawn models logged a training.", "left-out")]
    drawing = new_figure(_SIZE[0], 1.6 * _SIZE[1])
    upper, lower = drawing.subplots(2, 1, sharex=True)
    plot_overlaid_losses(histories, "train", upper, named=drawn["model"], legend=False)
    plot_overlaid_losses(histories, "validation", lower, named=drawn["model"], legend=False)
    upper.set_xlabel("")
    name_below(drawing, _NAMES_BESIDE)
    caption = "A line for each seed; training rows are measured with dropout and while weights change."
    diagnosed = drawn[drawn["diagnoses"].map(len) > 0]
    rows = [[row["model"], f"{part}"] for _, row in diagnosed.iterrows() for part in _count_same(row["diagnoses"])]
    drawn_curves = picture(drawing, caption, alt="learning curves")
    return [drawn_curves, Table(["Model", "Learning curve"], rows)] if rows else [drawn_curves]


def _count_same(names: Sequence[str]) -> list[str]:
    counts = pd.Series(list(names)).value_counts()
    return [f"{name} ({n} of {len(names)} seeds)" if len(names) > 1 else str(name) for name, n in counts.items()]


def _write_completeness(tables: Mapping[str, Sequence[pd.DataFrame]], drawn: pd.DataFrame) -> list[Part]:
    if not tables:
        return [Paragraph("None of the drawn models logged its completeness.", "left-out")]
    drawing = new_figure(*_SIZE)
    eta = drawn["metrics.eta"].dropna() if "metrics.eta" in drawn else pd.Series(dtype=float)
    optimum = float(eta.iloc[0]) if len(eta) else None
    plot_completeness(pool_completeness(tables), drawing.add_subplot(), eta=optimum, legend=False)
    name_below(drawing, _NAMES_BESIDE)
    known = "" if optimum is not None else " These runs did not log the threshold of the optimum, so it is not drawn."
    return [picture(drawing, f"Means over seeds with 95 % Wilson intervals.{known}", alt="completeness against S/N")]


def _write_calibration(tables: Mapping[str, Sequence[pd.DataFrame]], drawn: pd.DataFrame) -> list[Part]:
    if not tables:
        return [Paragraph("None of the drawn models logged its reliability: evaluate them again.", "left-out")]
    drawing = new_figure(*_SIZE)
    plot_reliability(pool_reliability(tables), drawing.add_subplot(), legend=False)
    name_below(drawing, _NAMES_BESIDE)
    caption = (
        "How often strips of a given probability were events, among all that stage 1 proposed in these frames. A "
        "model calibrated on a mix with more events than these frames hold lies below the diagonal."
    )
    return [picture(drawing, caption, alt="reliability diagram")]


def _write_runs(runs: pd.DataFrame, metric: str) -> list[Part]:
    names = {"name": "Run", "model": "Model", "seed": "Seed", f"metrics.{metric}": metric}
    names |= {"metrics.train_seconds": "Trained in (s)", "tags.learning_curve": "Learning curve"}
    names |= {"experiment": "Experiment", "start_time": "Started (UTC)", "run_id": "Run id"}
    shown = runs.head(_LISTED)[[name for name in names if name in runs]]
    rows = [[_cell(name, value) for name, value in zip(shown, row, strict=True)] for row in shown.to_numpy()]
    more = f"The first {_LISTED} of {len(runs)}. " if len(runs) > _LISTED else ""
    note = f"{more}Everything that was logged is in comparison.parquet."
    return [Table([names[name] for name in shown], rows, sortable=True), Paragraph(note, "note")]


def _cell(name: str, value: object) -> str:
    if name == "start_time":
        return f"{pd.Timestamp(value):%Y-%m-%d %H:%M}"  # type: ignore[arg-type]
    return value if isinstance(value, str) else number(value, "{:.4g}")

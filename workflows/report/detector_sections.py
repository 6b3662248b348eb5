"""Sections of the report on detectors: which is best, what each finds, how each learned, is it calibrated."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shutterless.workflows.pages.figures import (
    plot_comparison,
    plot_completeness,
    plot_learning_curves,
    plot_reliability,
)
from shutterless.workflows.pages.page import between, figure, new_figure, number, paragraph, table
from shutterless.workflows.pages.run_folder import SHUFFLED_SUFFIX, LeftOutError, RunFolder, required

FEWEST_ALARMS = 10  # a rate that rests on fewer false alarms is marked as extrapolated
_ABREAST = 3


def write_comparison(run: RunFolder) -> str:
    """Tabulate and draw every detector at the stated false-alarm rate, and the verdict in words."""
    summary = required(run.table("evaluation/summary.parquet"), "evaluation/summary.parquet")
    verdict = run.text("evaluation/verdict.txt")
    said = paragraph(verdict.strip(), "verdict") if verdict else paragraph("Left out: no verdict.txt.", "left-out")
    optimum = _optimum(run)
    rate = (
        ""
        if optimum is None
        else f" All thresholds aim at {number(optimum['rate_per_hour'])} false alarms per amplifier-hour."
    )
    few = int((summary["false_alarms"] < FEWEST_ALARMS).sum())
    note = (
        "Rates are false alarms per amplifier-hour with their Poisson interval; completeness and ρ50 (the optimal S/N "
        "at which half of the events are found) are given with bootstrap bounds; loss is 2.5 log10(ρ50/η), the "
        "magnitudes a detector loses against the optimum. A detector trained on shuffled labels has nothing to learn "
        f"from: what it finds, the others find without learning.{rate}"
    )
    if few:
        note += f" † marks rates that rest on fewer than {FEWEST_ALARMS} false alarms and are therefore extrapolated."
    drawing = new_figure(8, 0.9 + 0.36 * len(summary))
    plot_comparison(summary, drawing.subplots())
    caption = "Completeness of each detector with its bootstrap bounds. Hollow: trained on shuffled labels."
    return (
        said
        + _summary_table(summary)
        + paragraph(note, "note")
        + figure(drawing, caption, alt="Completeness by detector")
    )


def _summary_table(summary: pd.DataFrame) -> str:
    header = ["detector", "parameters", "threshold", "alarms / hours", "alarms per hour", "events", "completeness"]
    header += ["ρ50", "loss (mag)", "training (s)", "strips/s"]
    rows = []
    for _, row in summary.iterrows():
        mark = " †" if row["false_alarms"] < FEWEST_ALARMS else ""
        rows.append(
            [
                row["detector"],
                number(row["n_parameters"], "{:,.0f}"),
                number(row["threshold"]),
                f"{number(row['false_alarms'], '{:.0f}')} / {number(row['live_hours'])}",
                between(row["rate_per_hour"], row["rate_low"], row["rate_high"], "{:.3g}") + mark,
                number(row["n_events"], "{:,.0f}"),
                between(row["completeness"], row["completeness_low"], row["completeness_high"]),
                between(row["rho50"], row["rho50_low"], row["rho50_high"]),
                number(row["loss_mag"], "{:.2f}"),
                number(row["train_seconds"], "{:,.0f}"),
                number(row["strips_per_second"], "{:,.0f}"),
            ]
        )
    return table(header, rows)


def _optimum(run: RunFolder) -> dict[str, float] | None:
    text = run.text("evaluation/eta.json")
    return None if text is None else json.loads(text)


def write_completeness(run: RunFolder) -> str:
    """Draw completeness against optimal S/N over all counted events."""
    found = required(run.table("evaluation/completeness.parquet"), "evaluation/completeness.parquet")
    optimum = _optimum(run)
    drawing = new_figure(9.6, 4.6)
    eta = None if optimum is None else optimum["eta"]
    plot_completeness(found[found["kind"] == "all"], drawing.subplots(), eta=eta)
    caption = "Fraction of injected events found, by their optimal S/N; points of one bin are set apart sideways."
    if eta is not None:
        caption += (
            " Dashed: what a detector that knows every event's shape would find at the same rate of false alarms."
        )
    return figure(drawing, caption, alt="Completeness against optimal S/N")


def write_kinds(run: RunFolder) -> str:
    """Draw completeness for each kind of event, one panel each."""
    found = required(run.table("evaluation/completeness.parquet"), "evaluation/completeness.parquet")
    kinds = [kind for kind in dict.fromkeys(found["kind"]) if kind != "all"]
    if not kinds:
        raise LeftOutError("evaluation/completeness.parquet has no kind of event apart from 'all'")
    optimum = _optimum(run)
    eta = None if optimum is None else optimum["eta"]
    drawing, panels = _panels(len(kinds))
    for kind, ax in zip(kinds, panels, strict=True):
        ax.set_title(kind)
        plot_completeness(found[found["kind"] == kind], ax, eta=eta, legend=False)
    _shared_legend(drawing, panels)
    caption = "As above, for each kind of event. Kinds with few events have wide bounds."
    return figure(drawing, caption, alt="Completeness by kind of event") + _apart(run)


def _apart(run: RunFolder) -> str:
    """Table of the kinds that are reported apart, nothing where there are none."""
    apart = run.table("evaluation/apart.parquet")
    if apart is None or apart.empty:
        return ""
    rows = [
        [row.detector, row.kind, f"{row.found} of {row.n}", between(row.fraction, row.low, row.high)]
        for row in apart.itertuples()
    ]
    said = (
        "Apart, whatever their ρ: kinds that go on beyond any file and so have no finite optimum, which count for no "
        "completeness; and bursts on stars and on none, which do."
    )
    return paragraph(said, "note") + table(["detector", "kind", "found", "fraction"], rows)


def write_learning(run: RunFolder) -> str:
    """Draw training and validation loss of each model, one panel each."""
    files = sorted((run.path / "models").glob("*/history.parquet"), key=_shuffled_last)
    if not files:
        raise LeftOutError("no models/*/history.parquet in this folder")
    drawing, panels = _panels(len(files))
    for file, ax in zip(files, panels, strict=True):
        ax.set_title(file.parent.name)
        plot_learning_curves(pd.read_parquet(file), ax, legend=False)
    _shared_legend(drawing, panels)
    caption = (
        "Loss per strip while training. A validation loss that rises while the training loss falls is over-fitting."
    )
    return figure(drawing, caption, alt="Learning curves")


def _shuffled_last(file: Path) -> tuple[bool, str]:
    name = file.parent.name
    return name.endswith(SHUFFLED_SUFFIX), name


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    """Figure with n Axes of equal scales, a few abreast, and room for a legend below."""
    across = min(_ABREAST, n)
    down = -(-n // across)
    drawing = new_figure(3.3 * across if across > 1 else 5.5, 2.7 * down + 0.7)
    panels = list(drawing.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for spare in panels[n:]:
        spare.remove()
    return drawing, panels[:n]


def _label_outer(panels: list[Axes]) -> None:
    """Label only the left column, and the lowest panel of each column."""
    for place, ax in enumerate(panels):
        lowest = place + _ABREAST >= len(panels)
        if place % _ABREAST:
            ax.set_ylabel("")
        ax.tick_params(labelbottom=lowest)
        if not lowest:
            ax.set_xlabel("")


def _shared_legend(drawing: Figure, panels: list[Axes]) -> None:
    named: dict[str, Artist] = {}
    for ax in panels:
        handles, labels = ax.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    _label_outer(panels)
    if named:
        drawing.legend(list(named.values()), list(named), loc="outside lower center", ncols=4, frameon=False)


def write_reliability(run: RunFolder) -> str:
    """Draw predicted probabilities against what came true."""
    found = required(run.table("evaluation/reliability.parquet"), "evaluation/reliability.parquet")
    names = list(dict.fromkeys(found.loc[found["n"] > 0, "detector"]))
    if not names:
        raise LeftOutError("evaluation/reliability.parquet has no strips")
    drawing, panels = _panels(len(names))
    for name, ax in zip(names, panels, strict=True):
        ax.set_title(name)
        plot_reliability(found[found["detector"] == name], ax, legend=False)
    _label_outer(panels)
    caption = (
        "Of the strips given a probability, the fraction that held an event, with 95 % Wilson intervals. Points above "
        "the diagonal (dashed): events are likelier than said. Probabilities are calibrated on the mix of the training "
        "examples, half of them events; where events are rarer, as in these frames, fewer doubtful strips hold one."
    )
    return figure(drawing, caption, alt="Reliability diagram")

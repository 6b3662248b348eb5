"""Report on detectors: their ranking, completeness, learning curves and calibration."""

from __future__ import annotations

import json
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shutterless.pipeline.events.kinds import EITHER_KINDS, ENDLESS_KINDS
from shutterless.workflows.pages.drawings import name_below, new_figure, picture
from shutterless.workflows.pages.figures import (
    plot_comparison,
    plot_completeness,
    plot_learning_curves,
    plot_reliability,
)
from shutterless.workflows.pages.formats import Columns, between, number, tabulate
from shutterless.workflows.pages.parts import Paragraph, Part, Table
from shutterless.workflows.pages.run_folder import CONTROLS, LeftOutError, RunFolder, required

FEWEST_ALARMS = 10  # a rate from fewer false alarms is marked as extrapolated
_ABREAST = 3
_NAMES_BESIDE = 80  # characters of a line of a legend


def write_comparison(run: RunFolder) -> list[Part]:
    """Tabulate and draw all detectors at the stated false-alarm rate, and write the verdict."""
    summary = required(_evaluated(run, "summary"), "summary.parquet")
    verdict = run.text("evaluation/verdict.txt", "verdict.txt")
    stated = Paragraph(verdict.strip(), "verdict") if verdict else Paragraph("Left out: no verdict.txt.", "left-out")
    optimum = _optimum(run)
    few = int((summary["false_alarms"] < FEWEST_ALARMS).sum())
    note = (
        "Rates are false alarms per amplifier-hour with their Poisson interval; completeness and ρ50 (the optimal S/N "
        "at which half of the events are found) are given with bootstrap bounds; loss is 2.5 log10(ρ50/η), the "
        "magnitudes a detector loses against the optimum."
    )
    if optimum is not None:
        note += f" All thresholds aim at {number(optimum['rate_per_hour'])} false alarms per amplifier-hour."
    if few:
        note += f" † marks rates that rest on fewer than {FEWEST_ALARMS} false alarms and are therefore extrapolated."
    drawing = new_figure(8, 0.9 + 0.36 * len(summary))
    plot_comparison(summary, drawing.subplots())
    caption = "Completeness of each detector with its bootstrap bounds."
    drawn = picture(drawing, caption, alt="Completeness by detector")
    return [stated, _summary_table(summary), Paragraph(note, "note"), drawn]


def _evaluated(run: RunFolder, name: str) -> pd.DataFrame | None:
    """Table of an evaluation, in its own folder or in that of a run."""
    return run.table(f"evaluation/{name}.parquet", f"{name}.parquet")


def _summary_table(summary: pd.DataFrame) -> Table:
    def rate(row: pd.Series) -> str:
        mark = " †" if row["false_alarms"] < FEWEST_ALARMS else ""
        return between(row["rate_per_hour"], row["rate_low"], row["rate_high"], "{:.3g}") + mark

    columns: Columns = {
        "detector": "detector",
        "parameters": ("n_parameters", "{:,.0f}"),
        "threshold": lambda row: number(row["threshold"]),
        "alarms / hours": lambda row: f"{number(row['false_alarms'], '{:.0f}')} / {number(row['live_hours'])}",
        "alarms per hour": rate,
        "events": ("n_events", "{:,.0f}"),
        "completeness": lambda row: between(*row[["completeness", "completeness_low", "completeness_high"]]),
        "ρ50": lambda row: between(*row[["rho50", "rho50_low", "rho50_high"]]),
        "loss (mag)": ("loss_mag", "{:.2f}"),
        "training (s)": ("train_seconds", "{:,.0f}"),
        "strips/s": ("strips_per_second", "{:,.0f}"),
    }
    return tabulate(summary, columns)


def _optimum(run: RunFolder) -> dict[str, float] | None:
    text = run.text("evaluation/eta.json", "eta.json")
    return None if text is None else json.loads(text)


def write_completeness(run: RunFolder) -> list[Part]:
    """Draw completeness against optimal S/N over all counted events."""
    found = required(_evaluated(run, "completeness"), "completeness.parquet")
    optimum = _optimum(run)
    drawing = new_figure(9.6, 4.6)
    eta = None if optimum is None else optimum["eta"]
    plot_completeness(found[found["kind"] == "all"], drawing.subplots(), eta=eta)
    caption = "Fraction of injected events found, by their optimal S/N; points of one bin are set apart sideways."
    if eta is not None:
        caption += (
            " Dashed: what a detector that knows every event's shape would find at the same rate of false alarms."
        )
    return [picture(drawing, caption, alt="Completeness against optimal S/N")]


def write_kinds(run: RunFolder) -> list[Part]:
    """Draw completeness for each kind of event, one panel each."""
    found = required(_evaluated(run, "completeness"), "completeness.parquet")
    kinds = [kind for kind in dict.fromkeys(found["kind"]) if kind != "all"]
    if not kinds:
        raise LeftOutError("completeness.parquet has no kind of event apart from 'all'")
    optimum = _optimum(run)
    eta = None if optimum is None else optimum["eta"]
    drawing, panels = _panels(len(kinds))
    for kind, ax in zip(kinds, panels, strict=True):
        ax.set_title(kind)
        plot_completeness(found[found["kind"] == kind], ax, eta=eta, legend=False)
    _label_outer(panels)
    name_below(drawing, _NAMES_BESIDE)
    caption = "As above, for each kind of event. Kinds with few events have wide bounds."
    return [picture(drawing, caption, alt="Completeness by kind of event"), *_list_apart(run)]


def _list_apart(run: RunFolder) -> list[Part]:
    """Table of the kinds that are reported apart; nothing without such kinds."""
    apart = _evaluated(run, "apart")
    if apart is None or apart.empty:
        return []
    note = (
        "Apart, whatever their ρ: kinds that go on beyond any file and so have no finite optimum "
        f"({', '.join(ENDLESS_KINDS)}), which count for no completeness; and what stands on a star or on none "
        f"({', '.join(EITHER_KINDS)}), which does."
    )
    columns: Columns = {
        "detector": "detector",
        "kind": "kind",
        "found": lambda row: f"{row['found']} of {row['n']}",
        "fraction": lambda row: between(row["fraction"], row["low"], row["high"]),
    }
    return [Paragraph(note, "note"), tabulate(apart, columns)]


def write_losses(run: RunFolder) -> list[Part]:
    """Tabulate which groups of events each detector finds, and what became of the others."""
    groups = required(_evaluated(run, "groups"), "groups.parquet")
    losses = required(_evaluated(run, "losses"), "losses.parquet")
    detectors = list(dict.fromkeys(groups["detector"]))
    cells = groups.set_index(["group", "detector"])
    columns: Columns = {"events": lambda name: name, "number": lambda name: f"{cells.loc[name, 'n'].iloc[0]:.0f}"}
    for detector in detectors:
        columns[detector] = partial(_write_share, cells, detector)
    listed = tabulate(list(dict.fromkeys(groups["group"])), columns)
    fates = [name for name in losses if name not in ("rho", "detector")]
    lost = tabulate(losses, {"ρ": "rho", "detector": "detector", **{name: (name, "{:.0f}") for name in fates}})
    note = (
        "Above: the fraction of each group of events that a detector finds. Below: what became of the events; gated "
        "ones had triggers, but no score."
    )
    return [listed, lost, Paragraph(note, "note")]


def _write_share(cells: pd.DataFrame, detector: str, group: str) -> str:
    return between(*cells.loc[(group, detector), ["completeness", "low", "high"]])


def write_learning(run: RunFolder) -> list[Part]:
    """Draw training and validation loss of each model, one panel each."""
    files = sorted((run.path / "models").glob("*/history.parquet"))
    if not files:
        raise LeftOutError("no models/*/history.parquet in this folder")
    drawing, panels = _panels(len(files))
    for file, ax in zip(files, panels, strict=True):
        ax.set_title(file.parent.name)
        plot_learning_curves(pd.read_parquet(file), ax, legend=False)
    _label_outer(panels)
    name_below(drawing, _NAMES_BESIDE)
    caption = (
        "Loss per strip while training. A validation loss that rises while the training loss falls is over-fitting."
    )
    return [picture(drawing, caption, alt="Learning curves")]


def write_controls(run: RunFolder) -> list[Part]:
    """Tabulate what true labels taught each model, beside the same model with shuffled ones."""
    found = required(run.table(f"{CONTROLS}/summary.parquet"), f"{CONTROLS}/summary.parquet")

    def percent(value: float, error: float) -> str:
        return f"{number(100 * value, '{:.1f}')} ± {number(100 * error, '{:.1f}')} %"

    columns: Columns = {
        "model": "name",
        "right with true labels": lambda row: percent(row["share"], row["share_error"]),
        "right with shuffled labels": lambda row: percent(row["control_share"], row["control_share_error"]),
        "trained with shuffled labels": ("n_controls", "{} times"),
        "learned from its labels": lambda row: "yes" if row["learned"] else "NO evidence",
    }
    said = (
        "A control is the same model, trained with shuffled labels: it has nothing to learn. Each model is shown an "
        "event and a false trigger of equal S/N and chooses, in proportion to its probabilities, which is the event; "
        "without having learned anything it is right in 50 % of the cases."
    )
    return [Paragraph(said, "note"), tabulate(found, columns)]


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    """Figure with n Axes of equal scales, a few per row, and room for a legend below."""
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


def write_reliability(run: RunFolder) -> list[Part]:
    """Draw the observed fraction of events against the predicted probability."""
    found = required(_evaluated(run, "reliability"), "reliability.parquet")
    names = list(dict.fromkeys(found.loc[found["n"] > 0, "detector"]))
    if not names:
        raise LeftOutError("reliability.parquet has no strips")
    drawing, panels = _panels(len(names))
    for name, ax in zip(names, panels, strict=True):
        ax.set_title(name)
        plot_reliability(found[found["detector"] == name], ax, legend=False)
    _label_outer(panels)
    caption = (
        "Of the strips given a probability, the fraction that held an event, with 95 % Wilson intervals. Points above "
        "the diagonal (dashed): events are likelier than predicted. Probabilities are calibrated on the mix of the "
        "training examples, half of them events; where events are rarer, as in these frames, fewer doubtful strips "
        "hold one."
    )
    return [picture(drawing, caption, alt="Reliability diagram")]

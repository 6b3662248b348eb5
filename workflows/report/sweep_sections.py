"""Report on a sweep of hyperparameters, the folder of `shutterless tune`."""

from __future__ import annotations

import base64
from dataclasses import replace
from functools import partial

import pandas as pd

from shutterless.workflows.pages.formats import Columns, number, tabulate
from shutterless.workflows.pages.parts import Folded, Paragraph, Part, Picture, Preformatted
from shutterless.workflows.pages.run_folder import LeftOutError, RunFolder, required

_HINT = "Filter: cnn, complete, loss < 0.3"
_PREFIXES = ("train.", "arch.")  # of hyperparameters


def write_sweep(run: RunFolder) -> list[Part]:
    """The best completed trial of each family, and how many there were."""
    trials = required(run.table("tune.parquet"), "tune.parquet")
    done = trials[trials["state"] == "complete"].sort_values(["validation_loss", "trial"], kind="stable")
    best = done.drop_duplicates("family")
    counts, seconds = trials["family"].value_counts(), trials.groupby("family")["seconds"].sum()
    columns: Columns = {
        "family": "family",
        "validation loss": ("validation_loss", "{:.4f}"),
        "trial": ("trial", "{:.0f}"),
        "trials": lambda row: str(counts[row["family"]]),
        "parameters": ("n_parameters", "{:,.0f}"),
        "training of all (s)": lambda row: number(seconds[row["family"]], "{:,.0f}"),
        "hyperparameters": _describe_chosen,
    }
    note = (
        "The best of many trials looks better on validation than it is: judge it on held-out frames with `shutterless "
        "evaluate`. The model of each family's best trial lies in the folder of its name."
    )
    parts: list[Part] = [tabulate(best, columns), Paragraph(note, "note")]
    settings = run.text("settings.toml")
    return parts if settings is None else [*parts, Folded("Settings", [Preformatted(settings)])]


def _describe_chosen(trial: pd.Series) -> str:
    chosen = {name.partition(".")[2]: trial[name] for name in trial.index if name.startswith(_PREFIXES)}
    known = {name: value for name, value in chosen.items() if not pd.isna(value)}
    return ", ".join(f"{name} {_value_text(value)}" for name, value in known.items())


def _value_text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw_sweep_figure(run: RunFolder) -> list[Part]:
    """The figure that the sweep drew."""
    file = run.path / "tune.png"
    if not file.is_file():
        raise LeftOutError("no tune.png in this folder")
    data = base64.b64encode(file.read_bytes()).decode()
    caption = (
        "Above: the validation loss of each trial, in their order and against the number of parameters. Below: how "
        "much of the differences each hyperparameter explains, where there are enough trials to tell."
    )
    return [Picture(f"data:image/png;base64,{data}", caption, "Losses of all trials and importance of hyperparameters")]


def write_trials(run: RunFolder) -> list[Part]:
    """Table of all trials, with the hyperparameters that differ."""
    trials = required(run.table("tune.parquet"), "tune.parquet")
    columns: Columns = {
        "family": "family",
        "trial": ("trial", "{:.0f}"),
        "state": "state",
        "validation loss": ("validation_loss", "{:.4f}"),
        "epochs": ("epochs", "{:.0f}"),
        "parameters": ("n_parameters", "{:,.0f}"),
        "time (s)": ("seconds", "{:.0f}"),
        "reason": lambda row: "–" if pd.isna(row["reason"]) else str(row["reason"]),
    }
    for name in trials.columns[trials.columns.str.startswith(_PREFIXES)]:
        columns[name.partition(".")[2]] = partial(_write_value, name)
    return [replace(tabulate(trials, columns, drop_empty=True), sortable=True, hint=_HINT)]


def _write_value(name: str, trial: pd.Series) -> str:
    return "–" if pd.isna(trial[name]) else _value_text(trial[name])

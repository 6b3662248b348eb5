"""Train a forest on a store: label the triggers of every amplifier, grow the trees, count the false alarms."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RateCurve, empty_truth, false_alarm_curve
from shutterless.models.forest.fit import fit_forest
from shutterless.models.forest.settings import ForestSettings
from shutterless.pipeline.events.kinds import EVENT_KINDS
from shutterless.pipeline.examples.labelled_triggers import LabelledTriggers, inject_and_label, label_triggers
from shutterless.pipeline.injection.amplifiers import InjectionSettings
from shutterless.pipeline.store.store import live_hours, manifest_hash, open_amplifier, read_manifest
from shutterless.pipeline.tokens import StripBatch, TokenGrid, concatenate_strips
from shutterless.workflows.comparison.field_tables import place_by_entry
from shutterless.workflows.comparison.unseen import describe_frames
from shutterless.workflows.execution.cluster import Executor, SerialExecutor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching.detect import keep_best_of_trails, write_rates
from shutterless.workflows.tracking.record import TRAINED_ON, TRAINING
from shutterless.workflows.training.train import TrainError, sky_groups


@dataclass(frozen=True)
class _Amplifier:
    store: str
    entry: str
    number: int


def label_store(
    store: str | Path,
    *,
    seed: int,
    truth: pd.DataFrame | None = None,
    grid: TokenGrid | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> LabelledTriggers:
    """Label the triggers of every amplifier of a store.

    Parameters
    ----------
    store : path
    seed : int
        Of the events that are injected.
    truth : DataFrame, optional
        Truth table of the store's frames. Without one the store is taken to be event-free, and events are injected.
    grid : TokenGrid, optional
        Of the strips, if they are wanted.
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    LabelledTriggers
        Their table with ``entry`` and ``field``, the number of the field of stars.

    Raises
    ------
    TrainError
        If the store is empty, or an amplifier cannot be used; the message names it.
    """
    manifest = read_manifest(store)
    if manifest.empty:
        raise TrainError(f"store {store} holds no amplifier; see its failures.parquet")
    fields = dict(zip(manifest["entry"], sky_groups(manifest), strict=True))
    items = [_Amplifier(str(store), entry, number) for number, entry in enumerate(manifest["entry"])]
    work = partial(_label, seed=seed, truth=None if truth is None else place_by_entry(truth, manifest), grid=grid)
    tables: list[pd.DataFrame] = []
    strips: list[StripBatch] = []
    for outcome in (executor or SerialExecutor()).map(work, items, describe="labelling triggers", progress=progress):
        if outcome.value is None:
            raise TrainError(f"no triggers from {store}/{outcome.item.entry}: {outcome.error}")
        tables.append(outcome.value.table.assign(entry=outcome.item.entry, field=fields[outcome.item.entry]))
        if outcome.value.strips is not None:
            strips.append(outcome.value.strips)
    table = pd.concat(tables, ignore_index=True)
    return LabelledTriggers(table, None if grid is None else concatenate_strips(strips))


def _label(item: _Amplifier, *, seed: int, truth: pd.DataFrame | None, grid: TokenGrid | None) -> LabelledTriggers:
    amplifier = open_amplifier(item.store, item.entry)
    if truth is None:
        rng = np.random.default_rng([seed, item.number])
        return inject_and_label(amplifier, rng, InjectionSettings(), grid=grid)
    return label_triggers(amplifier, truth[truth["entry"] == item.entry], grid=grid)


def train_forest(
    store: Path,
    *,
    settings: ForestSettings,
    out: Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a forest on an event-free store: the command ``shutterless train STORE --model forest``.

    Parameters
    ----------
    store : Path
    settings : ForestSettings
    out : Path
        For the forest, its false-alarm curve and `TRAINING`.
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    dict
        The content of `TRAINING`.
    """
    started = time.perf_counter()
    labelled = label_store(store, seed=settings.seed, executor=executor, progress=progress).table
    manifest = read_manifest(store)
    summary = grow_forest(
        labelled, hours_by_entry(manifest), settings, Path(out),
        data_hash=manifest_hash(manifest), trained_on=describe_frames((store, manifest)),
    )  # fmt: skip
    summary["train_seconds"] = time.perf_counter() - started
    (Path(out) / TRAINING).write_text(json.dumps(summary, indent=1))
    return summary


def grow_forest(
    labelled: pd.DataFrame,
    hours: pd.DataFrame,
    settings: ForestSettings,
    out: Path,
    *,
    data_hash: str,
    trained_on: Mapping[str, Any],
) -> dict[str, Any]:
    """Grow a forest from labelled triggers, and write it with the false-alarm curve of the fields held back.

    Parameters
    ----------
    labelled : DataFrame
        Table of `label_store`.
    hours : DataFrame
        From `hours_by_entry`.
    settings : ForestSettings
    out : Path
    data_hash : str
        Of the frames.
    trained_on : mapping
        What identifies the frames (`shutterless.workflows.comparison.unseen.describe_frames`).

    Returns
    -------
    dict
        What the forest was grown from, for `TRAINING`.
    """
    forest, is_held = fit_forest(
        labelled, labelled["kind"].to_numpy(dtype=object), labelled["field"].to_numpy(), settings
    )
    forest.save(out)
    held_back = labelled[is_held]
    score = forest.score(held_back)["event_logit"].to_numpy()
    write_rates(out, count_scores(score, held_back, hours), data_hash)
    grown = describe_growth(labelled, is_held, seed=settings.seed, data_hash=data_hash, trained_on=trained_on)
    return {"name": out.name, "family": "forest", "n_parameters": forest.n_values, **grown}


def describe_growth(
    labelled: pd.DataFrame, is_held: np.ndarray, *, seed: int, data_hash: str, trained_on: Mapping[str, Any]
) -> dict[str, Any]:
    """What a detector that sees context learned from, for `TRAINING`; its name, family and size are added.

    Parameters
    ----------
    labelled : DataFrame
        Table of `label_store`.
    is_held : ndarray of bool, shape (n,)
        Triggers of the fields that were held back.
    seed : int
    data_hash, trained_on
        As `grow_forest`.
    """
    return {
        "shuffled": False,
        "n_triggers": len(labelled),
        "n_event_triggers": int(labelled["kind"].isin(EVENT_KINDS).sum()),
        "n_fields": int(labelled["field"].nunique()),
        "validation_groups": [str(name) for name in np.unique(labelled.loc[is_held, "field"])],
        "manifest_hash": data_hash,
        "seed": seed,
        TRAINED_ON: dict(trained_on),
    }


def count_scores(score: np.ndarray, triggers: pd.DataFrame, hours: pd.DataFrame) -> RateCurve:
    """Highest score of each event, and of each cluster of triggers that match none; a trail counts once.

    Parameters
    ----------
    score : ndarray, shape (n,)
    triggers : DataFrame
        Of `label_store`.
    hours : DataFrame
        From `hours_by_entry`.
    """
    trail = pd.Series(pd.factorize(triggers["entry"].astype(str) + "/" + triggers["trail_id"].astype(str))[0])
    best = keep_best_of_trails(score, trail.where(triggers["trail_id"].notna().to_numpy()))
    scored = np.isfinite(best)
    is_event = np.isin(triggers["kind"].to_numpy(dtype=object), EVENT_KINDS)
    own = hours.loc[triggers["entry"].unique()]
    alarms = false_alarm_curve(
        triggers[scored & ~is_event].reset_index(drop=True), best[scored & ~is_event], empty_truth(),
        float(own["live_hours"].sum()), pixel_rows_per_hour=float(own["pixel_rows_per_hour"].iloc[0]),
    )  # fmt: skip
    events = triggers[scored & is_event].assign(best=best[scored & is_event])
    # two events of an amplifier differ in one of these
    highest = events.groupby(["entry", "onset_row", "rho"])["best"].max()
    return replace(alarms, event_scores=np.sort(highest.to_numpy(dtype=np.float64))[::-1])


def hours_by_entry(manifest: pd.DataFrame) -> pd.DataFrame:
    """``live_hours`` and ``pixel_rows_per_hour`` of every entry of a store."""
    return manifest.assign(live_hours=live_hours(manifest)).set_index("entry")[["live_hours", "pixel_rows_per_hour"]]

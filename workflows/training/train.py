"""Train models on a store: draw examples once, train any family on them, record how it was trained."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.special import expit

from shutterless.models.describe import count_parameters
from shutterless.models.evaluation.forced_choice import ForcedChoice, forced_choice
from shutterless.models.families import build_model, family_of, load_model
from shutterless.models.inputs import DetectorModel
from shutterless.models.pretraining.masked_patches import is_masked_model, load_masked_model, start_from_encoder
from shutterless.models.scoring import calibrate_model, score_strips
from shutterless.models.training.fit import fit_model
from shutterless.models.transformer import TransformerDetector
from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.examples.strips import suitable_grid, suits_stack
from shutterless.pipeline.examples.training import (
    ExampleSettings,
    TrainingSet,
    concatenate_training_sets,
    draw_examples,
)
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.store.store import manifest_hash, open_amplifier, read_manifest
from shutterless.pipeline.tokens import STAGE1_FEATURES, TokenGrid
from shutterless.workflows.comparison.evaluate import count_false_alarms
from shutterless.workflows.comparison.unseen import describe_frames, join_frames, read_trained_on
from shutterless.workflows.execution.cluster import Executor, SerialExecutor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching.detect import Detector, StackView, write_rates
from shutterless.workflows.settings.settings import TrainSettings
from shutterless.workflows.tracking.record import (
    HISTORY,
    STARTED,
    TRAINED_ON,
    TRAINING,
    diagnose_training,
    record_training,
)
from shutterless.workflows.tracking.tracking import Run, Tracking, track_run
from shutterless.workflows.training.follow import follow_training
from shutterless.workflows.training.labelled import (
    SUSPECTS,
    LabelledSet,
    cut_labelled,
    list_suspects,
    mix_labelled,
    vetted_in,
)

TRAIN_EXPERIMENT = "train"
VALIDATION_GROUP = (
    1_000_000  # groups of a separate validation store, or of the last parts of amplifiers, count from here
)
_RAY_SHARE = 0.3  # of the examples without an event


class TrainError(ValueError):
    """A store from which no training set can be drawn, or a model from which training cannot start."""


@dataclass(frozen=True)
class TrainTask:
    """One model to train: its name in tables, and its family."""

    name: str
    family: str


def draw_training_set(
    store: str | Path,
    settings: TrainSettings,
    *,
    validation_store: str | Path | None = None,
    vetted: pd.DataFrame | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> TrainingSet:
    """Draw the examples of a training from an event-free store.

    Parameters
    ----------
    store : path
        Every amplifier in it gives the same number of examples.
    settings : TrainSettings
        ``n_examples`` and ``event_fraction`` set their numbers; ``seed`` fixes them.
    validation_store : path, optional
        A second store, of other stars, for validation; without it a fraction of the fields is set apart.
    vetted : DataFrame, optional
        Candidates with labels of their own (`shutterless.pipeline.results.labels.read_vetted`); at their places none
        is taken for event-free.
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    TrainingSet
        Its groups are fields of stars (`sky_groups`); those of ``validation_store`` count from `VALIDATION_GROUP`.

    Raises
    ------
    TrainError
        If an amplifier cannot be used; the message names it.
    """
    items = _example_items(store, settings, settings.n_examples, 0, apart=validation_store is None)
    if validation_store is not None:
        n_examples = max(int(settings.n_examples * settings.validation_fraction), 1)
        items += _example_items(validation_store, settings, n_examples, VALIDATION_GROUP, apart=False)
    if vetted is not None:
        items = [replace(item, labelled=vetted_in(vetted, read_manifest(item.store), item.entry)) for item in items]
    work = partial(_draw_from_entry, settings=settings)
    parts = []
    for outcome in (executor or SerialExecutor()).map(work, items, describe="drawing examples", progress=progress):
        if outcome.value is None:
            raise TrainError(f"no examples from {outcome.item.store}/{outcome.item.entry}: {outcome.error}")
        parts.append(outcome.value)
    return concatenate_training_sets(parts)


def train_model(
    store: Path,
    *,
    family: str,
    settings: TrainSettings,
    out: Path,
    init: Path | None = None,
    labels: Sequence[Path] = (),
    suspects: bool = False,
    tracking: Tracking | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train one model on a store: the command ``shutterless train``.

    The false alarms in the validation fields are counted, so that a search knows its threshold.

    Parameters
    ----------
    store : Path
        Taken to be event-free.
    family : str
    settings : TrainSettings
    out : Path
        For the model.
    init : Path, optional
        Start from the weights in this folder.
    labels : sequence of Path
        Files of `shutterless vet`, whose candidates are examples, too; they count by their confidence.
    suspects : bool
        Also list the labels that are probably wrong (`shutterless.workflows.training.labelled.list_suspects`).
    tracking : Tracking, optional
        Log the training and the model there, in the experiment `TRAIN_EXPERIMENT`.
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    dict
        As `fit_detector`.
    """
    manifest, out = read_manifest(store), Path(out)
    data_hash = manifest_hash(manifest)

    def learn(run: Run | None) -> dict[str, Any]:
        labelled = _cut_labelled(store, manifest, settings, labels, progress) if labels else None
        training_set = draw_training_set(
            store, settings, vetted=None if labelled is None else labelled.vetted, executor=executor, progress=progress
        )
        frames = describe_frames((store, manifest))
        if labelled is not None:
            mixed = mix_labelled(training_set, labelled, settings)
            training_set = mixed.examples
            frames = join_frames(frames, describe_frames(("the vetted search", labelled.manifest)))
        with follow_training(run, progress, f"training {family}") as callbacks:
            summary = fit_detector(
                TrainTask(family, family), training_set, settings, out, data_hash=data_hash,
                trained_on=frames, init=init, labels="" if labelled is None else labelled.text(), callbacks=callbacks,
            )  # fmt: skip
        if labelled is not None and suspects:
            found = list_suspects(mixed, labelled, family, settings, out)
            if progress is not None:
                progress.write_line(
                    f"{len(found)} of {len(labelled.vetted)} labels are probably wrong: {out / SUSPECTS}"
                )
        rate_model(store, out, settings, summary, executor=executor, progress=progress)
        return summary

    if tracking is None:
        summary = learn(None)
    else:
        remedy = f"if the model is whole in {out}, `shutterless register {out}` logs it later"
        with track_run(tracking, TRAIN_EXPERIMENT, out.name, remedy=remedy, system_metrics=True) as run:
            run.log_dataset(store, manifest, data_hash, "training")
            summary = learn(run)
            record_training(run, out, settings, live=True)
            run.log_model(out)
    if progress is not None:
        diagnosis = diagnose_training(out)
        progress.write_line(f"learning curve: {diagnosis.title}: {diagnosis.evidence}")
    return summary


def rate_model(
    store: str | Path,
    folder: Path,
    settings: TrainSettings,
    summary: Mapping[str, Any],
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> None:
    """Count a trained model's false alarms on the validation fields, and write them beside it.

    Parameters
    ----------
    store : path
        The store of its training.
    folder : Path
        Of the model; a search takes its threshold from the rates in it.
    settings : TrainSettings
    summary : mapping
        As `fit_detector` returned it.
    executor : Executor, optional
    progress : Progress, optional
    """
    store = Path(store)
    manifest = read_manifest(store)
    apart = {item.entry: item.view for item in _example_items(store, settings, 1, 0)
             if item.group in summary["validation_groups"]}  # fmt: skip
    held_back = manifest[manifest["entry"].isin(apart)]
    curve = count_false_alarms(store, held_back, Detector(folder.name, str(folder)), executor, progress, views=apart)
    write_rates(folder, curve, manifest_hash(held_back))


def fit_detector(
    task: TrainTask,
    training_set: TrainingSet,
    settings: TrainSettings,
    folder: Path,
    *,
    data_hash: str = "",
    trained_on: Mapping[str, Any] | None = None,
    init: Path | None = None,
    labels: str = "",
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train a model, judge and calibrate it on the validation strips, and write it with its history.

    Parameters
    ----------
    task : TrainTask
    training_set : TrainingSet
    settings : TrainSettings
    folder : Path
        For the model, `HISTORY` and `TRAINING`.
    data_hash : str
        Of the store's manifest; written with the model.
    trained_on : mapping, optional
        From `shutterless.workflows.comparison.unseen.describe_frames`; written with the model, so that it is never
        judged on the same frames. Those of ``init`` are added.
    init : Path, optional
        Start from the weights in this folder instead of random ones.
    labels : str
        Which labels of people are among the examples, in words; written with the model.
    callbacks : sequence of TrainerCallback
        As `shutterless.models.training.fit.fit_model`.

    Returns
    -------
    dict
        The content of `TRAINING`: family, parameters, seconds, hyperparameters, and the share of right choices on the
        validation strips (`shutterless.models.evaluation.forced_choice`). A control with shuffled labels is not
        calibrated: the sign of its slope would come from true labels.

    Raises
    ------
    TrainError
        If ``init`` is of another family.
    """
    began, started = time.time(), time.perf_counter()
    model = _start_model(task.family, training_set.grid, settings, init)
    held_back = np.unique(training_set.groups[training_set.groups >= VALIDATION_GROUP])
    result = fit_model(
        model,
        training_set,
        settings,
        validation_groups=held_back.tolist() if held_back.size else None,
        callbacks=callbacks,
    )
    index = result.validation_index
    choice = _judge_and_calibrate(result.model, training_set, index, calibrated=not settings.shuffled_labels)
    result.model.save_pretrained(folder)
    write_parquet(result.history, folder / HISTORY)
    summary = {
        "name": task.name,
        "family": task.family,
        "shuffled": settings.shuffled_labels,
        "n_parameters": count_parameters(result.model),
        STARTED: began,
        "train_seconds": time.perf_counter() - started,
        "best_epoch": result.best_epoch,
        "forced_choice": choice.share,
        "forced_choice_error": choice.error,
        "n_strips": len(result.training_index),
        "n_validation_strips": len(index),
        "validation_groups": [int(group) for group in np.unique(training_set.groups[index])],
        "manifest_hash": data_hash,
        TRAINED_ON: join_frames(trained_on or {}, {} if init is None else read_trained_on(init)),
        "seed": settings.seed,
        "init": None if init is None else str(init),
        **({"labels": labels} if labels else {}),
    }
    (folder / TRAINING).write_text(json.dumps(summary, indent=1))
    return summary


def _judge_and_calibrate(
    model: DetectorModel, training_set: TrainingSet, index: np.ndarray, *, calibrated: bool
) -> ForcedChoice:
    """Forced choices of a model on the strips of an index; its probabilities are calibrated on the same strips."""
    strips, is_event = training_set.strips[index], training_set.labels.is_event[index]
    logit = score_strips(model, strips)["event_logit"].to_numpy()
    if calibrated:
        calibrate_model(model, logit, is_event)
    return forced_choice(expit(logit), strips.features[:, STAGE1_FEATURES.index("snr")], is_event)


def _start_model(family: str, grid: TokenGrid, settings: TrainSettings, init: Path | None) -> DetectorModel:
    """A model with random weights, with those of a folder, or with a pretrained encoder and a new head."""
    if init is None:
        return build_model(family, grid, settings.architecture, seed=settings.seed)
    if is_masked_model(init):
        if family != "transformer":
            raise TrainError(f"{init} is the pretrained encoder of a transformer, not of a {family}; train without it")
        fresh = build_model(family, grid, settings.architecture, seed=settings.seed)
        return start_from_encoder(cast(TransformerDetector, fresh), load_masked_model(init), str(init))
    model = load_model(init)
    if family_of(model) != family:
        found = family_of(model)
        raise TrainError(f"{init} is a {found}, not a {family}; train it with --model {found}")
    return model


def choose_grid(amplifier: Amplifier, settings: TrainSettings) -> TokenGrid:
    """Grid of the settings; if that is for stacks of another kind, the default grid of the amplifier's kind."""
    return settings.grid if suits_stack(settings.grid, amplifier) else suitable_grid(amplifier)


@dataclass(frozen=True)
class _ExampleItem:
    store: str
    entry: str
    group: int
    number: int
    examples: ExampleSettings
    view: StackView
    labelled: pd.DataFrame | None = None

    def open(self) -> Amplifier:
        return self.view.open(self.store, self.entry)


def _example_items(
    store: str | Path, settings: TrainSettings, n_examples: int, first_group: int, *, apart: bool = True
) -> list[_ExampleItem]:
    """List the parts of all amplifiers, with rows and number of examples; with ``apart`` keep some for validation."""
    manifest = read_manifest(store)
    if manifest.empty:
        raise TrainError(f"store {store} holds no amplifier; see its failures.parquet")
    groups = sky_groups(manifest)
    by_time = apart and settings.split == "time"
    if apart and not by_time and groups.nunique() < 2:
        raise TrainError(
            f"store {store} holds one field of stars; training needs at least two, one of them for validation: "
            "ingest another quadrant, CCD, sequence or target, or validate on the last part of each with "
            "--set train.split=time"
        )
    items: list[_ExampleItem] = []
    for i, row in enumerate(manifest.itertuples()):
        for part, (rows, share) in enumerate(_parts(row.n_rows, settings.validation_fraction if by_time else 0.0)):
            view = StackView(rows, settings.hide_above)
            group = part * VALIDATION_GROUP + i if by_time else first_group + int(groups.iloc[i])
            examples = _example_counts(share * n_examples / len(manifest), settings.event_fraction)
            items.append(_ExampleItem(str(store), row.entry, group, len(items), examples, view))
    return items


def _parts(n_rows: int, last_share: float) -> list[tuple[tuple[int, int] | None, float]]:
    """Rows and share of the examples of the first and the last part of an amplifier, or of the whole."""
    if not last_share:
        return [(None, 1.0)]
    border = round(n_rows * (1 - last_share))
    return [((0, border), 1 - last_share), ((border, n_rows), last_share)]


def _example_counts(n_examples: float, event_fraction: float) -> ExampleSettings:
    events, others = n_examples * event_fraction, n_examples * (1 - event_fraction)
    return ExampleSettings(
        n_events=max(round(events), 1),
        n_cosmic_rays=max(round(others * _RAY_SHARE), 1),
        n_noise=max(round(others * (1 - _RAY_SHARE)), 1),
    )


def sky_groups(manifest: pd.DataFrame) -> pd.Series:
    """Number the fields of stars: files of one sequence, CCD and quadrant show the same stars and share a number."""
    keys = [manifest[name].astype("string").fillna("") for name in ("sequence", "ccd", "quadrant")]
    field = keys[0].str.cat(keys[1:], sep="/")
    return pd.Series(pd.factorize(field)[0], index=manifest.index)


def _draw_from_entry(item: _ExampleItem, *, settings: TrainSettings) -> TrainingSet:
    rng = np.random.default_rng([settings.seed, item.group, item.number])
    amplifier = item.open()
    labelled = item.labelled
    if labelled is not None and item.view.rows is not None:
        first = item.view.rows[0] - item.view.rows[0] % amplifier.block_rows
        labelled = labelled.assign(**{name: labelled[name] - first for name in ("row_start", "row_stop")})
    return draw_examples(amplifier, choose_grid(amplifier, settings), rng, item.examples, item.group, labelled)


def _cut_labelled(
    store: Path, manifest: pd.DataFrame, settings: TrainSettings, labels: Sequence[Path], progress: Progress | None
) -> LabelledSet:
    """Vetted candidates as examples, in the groups of the other examples of their amplifiers."""
    fields = sky_groups(manifest)

    def group_of(place: int, vetted: pd.DataFrame) -> np.ndarray:
        if settings.split == "field":
            group = int(fields.iloc[place]) if place < len(fields) else int(fields.max()) + 1 + place - len(fields)
            return np.full(len(vetted), group)
        if place >= len(manifest):
            return np.full(len(vetted), place)
        border = round(manifest["n_rows"].iloc[place] * (1 - settings.validation_fraction))
        return place + np.where(vetted["row_start"] >= border, VALIDATION_GROUP, 0)

    grid = choose_grid(open_amplifier(store, manifest["entry"].iloc[0]), settings)
    labelled = cut_labelled(labels, store, grid, group_of)
    if progress is not None:
        for line in (*labelled.notes, labelled.text()):
            progress.write_line(line)
    return labelled

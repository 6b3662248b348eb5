"""Pretrain an encoder on a store: cut strips without labels, hide patches, and learn to fill them in."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.describe import count_parameters
from shutterless.models.pretraining.fit import ALL, PretrainingResult, fit_masked_model
from shutterless.models.pretraining.masked_patches import MaskedPatchModel, build_masked_model
from shutterless.models.pretraining.plots import plot_pretraining
from shutterless.pipeline.files import write_parquet, write_text
from shutterless.pipeline.settings import plain_values
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.pages.drawings import new_figure
from shutterless.workflows.settings.settings import PretrainSettings, TrainSettings
from shutterless.workflows.tracking.record import HISTORY
from shutterless.workflows.tracking.tracking import Run, Tracking, track_run
from shutterless.workflows.training.unlabelled import UnlabelledSet, draw_unlabelled

PRETRAIN_EXPERIMENT = "pretrain"
PRETRAINING = "pretraining.json"
CHECKPOINT = "checkpoint.safetensors"


class PretrainError(ValueError):
    """A folder in which a pretraining can neither start nor resume."""


def pretrain_model(
    store: Path,
    *,
    settings: PretrainSettings,
    train: TrainSettings,
    out: Path,
    resume: bool = False,
    tracking: Tracking | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Pretrain an encoder on a store: the command ``shutterless pretrain``.

    Parameters
    ----------
    store : Path
        Any store; nothing is labelled or injected.
    settings : PretrainSettings
    train : TrainSettings
        Of the transformer, for its grid and architecture.
    out : Path
        For ``config.json``, ``model.safetensors``, `HISTORY`, `PRETRAINING` and, until it is finished, `CHECKPOINT`.
    resume : bool
        Resume after the last epoch of an interrupted run; the result is the same to the bit.
    tracking : Tracking, optional
        Log there, epoch by epoch, in the experiment `PRETRAIN_EXPERIMENT`.
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    dict
        The content of `PRETRAINING`.

    Raises
    ------
    PretrainError
        If the folder holds an unfinished pretraining and ``resume`` is not set, or one with other settings.
    """
    out, started = Path(out), time.perf_counter()
    recipe: dict[str, Any] = {
        "settings": plain_values(settings),
        "grid": plain_values(train.grid),
        "architecture": dict(train.architecture),
        "manifest_hash": manifest_hash(read_manifest(store)),
    }
    finished = _check_folder(out, recipe, resume)
    if finished is not None:
        return finished
    drawn = draw_unlabelled(store, settings, train, executor=executor, progress=progress)
    model = build_masked_model(drawn.grid, train.architecture, settings.masking, seed=settings.seed)
    learn = partial(_learn, model, drawn, settings, out, recipe["manifest_hash"], progress)
    if tracking is None:
        result = learn(None)
    else:
        remedy = "the same command with --resume goes on from the last checkpoint"
        with track_run(tracking, PRETRAIN_EXPERIMENT, out.name, remedy=remedy, system_metrics=True) as run:
            run.log_dataset(store, read_manifest(store), recipe["manifest_hash"], "training")
            _record_start(run, model, settings, recipe["manifest_hash"])
            result = learn(run)
            _record_end(run, result)
    summary = _summary(result, drawn, recipe, time.perf_counter() - started)
    result.model.save(out)
    write_parquet(result.history, out / HISTORY)
    write_text(out / PRETRAINING, json.dumps(summary, indent=1))
    (out / CHECKPOINT).unlink(missing_ok=True)
    return summary


def _check_folder(out: Path, recipe: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """Summary of a finished pretraining; None if there is work left."""
    if not resume:
        if (out / CHECKPOINT).exists():
            raise PretrainError(
                f"{out} holds an unfinished pretraining; go on with --resume, remove {out / CHECKPOINT} to begin anew, "
                "or name another folder with --out"
            )
        return None
    if (out / CHECKPOINT).exists() or not (out / PRETRAINING).is_file():
        return None
    summary = json.loads((out / PRETRAINING).read_text(encoding="utf-8"))
    changed = [name for name in recipe if summary[name] != recipe[name]]
    if changed:
        found, wanted = ({name: values[name] for name in changed} for values in (summary, recipe))
        raise PretrainError(f"{out} was pretrained with {found}, now {wanted}; name another folder with --out")
    return summary


def _learn(
    model: MaskedPatchModel,
    drawn: UnlabelledSet,
    settings: PretrainSettings,
    out: Path,
    data_hash: str,
    progress: Progress | None,
    run: Run | None,
) -> PretrainingResult:
    epochs: list[int] = []

    def record(rows: list[dict[str, Any]]) -> None:
        epochs.append(rows[0]["epoch"])
        whole = next(row for row in rows if row["split"] == "validation" and row["source"] == ALL)
        if progress is not None:
            progress.write_line(
                f"epoch {whole['epoch']}: validation error {whole['ratio']:.4f} of that of predicting 0 "
                f"({whole['seconds']:.0f} s)"
            )
        if run is not None:
            _record_rows(run, rows)

    result = fit_masked_model(
        model, drawn.strips, np.flatnonzero(~drawn.for_validation), np.flatnonzero(drawn.for_validation),
        drawn.sources, settings, checkpoint=out / CHECKPOINT, made_from=data_hash, on_rows=record,
    )  # fmt: skip
    before = result.history[~result.history["epoch"].isin(epochs)]
    if run is not None and len(before):  # epochs of the interrupted run
        _record_rows(run, before.to_dict("records"))
    return result


def _summary(result: PretrainingResult, drawn: UnlabelledSet, recipe: dict[str, Any], seconds: float) -> dict[str, Any]:
    rows = result.history.query("split == 'validation' and epoch == @result.best_epoch")
    return {
        **recipe,
        "n_parameters": count_parameters(result.model),
        "n_strips": int((~drawn.for_validation).sum()),
        "n_validation_strips": int(drawn.for_validation.sum()),
        "n_by_source": {name: int(n) for name, n in pd.Series(drawn.sources).value_counts().sort_index().items()},
        "best_epoch": result.best_epoch,
        "epochs_done": int(result.history["epoch"].max()),
        "stopped_early": result.stopped_early,
        "validation_ratio": dict(zip(rows["source"], rows["ratio"], strict=True)),
        "pretrain_seconds": seconds,
    }


def _record_start(run: Run, model: MaskedPatchModel, settings: PretrainSettings, data_hash: str) -> None:
    run.log_params({"family": "transformer", "n_parameters": count_parameters(model)}, prefix="arch.")
    run.log_params({**model.config.architecture(), "dropout": model.config.dropout, "grid": model.config.grid}, "arch.")
    run.log_params(plain_values(settings), prefix="train.")
    run.log_data(manifest_hash=data_hash, seed=settings.seed)


def _record_rows(run: Run, rows: list[dict[str, Any]]) -> None:
    """Log loss and ratio of each split, and the validation ratio of each source."""
    for row in rows:
        if row["source"] == ALL:
            run.log_metrics({f"{row['split']}.{name}": row[name] for name in ("loss", "ratio")}, row["step"])
        else:
            run.log_metrics({f"validation.ratio.{row['source']}": row["ratio"]}, row["step"])
    run.flush()


def _record_end(run: Run, result: PretrainingResult) -> None:
    run.log_metrics({"best_epoch": result.best_epoch, "pretrain_seconds": float(result.history["seconds"].max())})
    run.log_table(result.history, "history")
    figure = new_figure(8, 4)
    plot_pretraining(result.history, figure.add_subplot())
    run.log_figure(figure, "learning_curve.png")

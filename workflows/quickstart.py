"""Run the whole quickstart: simulate, ingest, train, evaluate, compare, register, search held-out frames, report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.models.evaluation.forced_choice import ForcedChoice, LabelControl, judge_labels
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.examples.training import TrainingSet
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.comparison.compare import compare_runs
from shutterless.workflows.comparison.evaluate import Evaluation, evaluate_detectors, measure_throughput
from shutterless.workflows.comparison.unseen import describe_frames
from shutterless.workflows.execution.cluster import Executor, open_executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import FAILURES, ingest_files, prepare_folder
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.pages.run_folder import CONTROLS
from shutterless.workflows.registry.register import register_version
from shutterless.workflows.report.report import write_report
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import FAMILY_NAMES, Settings, TrainSettings, resolved_toml
from shutterless.workflows.tracking.record import read_training, record_evaluation, record_training, training_span
from shutterless.workflows.tracking.server import hide_password
from shutterless.workflows.tracking.tracking import (
    TEMPLATE_BANK,
    Run,
    Tracking,
    default_tracking_uri,
    open_tracking,
    track_run,
)
from shutterless.workflows.training.train import TrainTask, draw_training_set, fit_detector

QUICKSTART_EXPERIMENT = "quickstart"
REGISTERED_NAME = "shutterless"
ALIAS = "champion"
BUNDLED_DETECTOR = "bundled"  # stands beside the models that are trained here; it learned from other frames
HELD_OUT = "held_out"
HELD_OUT_SCENES = ("event_free", "with_events")
N_CONTROLS = 3  # trainings of a family with shuffled labels; they share its epochs, and so take as long as it does


class QuickstartError(ValueError):
    """A step of the quickstart without a result for the next."""


@dataclass(frozen=True)
class _Training:
    """One model to train, with its own settings and folder."""

    task: TrainTask
    settings: TrainSettings
    folder: Path


def run_quickstart(
    settings: Settings,
    out: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    no_dask: bool = False,
    progress: Progress,
) -> Path:
    """Run all steps and write their results to one folder.

    Parameters
    ----------
    settings : Settings
    out : Path
        Results of an earlier run in it are removed.
    workers, scheduler, no_dask
        As `shutterless.workflows.execution.cluster.open_executor`.
    progress : Progress

    Returns
    -------
    Path
        The report.
    """
    if not default_tracking_uri(out).startswith("sqlite:"):
        open_tracking(out)  # a missing server is found now, not after the training
    out = _empty_folder(Path(out))
    (out / "settings.toml").write_text(resolved_toml(settings), encoding="utf-8")
    seconds: dict[str, float] = {}
    with open_executor(workers, scheduler, no_dask, announce=progress.write_line) as executor:
        with _timed("simulate", seconds, progress):
            frames = _simulate(settings, out, executor, progress)
        with _timed("ingest", seconds, progress):
            _ingest(settings, out, frames, executor, progress)
        with _timed("train", seconds, progress):
            data_hash = _train(settings, out, executor, progress)
            controls = _judge_controls(settings, out)
        with _timed("evaluate", seconds, progress):
            evaluation = _evaluate(settings, out, executor, progress)
        with _timed("track and register", seconds, progress):
            tracking, best = _track(settings, out, evaluation, data_hash)
            _track_controls(settings, out, tracking)
            compare_runs(
                tracking_uri=tracking.uri,
                experiment=QUICKSTART_EXPERIMENT,
                metric="completeness",
                out=out / "comparison",
            )
        with _timed("search", seconds, progress):
            _search(settings, out, frames["with_events"], best, executor, progress)
    (out / "timings.json").write_text(json.dumps(seconds, indent=1))
    report = write_report(out)
    _print_results(progress, out, [evaluation.text(), *(control.text() for control in controls)], best, report)
    return report


def _empty_folder(out: Path) -> Path:
    """Make the output folder, or remove the results of an earlier run from it; other files stay."""
    if out.exists() and any(out.iterdir()):
        if not (out / "settings.toml").is_file():
            raise QuickstartError(
                f"{out} is not empty and was not made by `shutterless run`; choose another with --out"
            )
        shutil.rmtree(out)
    return prepare_folder(out)


@contextmanager
def _timed(step: str, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - started, 1)
    progress.write_line(f"{step}: {seconds[step]:.0f} s")


def _simulate(settings: Settings, out: Path, executor: Executor, progress: Progress) -> dict[str, list[Path]]:
    frames = {}
    for name, scene in settings.simulate.scenes().items():
        result = simulate_scene(scene, out / "frames" / name, executor=executor, progress=progress)
        if result.failures:
            raise QuickstartError(f"simulating {name} failed: {result.failures[0]}")
        frames[name] = list(result.files)
    return frames


def _ingest(
    settings: Settings, out: Path, frames: dict[str, list[Path]], executor: Executor, progress: Progress
) -> None:
    """Ingest three stores; the two held-out scenes share one. Failures are kept for the report."""
    stores = {"training": frames["training"], "validation": frames["validation"]}
    stores[HELD_OUT] = [path for scene in HELD_OUT_SCENES for path in frames[scene]]
    failures = []
    for name, files in stores.items():
        result = ingest_files(
            files,
            out / "store" / name,
            instrument=settings.ingest.instrument,
            supplied=settings.ingest.header,
            executor=executor,
            progress=progress,
        )
        failures.append(result.failures)
    write_parquet(pd.concat(failures, ignore_index=True), out / FAILURES)


def _train(settings: Settings, out: Path, executor: Executor, progress: Progress) -> str:
    """Train every family with true labels and several times with shuffled ones; return the hash of the data."""
    training, validation = out / "store" / "training", out / "store" / "validation"
    examples = draw_training_set(
        training, settings.train, validation_store=validation, executor=executor, progress=progress
    )
    path = out / "training_set.npz"
    examples.save(path)
    manifests = [(store, read_manifest(store)) for store in (training, validation)]
    data_hash = "+".join(manifest_hash(manifest) for _, manifest in manifests)
    work = partial(_fit, examples=path, data_hash=data_hash, trained_on=describe_frames(*manifests))
    trainings = [*_plan_models(settings, out), *_plan_controls(settings, out)]
    for outcome in executor.map(work, trainings, describe="training models", progress=progress):
        if outcome.value is None:
            raise QuickstartError(f"training {outcome.item.task.name} failed: {outcome.error}")
    return data_hash


def _plan_models(settings: Settings, out: Path) -> list[_Training]:
    return [
        _Training(TrainTask(family, family), settings.train_for(family), out / "models" / family)
        for family in FAMILY_NAMES
    ]


def _plan_controls(settings: Settings, out: Path) -> list[_Training]:
    """The same with shuffled labels, each with a seed of its own."""
    plans = []
    for family in FAMILY_NAMES:
        own = settings.train_for(family)
        for number in range(N_CONTROLS):
            name = f"{family}-shuffled-{number + 1}"
            fewer = max(own.epochs // N_CONTROLS, 1)
            control = replace(own, seed=own.seed + number, epochs=fewer, shuffled_labels=True)
            plans.append(_Training(TrainTask(name, family), control, out / CONTROLS / name))
    return plans


def _fit(training: _Training, *, examples: Path, data_hash: str, trained_on: Mapping[str, Any]) -> dict[str, Any]:
    training_set = TrainingSet.load(examples)
    return fit_detector(
        training.task, training_set, training.settings, training.folder, data_hash=data_hash, trained_on=trained_on
    )


def _judge_controls(settings: Settings, out: Path) -> list[LabelControl]:
    """What its labels taught each family, also written as a table."""
    controls = [(plan.task.family, read_training(plan.folder)[0]) for plan in _plan_controls(settings, out)]
    judged = []
    for plan in _plan_models(settings, out):
        own, family = read_training(plan.folder)[0], plan.task.family
        shares = [known["forced_choice"] for name, known in controls if name == family]
        judged.append(judge_labels(family, ForcedChoice(own["forced_choice"], own["forced_choice_error"]), shares))
    write_parquet(pd.DataFrame([asdict(control) for control in judged]), out / CONTROLS / "summary.parquet")
    return judged


def _evaluate(settings: Settings, out: Path, executor: Executor, progress: Progress) -> Evaluation:
    truth = pd.concat([pd.read_parquet(out / "frames" / scene / "truth.parquet") for scene in HELD_OUT_SCENES])
    path = out / "evaluation" / "truth.parquet"
    write_parquet(truth.reset_index(drop=True), path)
    folders = [plan.folder for plan in _plan_models(settings, out)]
    references = [TEMPLATE_BANK, BUNDLED_DETECTOR, *map(str, folders)]
    store = out / "store" / HELD_OUT
    evaluation = evaluate_detectors(
        store,
        references=references,
        truth=path,
        out=out / "evaluation",
        settings=settings.evaluate,
        executor=executor,
        progress=progress,
    )
    entry = read_manifest(store)["entry"].iloc[0]
    speeds = {folder.name: measure_throughput(str(folder), store, entry) for folder in folders}
    evaluation.summary["strips_per_second"] = evaluation.summary["detector"].map(speeds)
    write_parquet(evaluation.summary, out / "evaluation" / "summary.parquet")
    return evaluation


def _track(settings: Settings, out: Path, evaluation: Evaluation, data_hash: str) -> tuple[Tracking, Path]:
    """Log one run per detector and register the best learned one; return the store and the best model's folder."""
    tracking = open_tracking(out)
    runs = {}
    trained = ~evaluation.summary["detector"].isin([TEMPLATE_BANK, BUNDLED_DETECTOR])
    for row, is_trained in zip(evaluation.summary.to_dict("records"), trained, strict=True):
        folder = out / "models" / row["detector"] if is_trained else None
        span = None if folder is None else training_span(folder)
        with track_run(tracking, QUICKSTART_EXPERIMENT, row["detector"], {"shuffled": "false"}, span=span) as run:
            _log_datasets(run, out, trained=folder is not None)
            if folder is not None:
                record_training(run, folder, settings.train_for(row["family"]))
            else:
                run.log_params({"family": row["family"], "n_parameters": row["n_parameters"]}, prefix="arch.")
                run.log_data(manifest_hash=data_hash, seed=settings.train.seed)
            record_evaluation(
                run, row, evaluation.completeness, events=evaluation.events, reliability=evaluation.reliability,
                eta=evaluation.eta, data_hash=evaluation.data_hash,
            )  # fmt: skip
            if folder is not None:
                run.log_model(folder)
        runs[row["detector"]] = run.run_id
    learned = evaluation.summary[trained]
    best = learned.sort_values("completeness", ascending=False, kind="stable")["detector"].iloc[0]
    register_version(
        tracking, runs[best], REGISTERED_NAME, ALIAS, evaluation=out / "evaluation",
        trained_on="simulated frames only", reason="best of a quickstart", ungated=True,
    )  # fmt: skip
    (out / "best.txt").write_text(best + "\n")
    return tracking, out / "models" / best


def _log_datasets(run: Run, out: Path, *, trained: bool) -> None:
    """Log the stores that a detector learned from and was judged on."""
    contexts = {HELD_OUT: "evaluation", **({"training": "training", "validation": "validation"} if trained else {})}
    for name, context in contexts.items():
        store = out / "store" / name
        manifest = read_manifest(store)
        run.log_dataset(store, manifest, manifest_hash(manifest), context)


def _track_controls(settings: Settings, out: Path, tracking: Tracking) -> None:
    """Log how each control was trained, but no model: nobody is to register one."""
    for plan in _plan_controls(settings, out):
        span = training_span(plan.folder)
        with track_run(tracking, QUICKSTART_EXPERIMENT, plan.task.name, {"shuffled": "true"}, span=span) as run:
            record_training(run, plan.folder, plan.settings)


def _search(
    settings: Settings, out: Path, files: list[Path], best: Path, executor: Executor, progress: Progress
) -> None:
    """Search the held-out frames with events as a user would, and match the candidates with injected events."""
    folder = out / "search"
    result = search_files(
        files,
        reference=str(best),
        out=folder,
        settings=replace(settings.search, own_rates=False),  # a thousand events an hour would pass for noise
        instrument=settings.ingest.instrument,
        supplied=settings.ingest.header,
        executor=executor,
        progress=progress,
    )
    truth = pd.read_parquet(out / "frames" / "with_events" / "truth.parquet")
    write_parquet(_match_candidates(result.candidates, truth), folder / "matches.parquet")


def _match_candidates(candidates: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Injected event of each candidate: ``candidate_id, event_id, kind, rho``."""
    events = truth[truth["is_event"].astype(bool)]
    found = []
    for (file, ccd, quadrant), part in candidates.groupby(["file", "ccd", "quadrant"], sort=False):
        own = events[(events["file"] == file) & (events["ccd"] == ccd) & (events["quadrant"] == quadrant)]
        widths = part["row_stop"] - part["row_start"] + 1
        matched = match_truth(part.assign(width_rows=widths), own)
        rows = own.iloc[matched[matched >= 0]][["event_id", "kind", "rho"]].reset_index(drop=True)
        found.append(rows.assign(candidate_id=part["candidate_id"].to_numpy()[matched >= 0]))
    columns = ["candidate_id", "event_id", "kind", "rho"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _print_results(progress: Progress, out: Path, results: list[str], best: Path, report: Path) -> None:
    for result in results:
        progress.write_line(result)
    for what, path in {
        "frames": out / "frames",
        "stores": out / "store",
        "models": out / "models",
        "evaluation": out / "evaluation" / "summary.parquet",
        "comparison": out / "comparison" / "comparison.parquet",
        "candidates": out / "search" / "candidates.parquet",
        "best model": best,
        "tracking": hide_password(default_tracking_uri(out)),
        "registered as": f"models:/{REGISTERED_NAME}@{ALIAS}",
        "report": report,
    }.items():
        progress.write_line(f"{what}: {path}")

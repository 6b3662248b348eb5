"""Evaluate detectors on the same held-out frames at the same rate of false alarms."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.evaluation.groups import FATES, FOUND, group_table, loss_table, mark_blends
from shutterless.models.evaluation.metrics import (
    MIN_COUNTED_ALARMS,
    RateCurve,
    apart_table,
    bootstrap_events,
    completeness_table,
    empty_truth,
    event_scores,
    false_alarm_curve,
    list_alarms,
    match_entries,
    operating_point,
    optimum_threshold,
    summarise,
)
from shutterless.models.evaluation.platt import reliability_table
from shutterless.models.families import load_model
from shutterless.models.scoring import score_strips
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.events.kinds import UNCOUNTED_KINDS
from shutterless.pipeline.examples.strips import cut_strips
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR
from shutterless.pipeline.simulation.truth import read_stars, read_truth
from shutterless.pipeline.store.store import live_hours, manifest_hash, open_amplifier, read_manifest
from shutterless.workflows.comparison.counted_events import hash_events, list_alarm_rows, list_events
from shutterless.workflows.comparison.field_tables import place_by_entry
from shutterless.workflows.comparison.unseen import check_not_trained_on
from shutterless.workflows.comparison.verdict import judge_evaluation
from shutterless.workflows.execution.cluster import Executor, SerialExecutor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching.detect import Detector, DetectTask, StackView, detect, load_once, write_rates
from shutterless.workflows.settings.settings import EvaluateSettings
from shutterless.workflows.tracking.record import TRAINING, record_evaluation, record_model
from shutterless.workflows.tracking.tracking import TEMPLATE_BANK, Tracking, resolve_model, track_run

EVALUATE_EXPERIMENT = "evaluate"
ALARMS = "alarms.parquet"


class EvaluateError(ValueError):
    """A store and truth table that cannot be evaluated together."""


@dataclass(frozen=True)
class Evaluation:
    """Tables of an evaluation as in its files: per detector, by ρ, by kind, by probability, by event, and the verdict.

    ``groups`` and ``losses`` say which events each detector found and what became of the others
    (`shutterless.models.evaluation.groups`).
    ``eta`` is the threshold of the optimum at the same rate of false alarms. ``data_hash`` is the hash of the store and
    the counted events; two evaluations with the same hash are paired event by event.
    """

    summary: pd.DataFrame
    completeness: pd.DataFrame
    apart: pd.DataFrame
    reliability: pd.DataFrame
    events: pd.DataFrame
    groups: pd.DataFrame
    losses: pd.DataFrame
    verdict: str
    eta: float
    data_hash: str

    def text(self) -> str:
        """Return the table and the verdict for a terminal."""
        columns = ["detector", "n_parameters", "false_alarms", "rate_per_hour", "n_events", "completeness"]
        columns += ["completeness_low", "completeness_high", "rho50", "loss_mag"]
        table = self.summary[columns].to_string(index=False, na_rep="-", float_format="{:.3f}".format)
        apart = [
            f"{row.detector}: {row.kind} {row.found} of {row.n} found ({100 * row.low:.0f} to {100 * row.high:.0f} %)"
            for row in self.apart.itertuples()
        ]
        return "\n".join([table, self.verdict, *apart, *_loss_lines(self.losses), _short_groups(self.groups)])


def evaluate_detectors(
    store: Path,
    *,
    references: Sequence[str],
    truth: Path,
    out: Path,
    settings: EvaluateSettings,
    tracking: Tracking | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    allow_seen: bool = False,
) -> Evaluation:
    """Evaluate detectors on a store with a truth table and write the tables.

    Parameters
    ----------
    store : Path
        Frames that no detector was trained on.
    references : sequence of str
        Models as for the commands; the last part of a folder's path is the detector's name.
    truth : Path
        ``truth.parquet`` of the frames; a ``stars.parquet`` beside it tells which events are on blended stars.
    out : Path
        For ``summary``, ``completeness``, ``apart``, ``reliability``, ``events`` (a row for each detector and counted
        event), ``alarms`` (every false alarm), ``groups``, ``losses`` and ``detections`` (Parquet), ``eta.json``,
        ``verdict.txt``.
    settings : EvaluateSettings
    tracking : Tracking, optional
        Log one run per detector there, in the experiment `EVALUATE_EXPERIMENT`.
    executor : Executor, optional
    progress : Progress, optional
    allow_seen : bool
        Also judge models on frames that they were trained on, for a caller that says so itself.

    Returns
    -------
    Evaluation

    Raises
    ------
    EvaluateError
        If store and truth table do not belong together, or two detectors have the same name.
    SeenError
        If a model was trained on a part of the store.

    Notes
    -----
    False alarms are counted on the amplifiers without events if there are any, otherwise on all. The operating
    point is the lowest rate with at least `MIN_COUNTED_ALARMS` counted alarms. It is the same for every detector.
    Each model's false-alarm curve is written beside its weights, from which a search takes its threshold. Curves of
    models outside the user's folders (bundled, registered) are written to ``out``.
    """
    manifest = read_manifest(store)
    detectors = name_detectors(references)
    for detector in detectors if not allow_seen else ():
        if detector.folder is not None:
            check_not_trained_on(detector.folder, manifest, store)
    stars = Path(truth).with_name("stars.parquet")
    held_out = _open_truth(read_truth(truth), manifest, read_stars(stars) if stars.is_file() else None)
    detections = collect_detections(store, manifest, detectors, executor, progress)
    results = [_judge(detector, detections, held_out, settings) for detector in detectors]
    for reference, result in zip(references, results, strict=True):
        write_rates(_rates_folder(reference, result.detector, out), result.curve, manifest_hash(manifest))
    summary = pd.DataFrame([result.summary for result in results])
    found = {result.detector.name: result.found for result in results}
    events = list_events({result.detector.name: result.events for result in results}, found, manifest)
    evaluation = Evaluation(
        summary=summary,
        completeness=pd.concat([result.completeness for result in results], ignore_index=True),
        apart=pd.concat([result.apart for result in results], ignore_index=True),
        reliability=_concatenate([result.reliability for result in results if result.reliability is not None]),
        events=events,
        groups=pd.concat([result.groups for result in results], ignore_index=True),
        losses=pd.concat([result.losses for result in results], ignore_index=True),
        verdict=judge_evaluation(summary, events),
        eta=held_out.eta,
        data_hash=hash_events(manifest, events),
    )
    alarms = [list_alarm_rows(result.detector.name, result.alarms, manifest) for result in results]
    write_parquet(pd.concat(alarms, ignore_index=True), Path(out) / ALARMS)
    about = {name: getattr(held_out, name) for name in ("eta", "rate_per_hour", "pixel_rows_per_hour")}
    _write(evaluation, detections, Path(out), about)
    if tracking is not None:
        _track(evaluation, detectors, store, manifest, settings, tracking, Path(out))
    return evaluation


def _track(
    evaluation: Evaluation,
    detectors: Sequence[Detector],
    store: Path,
    manifest: pd.DataFrame,
    settings: EvaluateSettings,
    tracking: Tracking,
    out: Path,
) -> None:
    """Log one run per detector: its description, its evaluation, and its speed."""
    remedy = f"the tables are whole in {out}; evaluate again once the store answers"
    for detector, row in zip(detectors, evaluation.summary.to_dict("records"), strict=True):
        tags = {"store": str(store), "shuffled": str(row["shuffled"]).lower()}
        with track_run(tracking, EVALUATE_EXPERIMENT, detector.name, tags, remedy=remedy) as run:
            run.log_data(manifest_hash=manifest_hash(manifest), seed=settings.seed)
            run.log_dataset(store, manifest, manifest_hash(manifest), "evaluation")
            record_model(run, row, detector.folder)
            record_evaluation(
                run, row, evaluation.completeness, events=evaluation.events, reliability=evaluation.reliability,
                eta=evaluation.eta, data_hash=evaluation.data_hash,
            )  # fmt: skip
            if detector.folder is not None and not load_once(detector.folder).sees_context:
                speed = measure_throughput(detector.folder, store, manifest["entry"].iloc[0])
                run.log_metrics({"strips_per_second": speed})


@dataclass(frozen=True)
class _HeldOut:
    """Truth rows with their store entries, the entries on which false alarms are counted, and their live time.

    ``pixel_rows_per_hour`` is what an hour of it means.
    """

    truth: pd.DataFrame
    quiet: frozenset[str]
    live_hours: float
    pixel_rows_per_hour: float = PIXEL_ROWS_PER_HOUR

    @property
    def rate_per_hour(self) -> float:
        return MIN_COUNTED_ALARMS / self.live_hours

    @property
    def eta(self) -> float:
        return optimum_threshold(self.rate_per_hour, self.pixel_rows_per_hour)


@dataclass(frozen=True)
class _Result:
    """Result of one detector; ``found`` and ``samples`` (bootstrap) index the counted events.

    ``alarms`` are the best detections of its false alarms.
    """

    detector: Detector
    curve: RateCurve
    alarms: pd.DataFrame
    summary: dict[str, Any]
    completeness: pd.DataFrame
    apart: pd.DataFrame
    reliability: pd.DataFrame | None
    found: np.ndarray
    samples: list[np.ndarray]
    events: pd.DataFrame
    groups: pd.DataFrame
    losses: pd.DataFrame


def _judge(detector: Detector, detections: pd.DataFrame, held_out: _HeldOut, settings: EvaluateSettings) -> _Result:
    """Count one detector's false alarms, set its threshold, and count what it finds."""
    score = detections[f"{detector.name}/score"].to_numpy()
    quiet = detections["entry"].isin(held_out.quiet).to_numpy()
    alarms = list_alarms(detections[quiet], score[quiet], held_out.truth)
    curve = RateCurve(alarms["score"].to_numpy(dtype=np.float64), held_out.live_hours, held_out.pixel_rows_per_hour)
    point = operating_point(curve, MIN_COUNTED_ALARMS)
    events = event_scores(detections, score, held_out.truth)
    # a detector without a false alarm has the threshold -inf; an event without a match is not found even then
    events["score"] = events["score"].where(np.isfinite(events["score"]))
    samples = bootstrap_events(events, settings.bootstrap, settings.seed)
    reliability = None
    if detector.folder is not None:
        real = match_entries(detections, held_out.truth[held_out.truth["is_event"].astype(bool)]) >= 0
        reliability = reliability_table(detections[f"{detector.name}/probability"].to_numpy(), real)
        reliability = reliability.assign(detector=detector.name)
    return _Result(
        detector=detector,
        curve=curve,
        alarms=detections[quiet].iloc[alarms["detection"]].assign(score=alarms["score"].to_numpy()),
        summary={**_describe(detector), **vars(point), **summarise(events, point, samples, held_out.eta)},
        completeness=completeness_table(events, point.threshold).assign(detector=detector.name),
        apart=apart_table(detections, score, held_out.truth, point.threshold).assign(detector=detector.name),
        reliability=reliability,
        found=(events["score"] >= point.threshold).to_numpy(),
        samples=samples,
        events=events,
        groups=group_table(events, point.threshold, samples).assign(detector=detector.name),
        losses=loss_table(detections, events, point.threshold).assign(detector=detector.name),
    )


def collect_detections(
    store: Path,
    manifest: pd.DataFrame,
    detectors: Sequence[Detector],
    executor: Executor | None = None,
    progress: Progress | None = None,
    views: Mapping[str, StackView] | None = None,
) -> pd.DataFrame:
    """Triggers of every amplifier of a store, or of a view of each, with the scores of every detector."""
    views = views or {}
    tasks = [
        DetectTask(str(store), entry, tuple(detectors), TRIGGER_THRESHOLD, view=views.get(entry, StackView()))
        for entry in manifest["entry"]
    ]
    tables = []
    for outcome in (executor or SerialExecutor()).map(detect, tasks, describe="detecting", progress=progress):
        if outcome.value is None:
            raise EvaluateError(f"amplifier {outcome.item.entry} of {store} could not be searched: {outcome.error}")
        tables.append(outcome.value)
    return pd.concat(tables, ignore_index=True)


def count_false_alarms(
    store: Path,
    manifest: pd.DataFrame,
    detector: Detector,
    executor: Executor | None = None,
    progress: Progress | None = None,
    views: Mapping[str, StackView] | None = None,
) -> RateCurve:
    """False-alarm curve of a detector on amplifiers, or views of them, that are taken to be event-free."""
    detections = collect_detections(store, manifest, [detector], executor, progress, views)
    score = detections[f"{detector.name}/score"].to_numpy()
    hours = dict(zip(manifest["entry"], live_hours(manifest), strict=True))
    hours |= {entry: view.open(str(store), entry).live_hours for entry, view in (views or {}).items() if entry in hours}
    return false_alarm_curve(
        detections, score, empty_truth(), float(sum(hours.values())), pixel_rows_per_hour(manifest)
    )


def measure_throughput(folder: str, store: Path, entry: str, n_strips: int = 1024) -> float:
    """Strips per second that a model scores on one thread, best of three."""
    model = load_model(Path(folder))
    amplifier = open_amplifier(store, entry)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(0, amplifier.n_rows - 8, n_strips))
    places = pd.DataFrame(
        {"x": rng.uniform(0, amplifier.n_columns - 1, n_strips), "y": 0.0, "row_start": rows, "row_stop": rows + 7}
    )
    places = places.assign(width_rows=8.0, snr=5.0, chi2_excess=0.0, chi2_significance=0.0)
    places = places.assign(sharpness=0.8, flatness=-0.2, n_same_row=0)
    strips = cut_strips(amplifier, places, model.grid)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        score_strips(model, strips)
        seconds.append(time.perf_counter() - started)
    return n_strips / min(seconds)


def name_detectors(references: Sequence[str]) -> list[Detector]:
    """Detectors with their names in tables: the last part of a folder's path, else the reference."""
    detectors = []
    for reference in references:
        folder = resolve_model(reference)
        if folder is None:
            detectors.append(Detector(TEMPLATE_BANK, None))
            continue
        path = Path(reference)
        detectors.append(Detector(path.name if path.is_dir() else reference.replace("/", "-"), str(folder)))
    names = [detector.name for detector in detectors]
    if len(set(names)) < len(names):
        raise EvaluateError(f"detectors must differ in name, got {names}; rename a model folder")
    return detectors


def _rates_folder(reference: str, detector: Detector, out: Path) -> Path:
    """Path beside the weights if they lie in a user's folder, otherwise in the folder of the evaluation."""
    own = detector.folder is not None and Path(reference).is_dir()
    return Path(reference) if own else Path(out) / detector.name


def _open_truth(truth: pd.DataFrame, manifest: pd.DataFrame, stars: pd.DataFrame | None = None) -> _HeldOut:
    """Truth rows by store entry, with what their groups need; those of files that were not ingested are left out."""
    if not truth["is_event"].any():
        raise EvaluateError(
            "the truth table holds no event, so completeness cannot be measured; add frames with events"
        )
    placed = place_by_entry(truth, manifest)
    placed["n_rows"] = placed["entry"].map(manifest.set_index("entry")["n_rows"])
    if stars is not None and "star_mag" in placed:
        placed["blended"] = mark_blends(placed, place_by_entry(stars, manifest))
    is_event = placed["is_event"].astype(bool)
    if not is_event.any():
        raise EvaluateError(
            f"no event of the truth table lies in the store: it names files {sorted(truth['file'].unique())[:3]}, "
            f"the store holds {sorted(manifest['file'].unique())[:3]}"
        )
    if placed.loc[is_event, "kind"].isin(UNCOUNTED_KINDS).all():
        raise EvaluateError(
            f"all events of the truth table are of kinds without a finite optimum or not counted {UNCOUNTED_KINDS}, so "
            "completeness cannot be measured; add frames with other events"
        )
    quiet = frozenset(manifest["entry"]) - frozenset(placed.loc[is_event, "entry"]) or frozenset(manifest["entry"])
    counted = manifest[manifest["entry"].isin(quiet)]
    return _HeldOut(placed, quiet, float(live_hours(counted).sum()), pixel_rows_per_hour(counted))


def pixel_rows_per_hour(manifest: pd.DataFrame) -> float:
    """Pixels times rows that an amplifier-hour of some entries means, their mean where cameras differ."""
    values = manifest["pixel_rows_per_hour"]
    if values.nunique() == 1:
        return float(values.iloc[0])
    return float(manifest["live_pixel_rows"].sum() / live_hours(manifest).sum())


def _describe(detector: Detector) -> dict[str, Any]:
    """Name, family, size and cost of a detector, from the files of its training beside the weights."""
    plain = {"detector": detector.name, "family": detector.name, "shuffled": False, "n_parameters": 0}
    plain |= {"train_seconds": 0.0}
    if detector.folder is None:
        return plain
    path = Path(detector.folder) / TRAINING
    known = json.loads(path.read_text()) if path.is_file() else {}
    return plain | {
        name: known[name] for name in ("family", "shuffled", "n_parameters", "train_seconds") if name in known
    }


def _loss_lines(losses: pd.DataFrame) -> list[str]:
    """Say in a line for each detector and range of ρ what became of the events."""
    lost = [fate for fate in FATES if fate != FOUND]
    return [
        f"{row['detector']}: rho {row['rho']}: {row[FOUND]} of {row['n']} found, lost "
        + ", ".join(f"{row[fate]} {fate}" for fate in lost)
        for row in losses.to_dict("records")
    ]


def _short_groups(groups: pd.DataFrame) -> str:
    """Completeness of every group, a column for each detector."""
    table = groups.pivot_table(index=["group", "n"], columns="detector", values="completeness", sort=False)
    return table.reset_index().rename_axis(columns=None).to_string(index=False, float_format="{:.3f}".format)


def _concatenate(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _write(evaluation: Evaluation, detections: pd.DataFrame, out: Path, eta: dict[str, float]) -> None:
    write_parquet(detections, out / "detections.parquet")
    write_parquet(evaluation.completeness, out / "completeness.parquet")
    write_parquet(evaluation.apart, out / "apart.parquet")
    write_parquet(evaluation.reliability, out / "reliability.parquet")
    write_parquet(evaluation.events, out / "events.parquet")
    write_parquet(evaluation.groups, out / "groups.parquet")
    write_parquet(evaluation.losses, out / "losses.parquet")
    (out / "eta.json").write_text(json.dumps(eta))
    (out / "verdict.txt").write_text(evaluation.verdict + "\n")
    write_parquet(evaluation.summary, out / "summary.parquet")

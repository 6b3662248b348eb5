"""All detectors on the same held-out frames: what each finds at the same rate of false alarms."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.calibration import reliability_table
from shutterless.models.evaluation import (
    MIN_COUNTED_ALARMS,
    RateCurve,
    bootstrap_events,
    completeness_table,
    event_scores,
    false_alarm_curve,
    match_entries,
    operating_point,
    optimum_threshold,
    summarise,
)
from shutterless.models.families import load_model
from shutterless.models.scoring import score_strips
from shutterless.pipeline.store import manifest_hash, open_amplifier, read_manifest, write_parquet
from shutterless.pipeline.strips import cut_strips
from shutterless.pipeline.template_bank import TRIGGER_THRESHOLD
from shutterless.workflows.cluster import Executor, SerialExecutor
from shutterless.workflows.detect import TEMPLATE_BANK, Detector, DetectTask, detect, write_rates
from shutterless.workflows.progress import Progress
from shutterless.workflows.settings import EvaluateSettings
from shutterless.workflows.tracking import resolve_model
from shutterless.workflows.train import TRAINING

SHUFFLED_SUFFIX = "-shuffled"


class EvaluateError(ValueError):
    """A store and truth table that cannot be evaluated together."""


@dataclass(frozen=True)
class Evaluation:
    """Tables of an evaluation, as written: one row per detector, bins of rho, bins of probability, words."""

    summary: pd.DataFrame
    completeness: pd.DataFrame
    reliability: pd.DataFrame
    verdict: str


def evaluate_detectors(
    store: Path,
    *,
    references: Sequence[str],
    truth: Path,
    out: Path,
    settings: EvaluateSettings,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate detectors on a store with a truth table and write the tables.

    Parameters
    ----------
    store : Path
        Frames that no detector was trained on.
    references : sequence of str
        Models as the commands take them; the last part of a folder's name is the detector's.
    truth : Path
        ``truth.parquet`` of the frames.
    out : Path
        Gets ``summary``, ``completeness``, ``reliability`` and ``detections`` (Parquet), ``eta.json``, ``verdict.txt``.
    settings : EvaluateSettings
    executor : Executor, optional
    progress : Progress, optional

    Returns
    -------
    Evaluation

    Notes
    -----
    False alarms are counted on the amplifiers without events where there are any, otherwise on all. The operating
    point is the lowest rate that still rests on `MIN_COUNTED_ALARMS` counted alarms, the same for every detector.
    Each model's false-alarm curve is written beside its weights: a search takes its threshold from there.
    """
    manifest = read_manifest(store)
    detectors = [_name_detector(reference) for reference in references]
    events = _truth_by_entry(pd.read_parquet(truth), manifest)
    started = time.perf_counter()
    detections = collect_detections(store, manifest, detectors, settings, executor, progress)
    seconds = time.perf_counter() - started
    quiet = _quiet_entries(manifest, events)
    live_hours = float(_live_hours(manifest[manifest["entry"].isin(quiet)]).sum())
    rate = MIN_COUNTED_ALARMS / live_hours
    eta = optimum_threshold(rate)
    tables: dict[str, list[Any]] = {"summary": [], "completeness": [], "reliability": []}
    found: dict[str, np.ndarray] = {}
    scored: dict[str, pd.DataFrame] = {}
    for detector in detectors:
        score = detections[f"{detector.name}/score"].to_numpy()
        calm = detections["entry"].isin(quiet).to_numpy()
        curve = false_alarm_curve(detections[calm], score[calm], events, live_hours)
        write_rates(_rates_folder(detector, out), curve, manifest_hash(manifest))
        point = operating_point(curve, MIN_COUNTED_ALARMS)
        scored[detector.name] = event_scores(detections, score, events)
        samples = bootstrap_events(scored[detector.name], settings.bootstrap, settings.seed)
        found[detector.name] = (scored[detector.name]["score"] >= point.threshold).to_numpy()
        tables["summary"].append(
            {**_describe(detector), **vars(point), **summarise(scored[detector.name], point, samples, eta)}
        )
        tables["completeness"].append(
            completeness_table(scored[detector.name], point.threshold).assign(detector=detector.name)
        )
        if detector.folder is not None:
            right = match_entries(detections, events[events["is_event"].astype(bool)]) >= 0
            probability = detections[f"{detector.name}/probability"].to_numpy()
            tables["reliability"].append(reliability_table(probability, right).assign(detector=detector.name))
    summary = pd.DataFrame(tables["summary"])
    evaluation = Evaluation(
        summary=summary,
        completeness=pd.concat(tables["completeness"], ignore_index=True),
        reliability=_concatenate(tables["reliability"]),
        verdict=write_verdict(summary, found, scored, settings),
    )
    _write(evaluation, detections, Path(out), {"eta": eta, "rate_per_hour": rate, "seconds": seconds})
    return evaluation


def collect_detections(
    store: Path,
    manifest: pd.DataFrame,
    detectors: Sequence[Detector],
    settings: EvaluateSettings,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Triggers of every amplifier of a store with the scores of every detector."""
    tasks = [DetectTask(str(store), entry, tuple(detectors), TRIGGER_THRESHOLD) for entry in manifest["entry"]]
    tables = []
    for outcome in (executor or SerialExecutor()).map(detect, tasks, describe="detecting", progress=progress):
        if outcome.value is None:
            raise EvaluateError(f"amplifier {outcome.item.entry} of {store} could not be searched: {outcome.error}")
        tables.append(outcome.value)
    return pd.concat(tables, ignore_index=True)


def write_verdict(
    summary: pd.DataFrame, found: dict[str, np.ndarray], scored: dict[str, pd.DataFrame], settings: EvaluateSettings
) -> str:
    """Say in words which detector finds most, and which are not distinguishable from it.

    Notes
    -----
    Detectors are compared on the same events: the difference in completeness of each pair is bootstrapped, and two
    count as different where its 95 % interval leaves out 0.
    """
    honest = summary[~summary["shuffled"]].sort_values("completeness", ascending=False)
    best = honest.iloc[0]
    samples = bootstrap_events(scored[best["detector"]], settings.bootstrap, settings.seed)
    rate = f"{best['rate_per_hour']:.0f} false alarms per amplifier-hour"
    counted = f"{best['rate_low']:.0f} to {best['rate_high']:.0f}, {best['live_hours']:.2f} amplifier-hours"
    low, share, high = (100 * best[f"completeness{end}"] for end in ("_low", "", "_high"))
    lines = [
        f"At {rate} (95 % Poisson interval {counted}) {best['detector']} finds most of {best['n_events']:.0f} events: "
        f"{share:.1f} % ({low:.1f} to {high:.1f})."
    ]
    for other in honest.iloc[1:].itertuples():
        difference = found[best["detector"]].astype(float) - found[other.detector]
        spread = np.quantile([difference[rows].mean() for rows in samples], [0.025, 0.975])
        verdict = "is worse by" if spread[0] > 0 else "is not distinguishable from it: the difference is"
        lines.append(
            f"{other.detector} ({100 * other.completeness:.1f} %) {verdict} {100 * difference.mean():.1f} points "
            f"({100 * spread[0]:.1f} to {100 * spread[1]:.1f})."
        )
    for control in summary[summary["shuffled"]].itertuples():
        honest_row = summary[summary["detector"] == control.detector.removesuffix(SHUFFLED_SUFFIX)]
        if len(honest_row):
            learned = honest_row["completeness_low"].iloc[0] > control.completeness_high
            said = "with true ones it learned something" if learned else "NO evidence that true ones taught it anything"
            lines.append(
                f"{control.family} trained with shuffled labels finds {100 * control.completeness:.1f} % (at most "
                f"{100 * control.completeness_high:.1f}): {said}."
            )
    return "\n".join(lines)


def measure_throughput(folder: str, store: Path, entry: str, n_strips: int = 1024) -> float:
    """Strips per second that a model scores on one thread, best of three."""
    model = load_model(Path(folder))
    amplifier = open_amplifier(store, entry)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(0, amplifier.n_rows - 8, n_strips))
    places = pd.DataFrame(
        {"x": rng.uniform(0, amplifier.n_columns - 1, n_strips), "row_start": rows, "row_stop": rows + 7}
    )
    places = places.assign(width_rows=8.0, snr=5.0, chi2_excess=0.0, sharpness=0.2, flatness=0.0, n_same_row=0)
    strips = cut_strips(amplifier, places, model.grid)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        score_strips(model, strips)
        seconds.append(time.perf_counter() - started)
    return n_strips / min(seconds)


def _name_detector(reference: str) -> Detector:
    folder = resolve_model(reference)
    if folder is None:
        return Detector(TEMPLATE_BANK, None)
    path = Path(reference)
    return Detector(path.name if path.is_dir() else reference.replace("/", "-"), str(folder))


def _rates_folder(detector: Detector, out: Path) -> Path:
    """Beside the weights; the template bank has none, so its curve goes where the evaluation is."""
    return Path(out) / TEMPLATE_BANK if detector.folder is None else Path(detector.folder)


def _truth_by_entry(truth: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Truth rows with the store entry they belong to; those of files that were not ingested are left out."""
    keys = ["file", "ccd", "quadrant"]
    placed = truth.astype({"ccd": "Int64", "quadrant": "Int64"}).merge(manifest[[*keys, "entry"]], on=keys, how="inner")
    if truth["is_event"].any() and not placed["is_event"].any():
        raise EvaluateError(
            f"no event of the truth table lies in the store: it names files {sorted(truth['file'].unique())[:3]}, "
            f"the store holds {sorted(manifest['file'].unique())[:3]}"
        )
    if not placed["is_event"].any():
        raise EvaluateError(
            "the truth table holds no event, so completeness cannot be measured; add frames with events"
        )
    return placed


def _quiet_entries(manifest: pd.DataFrame, events: pd.DataFrame) -> list[str]:
    eventful = set(events.loc[events["is_event"].astype(bool), "entry"])
    quiet = [entry for entry in manifest["entry"] if entry not in eventful]
    return quiet or list(manifest["entry"])


def _live_hours(manifest: pd.DataFrame) -> pd.Series:
    return manifest["live_pixel_rows"] / (manifest["n_columns"] * manifest["row_rate_hz"] * 3600)


def _describe(detector: Detector) -> dict[str, Any]:
    """Name, family, size and cost of a detector, from what its training left beside the weights."""
    plain = {"detector": detector.name, "family": detector.name, "shuffled": False, "n_parameters": 0}
    plain |= {"train_seconds": 0.0}
    if detector.folder is None:
        return plain
    path = Path(detector.folder) / TRAINING
    known = json.loads(path.read_text()) if path.is_file() else {}
    return plain | {
        name: known[name] for name in ("family", "shuffled", "n_parameters", "train_seconds") if name in known
    }


def _concatenate(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _write(evaluation: Evaluation, detections: pd.DataFrame, out: Path, eta: dict[str, float]) -> None:
    write_parquet(detections, out / "detections.parquet")
    write_parquet(evaluation.completeness, out / "completeness.parquet")
    write_parquet(evaluation.reliability, out / "reliability.parquet")
    (out / "eta.json").write_text(json.dumps(eta))
    (out / "verdict.txt").write_text(evaluation.verdict + "\n")
    write_parquet(evaluation.summary, out / "summary.parquet")


__all__ = ["Evaluation", "RateCurve", "collect_detections", "evaluate_detectors", "measure_throughput", "write_verdict"]

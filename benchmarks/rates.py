"""Is a rate of false alarms kept? Counted over asked on simulated fields, with the stored curve and with own rates.

    python benchmarks/rates.py
    python benchmarks/rates.py --model bundled --out runs/rates    # keeps the scores
    python benchmarks/rates.py --out runs/rates --report           # prints the tables again without simulation

Every field is a CCD with stars, air, sky and faults of its own (`shutterless.pipeline.simulation.fields`), simulated
without events and again with ``--events`` an amplifier and file. It is searched, and its frames are deleted. Counted
are clusters that match no event, above the threshold that a search takes for 50 and 10 an hour.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RateCurve, cluster_detections, match_entries
from shutterless.models.evaluation.own_rates import AmplifierScores, fit_own_rates
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.simulation.fields import draw_fields
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.store.store import live_hours
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.searching.detect import Detector, DetectTask, detect
from shutterless.workflows.searching.search import find_curve, find_detector
from shutterless.workflows.tracking.tracking import TEMPLATE_BANK

ASKED = (50.0, 10.0)
ROW_RATE_HZ = 300.0
SCORES = "scores.parquet"


def score_field(settings: SceneSettings, detectors: list[Detector]) -> pd.DataFrame:
    """Simulate, ingest and search one field; scores of its distinct causes by every detector."""
    executor = SerialExecutor()
    with tempfile.TemporaryDirectory() as folder:
        frames = simulate_scene(settings, Path(folder) / "frames", executor=executor)
        store = Path(folder) / "store"
        manifest = ingest_files(frames.files, store, executor=executor).manifest
        truth = pd.read_parquet(frames.truth).merge(
            manifest[["file", "ccd", "quadrant", "entry"]], on=["file", "ccd", "quadrant"]
        )
        tables = [
            _score_entry(str(store), entry, detectors, truth[truth["is_event"]]).assign(hours=hours)
            for entry, hours in zip(manifest["entry"], live_hours(manifest), strict=True)
        ]
    return pd.concat(tables, ignore_index=True).assign(field=settings.sequence)


def _score_entry(store: str, entry: str, detectors: list[Detector], events: pd.DataFrame) -> pd.DataFrame:
    triggers = detect(DetectTask(store, entry, tuple(detectors), TRIGGER_THRESHOLD))
    triggers["is_event"] = match_entries(triggers, events) >= 0
    tables = []
    for detector in detectors:
        scored = triggers[np.isfinite(triggers[f"{detector.name}/score"])]
        causes = scored.assign(score=scored[f"{detector.name}/score"]).groupby(cluster_detections(scored))
        tables.append(causes.agg({"score": "max", "is_event": "max"}).assign(detector=detector.name, entry=entry))
    # an amplifier without a score has its live time in the table all the same
    tables.append(pd.DataFrame({"score": [np.nan], "is_event": [False], "detector": [""], "entry": [entry]}))
    return pd.concat(tables, ignore_index=True)


def count(scores: pd.DataFrame, curve: RateCurve, asked: float) -> pd.DataFrame:
    """False alarms of each field above the thresholds of the stored curve and of own rates, beside those asked for."""
    amplifiers = scores.groupby(["field", "entry"], sort=True)
    searched = [
        AmplifierScores(entry, field, part["score"].dropna().to_numpy(), float(part["hours"].iloc[0]))
        for (field, entry), part in amplifiers
    ]
    rates = fit_own_rates(searched, asked, curve)
    stored = curve.threshold(asked)[0]
    rows = []
    for one in searched:
        part = scores[(scores["entry"] == one.amplifier) & (scores["field"] == one.group) & ~scores["is_event"]]
        row = {"field": one.group, "hours": one.live_hours, "asked": asked * one.live_hours}
        row |= {"stored": int((part["score"] >= stored).sum())}
        row |= {"own": int((part["score"] >= rates[one.amplifier].threshold(asked)).sum())}
        rows.append(row | {"threshold": rates[one.amplifier].threshold(asked)})
    table = pd.DataFrame(rows).groupby("field", sort=True)
    return table.agg({"hours": "sum", "asked": "sum", "stored": "sum", "own": "sum", "threshold": "median"})


def print_tables(scores: pd.DataFrame, curves: dict[str, RateCurve]) -> None:
    """Print counted over asked for every detector, set and rate, and the fields one by one."""
    for name, curve in curves.items():
        for events, part in scores.groupby("events", sort=True):
            own = part[part["detector"].isin([name, ""])]
            for asked in ASKED:
                table = count(own, curve, asked)
                total = table[["hours", "asked", "stored", "own"]].sum()
                print(
                    f"\n{name}, {events:.0f} real events an hour, {asked:g} false alarms an hour asked: "
                    f"{total['asked']:.1f} in {total['hours']:.3f} amplifier-hours; counted {total['stored']:.0f} with "
                    f"the stored curve ({total['stored'] / total['asked']:.2f} of what was asked), {total['own']:.0f} "
                    f"with own rates ({total['own'] / total['asked']:.2f})"
                )
                print(table.round({"hours": 4, "asked": 2, "threshold": 2}).to_string())


def parse_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="a detector beside the template bank; repeatable")
    parser.add_argument("--fields", type=int, default=10)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--events", type=int, default=1, help="in each amplifier and file, in the second set")
    parser.add_argument("--seed", type=int, default=8100)
    parser.add_argument("--out", type=Path, default=None, help="folder that keeps the scores")
    parser.add_argument("--report", action="store_true", help="print the tables of the scores in --out")
    return parser.parse_args()


def main() -> int:
    """Simulate, count and print."""
    arguments = parse_arguments()
    detectors = [find_detector(name) for name in (TEMPLATE_BANK, *arguments.model)]
    curves = {detector.name: find_curve(detector, ASKED[0]) for detector in detectors}
    kept = None if arguments.out is None else arguments.out / SCORES
    if arguments.report:
        if kept is None or not kept.is_file():
            print("--report needs the folder of a run as --out", file=sys.stderr)
            return 2
        print_tables(pd.read_parquet(kept), curves)
        return 0
    base = SceneSettings(sequence="rates", rows=arguments.rows, row_rate_hz=ROW_RATE_HZ, first_row=None, events=0)
    tables = []
    for events in (0, arguments.events):
        per_hour = events * 3600 * ROW_RATE_HZ / arguments.rows
        for settings in draw_fields(arguments.seed, arguments.fields, base):
            started = time.perf_counter()
            tables.append(score_field(replace(settings, events=events), detectors).assign(events=per_hour))
            print(
                f"{settings.sequence}, {per_hour:.0f} events an hour: {time.perf_counter() - started:.0f} s", flush=True
            )
            if kept is not None:
                write_parquet(pd.concat(tables, ignore_index=True), kept)
    print_tables(pd.concat(tables, ignore_index=True), curves)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Judge detectors on new simulated fields with everything on: completeness and losses at the same rate of false alarms.

    python benchmarks/detection.py --out runs/detection --model bundled
    python benchmarks/detection.py --out runs/detection --report

A field is a CCD with stars, air, sky and faults of its own (`shutterless.pipeline.simulation.fields`). It is simulated,
ingested and searched by one process; then its frames and its store are deleted, and only the triggers with every
detector's score, the truth and the live time are kept in ``--out/fields``. ``--resume`` goes on with the fields that
are missing, ``--report`` prints the tables again without any simulation. The sets are event-free fields and fields with
events of steady rows (``sky``), of rows from the opening of the shutter (``ramp``), and of the stars of ``sky`` in
still air without faults and lights (``still``), and ten fields with about 100 events an hour, on which rates are asked
for and counted (``sparse``). Seeds 9000 to 9999 are held out: nothing is trained or tuned on them. ``--quick`` takes 3
minutes on two free cores, counts alarms at 500 and 250 an hour alone, and says little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.files import partial_path, remove_partials, replace_folder, write_parquet, write_text
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR
from shutterless.pipeline.simulation.fields import draw_fields
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.workflows.comparison.field_tables import (
    Tables,
    count_asked,
    judge_fields,
    mark_slow_satellites,
    posterior_table,
    ramp_alarms,
    to_markdown,
)
from shutterless.workflows.comparison.unseen import check_sequences_unseen
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.searching.detect import Detector, DetectTask, detect, read_rates
from shutterless.workflows.tracking.tracking import BUNDLED, bundled_folder

# and what is added to the seed of the event-free fields; 1 more for the fields with events
SETS = {"sky": 1, "ramp": 3, "still": 1, "sparse": 4}
SPARSE_FIELDS, SPARSE_EVENTS = 10, 1  # fields with events alone; events of an amplifier, some 100 an hour
KINDS = ("flare", "burst", "occultation")  # a glint counts nowhere
RHO = (4.0, 15.0)
EVENTS_PER_AMPLIFIER = 20
FIELDS_OF_A_SEED = 256  # drawn at once, so that a field does not depend on how many are used
RAMP_SHARE = 0.5  # of the number of fields with steady rows
AMPLIFIERS, COLUMNS = 4, 3072
SPARE_HOURS = 1.03  # masked columns and dropped rows are no live time
TABLES = ("triggers", "truth", "stars", "manifest")
RATES = (50.0, 10.0)
QUICK_RATES = (500.0, 250.0)  # that a few minutes of sky can count


@dataclass(frozen=True)
class Plan:
    """What fixes the pixels and the scores of a run; a run goes on only with the same."""

    seed: int
    rows: int
    ramp_rows: int
    detectors: dict[str, str]


@dataclass(frozen=True)
class FieldTask:
    """One field to simulate, search and delete."""

    group: str
    settings: SceneSettings
    detectors: tuple[Detector, ...]
    out: Path

    @property
    def folder(self) -> Path:
        """Where its tables are kept."""
        return self.out / "fields" / self.settings.sequence


def plan_fields(plan: Plan, sets: Sequence[str], hours: float, events: int) -> Iterator[tuple[str, SceneSettings]]:
    """Name of the set and settings of every field."""
    n_free = int(np.ceil(SPARE_HOURS * hours * PIXEL_ROWS_PER_HOUR / (AMPLIFIERS * COLUMNS * plan.rows)))
    n_busy = int(np.ceil(events / (AMPLIFIERS * EVENTS_PER_AMPLIFIER)))
    for name in sets:
        ramp, sparse = name == "ramp", name == "sparse"
        n_events = SPARSE_EVENTS if sparse else EVENTS_PER_AMPLIFIER
        for busy, n_fields in enumerate((0, SPARSE_FIELDS) if sparse else (n_free, n_busy)):
            n_fields = int(np.ceil(RAMP_SHARE * n_fields)) if ramp else n_fields
            if n_fields > FIELDS_OF_A_SEED:
                raise SystemExit(f"{n_fields} fields of {name}: one seed gives {FIELDS_OF_A_SEED}; add --seed 9100")
            base = SceneSettings(
                sequence=f"{name}-{'events' if busy else 'free'}", rows=plan.ramp_rows if ramp else plan.rows,
                first_row=0 if ramp else None, events=busy * n_events, kinds=KINDS, rho=RHO,
            )  # fmt: skip
            drawn = draw_fields(plan.seed + SETS[name] + busy, FIELDS_OF_A_SEED, base, quiet=name == "still")
            yield from ((name, field) for field in drawn[:n_fields])


def run_field(task: FieldTask) -> str:
    """Simulate, ingest and search one field, keep its tables and delete the rest."""
    started, executor = time.perf_counter(), SerialExecutor()
    with tempfile.TemporaryDirectory(dir=task.out, prefix=".scratch-") as name:
        frames, store = Path(name) / "frames", Path(name) / "store"
        made = simulate_scene(task.settings, frames, executor=executor)
        ingested = ingest_files(made.files, store, executor=executor)
        failures = [*made.failures, *ingested.failures["reason"]]
        if failures:
            raise RuntimeError(f"{task.settings.sequence}: {failures}")
        truth, stars = pd.read_parquet(made.truth), pd.read_parquet(made.stars)
        shutil.rmtree(frames)
        manifest = ingested.manifest.drop(columns="source")
        triggers = [
            detect(DetectTask(str(store), entry, task.detectors, TRIGGER_THRESHOLD)) for entry in manifest["entry"]
        ]
    partial = partial_path(task.folder)
    for table, content in zip(TABLES, (pd.concat(triggers, ignore_index=True), truth, stars, manifest), strict=True):
        write_parquet(content, partial / f"{table}.parquet")
    replace_folder(partial, task.folder)
    return f"{task.settings.sequence}: {sum(map(len, triggers))} triggers, {time.perf_counter() - started:.0f} s"


def run_fields(tasks: Sequence[FieldTask], workers: int) -> None:
    """Run the fields that are missing, each in one process."""
    missing = [task for task in tasks if not task.folder.is_dir()]
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for n, future in enumerate(as_completed([pool.submit(run_field, task) for task in missing]), 1):
            seconds = time.perf_counter() - started
            print(f"{n}/{len(missing)} ({seconds:.0f} s) {future.result()}", file=sys.stderr, flush=True)


def read_fields(out: Path, sequences: Sequence[str]) -> tuple[pd.DataFrame, ...]:
    """Tables of finished fields: triggers, truth, stars and manifest."""
    folders = [out / "fields" / name for name in sequences]
    return tuple(
        pd.concat([pd.read_parquet(folder / f"{table}.parquet") for folder in folders], ignore_index=True)
        for table in TABLES
    )


def weights_hash(folder: str | None) -> str:
    """Hash of the files of a model that decide its scores; empty for the template bank."""
    if folder is None:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.name not in ("rates.json", "README.md"):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def check_plan(out: Path, plan: Plan, resume: bool) -> None:
    """Refuse to mix fields of two plans."""
    path = out / "plan.json"
    if path.is_file():
        if not resume:
            raise SystemExit(f"{out} holds fields already; go on with --resume, print them with --report")
        if (old := json.loads(path.read_text())) != asdict(plan):
            raise SystemExit(f"{out} was made by {old}, not by {asdict(plan)}; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    remove_partials(out / "fields")
    for scratch in out.glob(".scratch-*"):
        shutil.rmtree(scratch, ignore_errors=True)
    write_text(path, json.dumps(asdict(plan), indent=1))


def report(out: Path, names: Sequence[str], rates: Sequence[float], bootstrap: int, against: str | None) -> str:
    """Write all tables of the finished fields and return them as Markdown."""
    done = sorted(path.name for path in (out / "fields").iterdir() if not path.name.startswith("."))
    parts = [f"Fields: {len(done)}. Errors are 95 % intervals of a bootstrap over fields ({bootstrap} samples)."]
    judged: dict[str, Tables] = {}
    for name in SETS:
        own = [field for field in done if field.startswith(f"{name}-")]
        if {field.split("-")[1] for field in own} == {"free", "events"}:
            tables = read_fields(out, own)
            judged[name] = judge_fields(*tables, names, rates=rates, n_samples=bootstrap, against=against)
            parts += [f"## {name}", judged[name].text()]
            judged[name].write(out / name)
            if name == "sky":
                parts += report_satellites(out, tables, names, rates, bootstrap)
                parts += report_asked(out, [field for field in own if "-free-" in field], names, rates)
    if sparse := [field for field in done if field.startswith("sparse-")]:
        parts += report_asked(out, sparse, names, rates)
        parts += report_posteriors(out, sparse, names, rates[0])
    if {"sky", "ramp"} <= judged.keys():
        table = ramp_alarms(judged["sky"], judged["ramp"])
        write_parquet(table, out / "ramp_alarms.parquet")
        parts += ["## False alarms in ramp rows at the thresholds of steady rows", to_markdown(table)]
    return "\n\n".join(parts)


def report_satellites(
    out: Path, tables: tuple[pd.DataFrame, ...], names: Sequence[str], rates: Sequence[float], bootstrap: int
) -> list[str]:
    """Give the figures without the amplifiers that a slow satellite crosses."""
    triggers, truth, stars, manifest = tables
    crossed = mark_slow_satellites(truth, manifest)
    fields = manifest.loc[manifest["entry"].isin(crossed), "sequence"].nunique()
    all_fields = manifest["sequence"].nunique()
    said = f"{fields} of {all_fields} fields hold a slow satellite, which crosses {len(crossed)} amplifiers in all."
    kept = manifest[~manifest["entry"].isin(crossed)]
    without = judge_fields(triggers, truth, stars, kept, names, rates=rates, n_samples=bootstrap)
    without.write(out / "sky-without-satellites")
    return ["## sky, without the amplifiers that a slow satellite crosses", said, without.text(short=True)]


def report_asked(out: Path, fields: Sequence[str], names: Sequence[str], rates: Sequence[float]) -> list[str]:
    """Count the false alarms of event-free fields at the thresholds that a search would set."""
    triggers, truth, _, manifest = read_fields(out, fields)
    table = count_asked(triggers, manifest, read_stored(names), rates, truth)
    n_events = int(truth["is_event"].sum())
    name = f"asked-with-{n_events}-events" if n_events else "asked"
    write_parquet(table, out / f"{name}.parquet")
    held = f"; the fields hold {n_events} events" if n_events else ""
    return [
        f"## Asked and counted: thresholds from the scores of each of {len(fields)} fields{held}",
        to_markdown(table),
    ]


def report_posteriors(out: Path, fields: Sequence[str], names: Sequence[str], rate: float) -> list[str]:
    """Compare the posterior probabilities of candidates with how many of them are events."""
    triggers, truth, _, manifest = read_fields(out, fields)
    table = posterior_table(triggers, truth, manifest, read_stored(names), rate)
    write_parquet(table, out / "posteriors.parquet")
    return [f"## What posteriors say at the true rate of events, {rate:g} false alarms an hour", to_markdown(table)]


def read_stored(names: Sequence[str]) -> dict[str, RateCurve | None]:
    """Stored curves of the bundled detectors among those named; None for the others."""
    shipped = {"template-bank": "template-bank", **BUNDLED}
    return {name: read_rates(bundled_folder() / shipped[name]) if name in shipped else None for name in names}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/detection"))
    parser.add_argument(
        "--model", action="append", default=[], help="folder or name; the template bank is always there"
    )
    parser.add_argument("--against", help="compare the others with this detector in groups")
    parser.add_argument("--hours", type=float, default=1.0, help="event-free amplifier-hours of steady rows")
    parser.add_argument("--events", type=int, default=2000, help="events in steady rows")
    parser.add_argument("--seed", type=int, default=9000)
    parser.add_argument("--rows", type=int, default=12_000, help="of a file of steady rows")
    parser.add_argument("--ramp-rows", type=int, default=3080)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--resume", action="store_true", help="go on with the fields that are missing")
    parser.add_argument("--report", action="store_true", help="simulate nothing")
    parser.add_argument("--quick", action="store_true", help="few short fields")
    return parser.parse_args()


def main() -> None:
    """Print the tables."""
    arguments = parse()
    scale: dict[str, Any] = {"hours": arguments.hours, "events": arguments.events}
    if arguments.quick:
        arguments.rows, arguments.sets, scale = 4000, "sky,ramp", {"hours": 0.04, "events": 240}
    if arguments.report:
        names = list(json.loads((arguments.out / "plan.json").read_text())["detectors"])
    else:
        from shutterless.workflows.comparison.evaluate import name_detectors

        detectors = tuple(name_detectors(list(dict.fromkeys(["template-bank", *arguments.model]))))
        hashes = {detector.name: weights_hash(detector.folder) for detector in detectors}
        plan = Plan(arguments.seed, arguments.rows, arguments.ramp_rows, hashes)
        fields = list(plan_fields(plan, arguments.sets.split(","), **scale))
        for detector in detectors:
            if detector.folder is not None:
                check_sequences_unseen(detector.folder, {field.sequence for _, field in fields}, "this benchmark")
        check_plan(arguments.out, plan, arguments.resume)
        run_fields([FieldTask(name, field, detectors, arguments.out) for name, field in fields], arguments.workers)
        names = list(hashes)
    rates = QUICK_RATES if arguments.quick else RATES
    if arguments.against not in (None, *names):
        raise SystemExit(f"--against {arguments.against}: none of the detectors {names}")
    text = report(arguments.out, names, rates, arguments.bootstrap, arguments.against)
    write_text(arguments.out / "report.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()

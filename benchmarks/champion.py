"""Train the bundled detector: simulate fields with everything on, label triggers, grow a forest, train networks.

    python benchmarks/champion.py --out runs/champion

A field is a CCD of four amplifiers with stars, air, sky and faults of its own; every fourth begins with the ramp. Some
fields of the next seed have still air and nothing else, so that the detector knows good nights, too. A field's frames
and store are deleted once its triggers are labelled, so the disk holds one field for each worker, and 2 GB of strips.
A run that was stopped goes on where it was: fields that are labelled stay. ``--install`` copies the detector into
``models/weights``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import TrainerCallback

from shutterless.models.combined.settings import CombinedSettings
from shutterless.models.forest.settings import ForestSettings
from shutterless.pipeline.examples.labelled_triggers import LabelledTriggers
from shutterless.pipeline.files import partial_path, replace_folder, write_parquet
from shutterless.pipeline.simulation.fields import HELD_OUT_SEEDS, draw_fields
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.tokens import STRIP_ARRAYS, StripBatch, TokenGrid, concatenate_strips
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.tracking.tracking import bundled_folder

SEED, N_FIELDS, ROWS, EVENTS, RHO = 3, 59, 12_000, 24, (4.0, 20.0)
DRAWN = 80  # at once, so that a field does not depend on how many are used
N_STILL = 16
RAMP_EVERY = 4


def scenes(seed: int, n_fields: int, n_still: int) -> list[SceneSettings]:
    """Fields to train on, in steady rows except every fourth, which begins with the ramp; those in still air last."""
    base = SceneSettings(sequence="f", rows=ROWS, events=EVENTS, rho=RHO, first_row=None)
    drawn = draw_fields(seed, DRAWN, base)[:n_fields], draw_fields(seed + 1, DRAWN, base, quiet=True)[:n_still]
    return [
        replace(field, first_row=0) if number % RAMP_EVERY == RAMP_EVERY - 1 else field
        for fields in drawn
        for number, field in enumerate(fields)
    ]


def label_field(number: int, *, fields: list[SceneSettings], out: Path) -> str:
    """Simulate, ingest and label one field; its files are whole or absent."""
    from shutterless.pipeline.store.store import read_manifest
    from shutterless.workflows.training.forest import hours_by_entry, label_store

    started = time.perf_counter()
    work = out / f"work-{number:03d}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        frames = simulate_scene(fields[number], work / "frames", executor=SerialExecutor())
        if frames.failures:
            raise RuntimeError(f"field {number}: {frames.failures[0]}")
        ingest_files(list(frames.files), work / "store", executor=SerialExecutor())
        labelled = label_store(work / "store", seed=number, truth=pd.read_parquet(frames.truth), grid=TokenGrid())
        hours = hours_by_entry(read_manifest(work / "store"))
        table = labelled.table.assign(field=fields[number].sequence).merge(hours, left_on="entry", right_index=True)
        partial_folder = partial_path(labelled_path(out, number))
        write_parquet(table, partial_folder / "triggers.parquet")
        with (partial_folder / "strips.npz").open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: getattr(labelled.strips, name) for name in STRIP_ARRAYS})
        replace_folder(partial_folder, labelled_path(out, number))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return f"field {number}: {len(table)} triggers, {time.perf_counter() - started:.0f} s"


def labelled_path(out: Path, number: int) -> Path:
    """Folder of the labelled triggers of a field."""
    return out / "labelled" / f"{number:03d}"


def read_labelled(out: Path, numbers: Iterable[int]) -> LabelledTriggers:
    """Labelled triggers of fields."""
    folders = [labelled_path(out, number) for number in numbers]
    tables = [pd.read_parquet(folder / "triggers.parquet") for folder in folders]
    strips = []
    for folder in folders:
        with np.load(folder / "strips.npz") as stored:
            strips.append(StripBatch(**{name: stored[name] for name in STRIP_ARRAYS}))
    return LabelledTriggers(pd.concat(tables, ignore_index=True), concatenate_strips(strips))


class _Shown(TrainerCallback):
    """Print how a network learns."""

    def on_history_row(self, row: Mapping[str, Any]) -> None:
        print("{split} step {step}: {seconds:.0f} s, loss {loss:.4f}, AUC {auc:.4f}".format(**row), flush=True)


def main() -> None:
    """Read the arguments, label the fields, grow and write the forest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/champion"))
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--fields", type=int, default=N_FIELDS)
    parser.add_argument("--still", type=int, default=N_STILL, help="fields in still air")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--install", action="store_true", help="make it the bundled model")
    arguments = parser.parse_args()
    if not 0 < arguments.fields <= DRAWN or not 0 <= arguments.still <= DRAWN:
        parser.error(f"--fields {arguments.fields}, --still {arguments.still}: at most {DRAWN} each")
    if arguments.seed in HELD_OUT_SEEDS:
        parser.error(f"seed {arguments.seed} is one of those that detectors are judged on; take another")
    from shutterless.workflows.training.combined import grow_combined

    out = arguments.out
    fields = scenes(arguments.seed, arguments.fields, arguments.still)
    missing = [number for number in range(len(fields)) if not labelled_path(out, number).is_dir()]
    work = partial(label_field, fields=fields, out=out)
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(work, number) for number in missing]):
            print(done.result(), flush=True)
    labelled = read_labelled(out, range(len(fields)))
    hours = labelled.table.drop_duplicates("entry").set_index("entry")[["live_hours", "pixel_rows_per_hour"]]
    name = f"fields drawn from seeds {arguments.seed} and {arguments.seed + 1}"
    summary = grow_combined(
        labelled, hours, TokenGrid(), ForestSettings(n_seeds=2), CombinedSettings(), out / "combined", data_hash=name,
        trained_on={"stores": [name], "sequences": sorted(labelled.table["field"].unique().tolist())},
        callbacks=[_Shown()],
    )  # fmt: skip
    print(json.dumps(summary, indent=1))
    if arguments.install:
        shutil.copytree(out / "combined", bundled_folder() / "combined", dirs_exist_ok=True)
        print(f"installed in {bundled_folder()}")


if __name__ == "__main__":
    main()

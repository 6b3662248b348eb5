"""A small camera on disk: simulated frames of it, stores made of them, and models that cost nothing to build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.settings.settings import TrainSettings, load_scene

# 64 columns and 50 transit rows are 1/3000 of a ZTF quadrant: so many more stars for about five in each amplifier
SCENE = {"n_bright_stars": 3000.0, "row_rate_hz": 300.0, "seeing_arcsec": 2.0, "suffix": ".fits"}
GRID = {"n_columns": 8, "n_rows": 64, "patch_rows": 8, "bins": (1, 4)}
ARCHITECTURES = {
    "transformer": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "mlp_size": 16},
    "cnn": {"channels": [8], "strides": [2], "kernel_rows": 5, "hidden_size": 8},
    "mlp": {"hidden_sizes": []},
}


def simulate(camera: str, out: Path, **values):
    scene = load_scene({**SCENE, "instrument": camera, **values})
    return simulate_scene(scene, out, executor=SerialExecutor())


def add_hits(path: Path, n_hits: int = 40) -> None:
    """Brighten spots of an uncompressed frame: so small a camera has no cosmic ray in a minute.

    Every other one is a single pixel, which no model scores. The others are a quarter narrower than a star, so
    that the template bank vetoes them and a model scores them.
    """
    rng = np.random.default_rng(7)
    offsets = np.arange(-2, 3)
    spot = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 0.65**2))
    with fits.open(path, mode="update") as hdus:
        for hdu in hdus[1:3]:
            image = hdu.data.astype(np.uint16)
            rows = rng.choice(np.arange(200, len(image) - 10), n_hits, replace=False)
            for i, (row, column) in enumerate(zip(rows, rng.integers(5, image.shape[1] - 5, n_hits), strict=True)):
                hit = np.rint(200 * (spot if i % 2 else spot > 0.99)).astype(np.uint16)
                image[row - 2 : row + 3, column - 2 : column + 3] += hit
            hdu.data = image


@pytest.fixture(scope="session")
def training_store(tiny_camera, tmp_path_factory) -> Path:
    """Four event-free amplifiers: two CCDs of two quadrants, 4,000 rows."""
    folder = tmp_path_factory.mktemp("training")
    made = simulate(tiny_camera, folder / "frames", sequence="quiet", seed=11, ccds=(1, 2), rows=4000, events=0)
    ingest_files(made.files, folder / "store", instrument=tiny_camera, executor=SerialExecutor())
    return folder / "store"


@pytest.fixture(scope="session")
def held_out(tiny_camera, tmp_path_factory) -> tuple[Path, Path]:
    """Store of two event-free amplifiers and two with twelve events each, all with hits, and its truth table."""
    folder = tmp_path_factory.mktemp("held_out")
    calm = simulate(tiny_camera, folder / "calm", sequence="calm", seed=22, ccds=(3,), rows=6000, events=0)
    busy = simulate(
        tiny_camera, folder / "busy", sequence="busy", seed=35, ccds=(4,), rows=6000, events=12, rho=(6.0, 30.0)
    )
    for path in (*calm.files, *busy.files):
        add_hits(path)
    truth = pd.concat([pd.read_parquet(made.truth) for made in (calm, busy)], ignore_index=True)
    write_parquet(truth, folder / "truth.parquet")
    ingest_files([*calm.files, *busy.files], folder / "store", instrument=tiny_camera, executor=SerialExecutor())
    return folder / "store", folder / "truth.parquet"


@pytest.fixture(scope="session")
def busy_frames(tiny_camera, tmp_path_factory) -> list[Path]:
    """Two files of 6,000 rows with twelve events in each amplifier."""
    folder = tmp_path_factory.mktemp("busy_frames")
    made = simulate(tiny_camera, folder, sequence="s", seed=35, ccds=(4, 5), rows=6000, events=12, rho=(6.0, 30.0))
    return list(made.files)


@pytest.fixture(scope="session")
def vetted(held_out, tmp_path_factory) -> Path:
    """Labels of a person who is always right about the triggers above 8 σ of the held-out store."""
    from shutterless.models.evaluation.metrics import cluster_detections, match_entries
    from shutterless.pipeline.detection.triggers import find_triggers
    from shutterless.pipeline.results.labels import append_label
    from shutterless.pipeline.store.store import open_amplifier, read_manifest
    from shutterless.workflows.comparison.field_tables import place_by_entry

    store, truth = held_out
    manifest, path = read_manifest(store), tmp_path_factory.mktemp("vetted") / "labels.csv"
    events = place_by_entry(pd.read_parquet(truth), manifest)
    events = events[events["is_event"]].reset_index(drop=True)
    for entry in manifest.to_dict("records"):
        triggers = find_triggers(open_amplifier(store, entry["entry"]), 8.0).assign(entry=entry["entry"])
        strongest = triggers["snr"].abs().groupby(cluster_detections(triggers)).idxmax()
        triggers = triggers.loc[strongest]
        for trigger, event in zip(triggers.to_dict("records"), match_entries(triggers, events), strict=True):
            label = {"label": "event"} if event >= 0 else {"label": "artefact", "kind": "cosmic ray"}
            place = {name: trigger[name] for name in ("x", "row_start", "row_stop", "snr")}
            place |= {name: entry[name] for name in ("file", "ccd", "quadrant")} | {"path": entry["source"]}
            name = f"{entry['entry']}_{trigger['row_peak']}_{trigger['x']:.2f}"
            append_label(
                path, {**label, **place, "confidence": 100, "who": "ada", "candidate_id": name, "time_utc": "t"}
            )
    return path


@pytest.fixture(scope="session")
def train_settings() -> TrainSettings:
    """One short epoch of the smallest perceptron."""
    return TrainSettings(
        seed=5, epochs=1, batch_size=4, n_examples=120, grid=TokenGrid(**GRID), architecture=ARCHITECTURES["mlp"]
    )


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """Save a model of random weights: ``make_model(name="cnn", family="cnn", seed=1, grid=GRID)`` gives its folder."""
    from shutterless.models.families import build_model
    from shutterless.pipeline.tokens import TokenGrid

    def make(name: str = "cnn", family: str = "cnn", seed: int = 1, grid: dict | None = None) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        token_grid = TokenGrid(**(grid or GRID))
        build_model(family, token_grid, ARCHITECTURES[family], seed=seed).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tracking(tmp_path_factory):
    """One SQLite store for all tests (making one takes seconds); each test uses names of its own."""
    from shutterless.workflows.tracking.tracking import open_tracking

    return open_tracking(f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")


@pytest.fixture
def n_searched(monkeypatch) -> list[int]:
    """A list that grows by one with every amplifier that is searched."""
    from shutterless.workflows.searching import segment_search as segment_search

    calls: list[int] = []
    find = segment_search.find_triggers_for

    def counted(*arguments):
        calls.append(1)
        return find(*arguments)

    monkeypatch.setattr(segment_search, "find_triggers_for", counted)
    return calls

"""Time `shutterless compare` for many tracked runs, and MLflow's own `search_runs` for the same runs.

    python benchmarks/compare.py --runs 1000

The runs are synthetic: families, learning rates and sizes with five seeds each. Every run has forty parameters, the
losses of a training, and tables of completeness, reliability and events. Making them takes minutes and is not timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RHO_BINS, wilson_interval
from shutterless.workflows.comparison.compare import compare_runs
from shutterless.workflows.comparison.counted_events import EVENT_COLUMNS
from shutterless.workflows.tracking.record import DATA_HASH, LEARNING_CURVE
from shutterless.workflows.tracking.tracking import Run, Tracking, open_tracking, track_run

EXPERIMENT = "many"
N_SEEDS, N_EVENTS, N_STEPS = 5, 300, 460
FAMILIES = ("transformer", "cnn", "mlp")


def make_runs(tracking: Tracking, n_runs: int) -> None:
    """Log ``n_runs`` runs of models whose completeness grows with their size and scatters over seeds."""
    rng = np.random.default_rng(0)
    rho = rng.uniform(4, 20, N_EVENTS)
    for number in range(n_runs):
        model, seed = divmod(number, N_SEEDS)
        family, size = FAMILIES[model % len(FAMILIES)], 1000 * (1 + model // len(FAMILIES))
        with track_run(tracking, EXPERIMENT, family, {"shuffled": "false", DATA_HASH: "same"}) as run:
            run.log_params({"family": family, "n_parameters": size, "hidden_size": size}, prefix="arch.")
            run.log_params({f"setting_{i}": i for i in range(36)}, prefix="train.")
            run.log_params({"learning_rate": 1e-3 * (1 + model % 7)}, prefix="train.")
            run.log_data(manifest_hash="same", seed=seed)
            run.log_tags({LEARNING_CURVE: "converged"})
            log_losses(run)
            log_tables(run, rho, threshold=6.4 - 0.3 * np.log10(size / 1000) + 0.05 * rng.standard_normal(), rng=rng)


def log_losses(run: Run) -> None:
    """Log the losses of a training of three epochs."""
    for step in range(20, N_STEPS + 1, 20):
        run.log_metrics({"train.loss": 0.3 + 2 * np.exp(-step / 90), "train.accuracy": 0.9, "train.auc": 0.95}, step)
        if step % 153 < 20:
            run.log_metrics({"validation.loss": 0.35 + 2 * np.exp(-step / 90), "validation.auc": 0.94}, step)


def log_tables(run: Run, rho: np.ndarray, threshold: float, rng: np.random.Generator) -> None:
    """Log the tables of an evaluation."""
    found = rho + rng.standard_normal(len(rho)) > threshold
    index = np.arange(len(rho))
    events = pd.DataFrame({
        "detector": "made up", "event_id": [f"e{i}" for i in index], "kind": "flare", "rho": rho,
        "sequence": [f"s{i % 10}" for i in index], "file": [f"f{i % 20}" for i in index],
        "entry": [f"f{i % 20}q{i % 4}" for i in index], "score": rho, "found": found,
        "duration_s": 0.1, "sign": 1, "flux_e_s": 1e5,
    })  # fmt: skip
    run.log_table(events[list(EVENT_COLUMNS)], "events")
    bins = pd.DataFrame({"rho_low": RHO_BINS[:-1], "rho_high": RHO_BINS[1:]})
    inside = np.digitize(rho, RHO_BINS) - 1
    bins["n"] = np.bincount(inside, minlength=len(bins))[: len(bins)]
    bins["found"] = np.bincount(inside, weights=found, minlength=len(bins))[: len(bins)]
    bins["low"], bins["high"] = wilson_interval(bins["found"], bins["n"])
    run.log_table(bins.assign(kind="all", completeness=bins["found"] / bins["n"]), "completeness")
    centres = np.linspace(0.05, 0.95, 10)
    run.log_table(
        pd.DataFrame({"bin_low": centres - 0.05, "mean_probability": centres, "observed_fraction": centres, "n": 50}),
        "reliability",
    )
    half = 1.96 * float(np.sqrt(found.mean() * (1 - found.mean()) / len(found)))
    figures = {"completeness": found.mean(), "completeness_low": found.mean() - half, "rho50": threshold, "eta": 6.0}
    run.log_metrics({**figures, "completeness_high": found.mean() + half, "rate_per_hour": 50.0, "loss_mag": 0.05})
    run.log_metrics({"train_seconds": 60.0, "strips_per_second": 1500.0, "calibration_error": 0.02})


def time_search(uri: str) -> float:
    """Seconds that MLflow takes to list the runs in its own table."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    started = time.perf_counter()
    mlflow.search_runs(experiment_names=[EXPERIMENT], max_results=100_000)
    return time.perf_counter() - started


def main() -> None:
    """Make runs, then time both three times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="folder of the runs; existing ones are used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        is_new = not (folder / "mlflow.db").is_file()
        tracking = open_tracking(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        if is_new:
            started = time.perf_counter()
            make_runs(tracking, options.runs)
            print(f"made {options.runs} runs in {time.perf_counter() - started:.0f} s")
        for _ in range(3):
            searched = time_search(tracking.uri)
            started, used = time.perf_counter(), time.process_time()
            comparison = compare_runs(
                tracking_uri=tracking.uri, experiment=EXPERIMENT, metric="completeness", out=folder / "comparison"
            )
            taken, used = time.perf_counter() - started, time.process_time() - used
            print(
                f"{len(comparison.runs)} runs, {len(comparison.models)} models: "
                f"compare {taken:.1f} s (processor {used:.1f} s), MLflow's search_runs alone {searched:.1f} s, "
                f"ratio {taken / searched:.2f}"
            )
    print(comparison.verdict.text())


if __name__ == "__main__":
    main()

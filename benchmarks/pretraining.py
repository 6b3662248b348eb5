"""Measure what masked-patch pretraining gains: fine-tuning against training from scratch, for several maskings.

    python -W ignore benchmarks/pretraining.py [--quick] [--store STORE --test-store OTHER]

A small transformer is trained with one thread on simulated frames with a moving atmosphere; the results hold for this
size and these frames. Without stores, three CCDs are simulated and ingested into a temporary folder: two for training,
and one with other stars, of which two amplifiers choose the best epoch and two are the test.

Part 1: the result of the pretraining (error over that of predicting 0 on unlabelled test strips by source, with a
quarter of the patches hidden at a time), then test AUC and loss of the event decision, from scratch and from the
pretrained encoder, after the same number of steps. Given are mean and standard deviation over seeds, which change the
weights of the head (or of the whole model), the examples and their order. Part 2: the same for several maskings after
fewer steps of pretraining, and the test AUC with the fewest examples. Part 3: events against noise by reconstruction
error alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch.nn.functional import binary_cross_entropy_with_logits

from shutterless.models.evaluation.platt import roc_area
from shutterless.models.families import build_model
from shutterless.models.pretraining.fit import fit_masked_model
from shutterless.models.pretraining.masked_patches import MaskedPatchModel, build_masked_model, start_from_encoder
from shutterless.models.pretraining.plots import plot_pretraining, plot_reconstruction
from shutterless.models.pretraining.reconstruction import reconstruct
from shutterless.models.pretraining.settings import Masking, PretrainingSettings
from shutterless.models.scoring import score_strips
from shutterless.models.training.fit import fit_model
from shutterless.models.training.settings import TrainingSettings
from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.examples.training import TrainingSet, concatenate_training_sets
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.settings.settings import PretrainSettings, TrainSettings, load_scene, load_settings
from shutterless.workflows.training.train import draw_training_set
from shutterless.workflows.training.unlabelled import UnlabelledSet, draw_unlabelled

ARCH = {"hidden_size": 48, "n_layers": 2, "n_heads": 4, "mlp_size": 96}
MASKINGS = (
    Masking(0.15, 0.0, 4),
    Masking(0.3, 0.0, 4),
    Masking(0.5, 0.0, 4),
    Masking(0.5, 1.0, 4),
    Masking(0.75, 0.5, 4),
)
TURNS = 4  # of the common test: a quarter of the patches hidden at a time
SCENE = {"events": 0, "atmosphere": True, "detector": True, "sky_lights": True}


@dataclass(frozen=True)
class Sizes:
    """Numbers of rows, strips, steps and seeds.

    Parameters
    ----------
    rows : int
        Rows of each simulated CCD.
    n_unlabelled, sweep_epochs, epochs : int
        Strips of the pretraining; passes over them for each masking of part 2, and for part 1.
    labelled : tuple of int
        Examples of the fine-tuning.
    n_judged, n_validation : int
        Examples of validation and test together, and the number of validation examples used after each epoch.
    steps, batch_size : int
        Settings of every fine-tuning.
    seeds : int
    """

    rows: int = 8000
    n_unlabelled: int = 5000
    sweep_epochs: int = 3
    epochs: int = 10
    labelled: tuple[int, ...] = (500, 2000, 8000)
    n_judged: int = 2500
    n_validation: int = 400
    steps: int = 150
    batch_size: int = 64
    seeds: int = 3


QUICK = Sizes(4000, 800, 1, 2, (100, 200), 300, 100, 10, 32, 2)


@dataclass(frozen=True)
class Judged:
    """Examples for training, and for validation and test, which are of other stars."""

    training: TrainingSet
    validation: TrainingSet
    test: TrainingSet


def make_store(folder: Path, name: str, seed: int, ccds: Sequence[int], rows: int) -> Path:
    """Simulate and ingest one sequence."""
    scene = load_scene({**SCENE, "sequence": name, "seed": seed, "ccds": list(ccds), "rows": rows})
    made = simulate_scene(scene, folder / name, executor=SerialExecutor())
    ingest_files(made.files, folder / f"{name}-store", executor=SerialExecutor())
    return folder / f"{name}-store"


def draw_labelled(store: Path, test_store: Path, sizes: Sizes, train: TrainSettings) -> Judged:
    """Draw examples of both stores; groups of the second alternate between validation and test."""
    training = draw_training_set(store, replace(train, n_examples=max(sizes.labelled), seed=5))
    judged = draw_training_set(test_store, replace(train, n_examples=sizes.n_judged, seed=6))
    even = np.flatnonzero(judged.groups % 2 == 0)
    chosen = np.sort(np.random.default_rng(7).permutation(even)[: sizes.n_validation])
    return Judged(training, judged[chosen], judged[judged.groups % 2 == 1])


def pretrain_on(
    drawn: UnlabelledSet, masking: Masking, epochs: int, batch_size: int
) -> tuple[MaskedPatchModel, pd.DataFrame]:
    """Pretrain on the training strips."""
    model = build_masked_model(drawn.grid, ARCH, masking, seed=1)
    settings = PretrainingSettings(
        epochs=epochs, patience=epochs, batch_size=batch_size, learning_rate=2e-3, seed=1, device="cpu"
    )
    index = (np.flatnonzero(~drawn.for_validation), np.flatnonzero(drawn.for_validation))
    result = fit_masked_model(model, drawn.strips, *index, drawn.sources, settings)
    return result.model, result.history


def fine_tune(
    judged: Judged, n_examples: int, seed: int, sizes: Sizes, pretrained: MaskedPatchModel | None
) -> dict[str, float]:
    """Train on some examples; AUC and loss of the event decision on the test strips."""
    index = np.random.default_rng(seed).permutation(len(judged.training))[:n_examples]
    validation = replace(judged.validation, groups=np.full(len(judged.validation), -1))
    examples = concatenate_training_sets([judged.training[np.sort(index)], validation])
    model: Any = build_model("transformer", examples.grid, ARCH, seed=seed)
    if pretrained is not None:
        start_from_encoder(model, pretrained, "pretrained")
    steps_per_epoch = -(-n_examples // sizes.batch_size)
    settings = TrainingSettings(
        epochs=-(-sizes.steps // steps_per_epoch), max_steps=sizes.steps, batch_size=sizes.batch_size,
        learning_rate=2e-3, seed=seed, device="cpu",
    )  # fmt: skip
    result = fit_model(model, examples, settings, validation_groups=[-1])
    logit = score_strips(result.model, judged.test.strips, device="cpu")["event_logit"].to_numpy()
    truth = judged.test.labels.is_event
    loss = binary_cross_entropy_with_logits(torch.from_numpy(logit), torch.from_numpy(truth).double())
    return {"auc": roc_area(logit, truth), "loss": float(loss)}


def over_seeds(judged: Judged, n_examples: int, sizes: Sizes, pretrained: MaskedPatchModel | None) -> pd.DataFrame:
    """One row of `fine_tune` per seed."""
    return pd.DataFrame([fine_tune(judged, n_examples, seed, sizes, pretrained) for seed in range(sizes.seeds)])


def spread(values: pd.Series) -> str:
    """Mean and standard deviation over seeds."""
    return f"{values.mean():.4f} ± {values.std():.4f}"


def sweep_maskings(
    drawn: UnlabelledSet, unseen: UnlabelledSet, judged: Judged, sizes: Sizes
) -> Iterator[dict[str, Any]]:
    """Part 2: one row per masking."""
    for masking in MASKINGS:
        model, _ = pretrain_on(drawn, masking, sizes.sweep_epochs, sizes.batch_size)
        found = over_seeds(judged, min(sizes.labelled), sizes, model)
        row = {"hidden": masking.share, "in runs": masking.run_share}
        yield {**row, **ratios(model, unseen), "AUC": spread(found["auc"])}


def ratios(model: MaskedPatchModel, unseen: UnlabelledSet) -> dict[str, float]:
    """Error over that of predicting 0, of all strips and of each source."""
    found = {}
    for source in ("all", *sorted(set(unseen.sources))):
        strips = unseen.strips[(unseen.sources == source) | (source == "all")]
        found[source] = reconstruct(model, strips, n_turns=TURNS, device="cpu").ratio
    return found


def compare_starts(judged: Judged, sizes: Sizes, pretrained: MaskedPatchModel) -> Iterator[dict[str, Any]]:
    """Part 1: one row per number of examples; differences are paired by seed."""
    for n_examples in sizes.labelled:
        scratch, started = (over_seeds(judged, n_examples, sizes, start) for start in (None, pretrained))
        row: dict[str, Any] = {"examples": n_examples}
        for name in ("auc", "loss"):
            row |= {f"{name} scratch": spread(scratch[name]), f"{name} pretrained": spread(started[name])}
            row[f"{name} gain"] = spread(started[name] - scratch[name])
        yield row


def separate_by_error(model: MaskedPatchModel, test: TrainingSet) -> pd.DataFrame:
    """Part 3: for each kind, the ratio, the median error, and the AUC of the error alone against noise."""
    found = reconstruct(model, test.strips, n_turns=TURNS, device="cpu")
    kind = np.asarray(KINDS, dtype=object)[test.labels.kind]
    error, noise = found.strip_error, kind == "noise"
    rows = []
    for name in sorted(set(kind)):
        own = kind == name
        auc = roc_area(error[own | noise], own[own | noise]) if name != "noise" else np.nan
        rows.append({"kind": name, "strips": own.sum(), "ratio": reconstruct(
            model, test.strips[own], n_turns=TURNS, device="cpu").ratio, "median error": np.median(error[own]),
            "AUC against noise": auc})  # fmt: skip
    return pd.DataFrame(rows)


def draw_pictures(model: MaskedPatchModel, history: pd.DataFrame, test: TrainingSet, folder: Path) -> None:
    """Write the learning curve, and for each kind the strip that is predicted best, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure((8, 4), layout="constrained")
    plot_pretraining(history, figure.add_subplot())
    figure.savefig(folder / "learning_curve.png", dpi=110)
    found = reconstruct(model, test.strips, n_turns=TURNS, device="cpu")
    for kind in sorted(set(test.labels.kind)):
        own = np.flatnonzero(test.labels.kind == kind)
        figure = Figure((7, 6), layout="constrained")
        plot_reconstruction(found, int(own[np.argmin(found.strip_ratio[own])]), figure.add_subplot())
        figure.savefig(folder / f"{KINDS[kind]}.png", dpi=110)


def measure(store: Path, test_store: Path, sizes: Sizes, pictures: Path | None) -> None:
    """Print the three tables."""
    train = load_settings().train_for("transformer")
    drawn, unseen = (
        draw_unlabelled(path, PretrainSettings(n_strips=n), train)
        for path, n in ((store, sizes.n_unlabelled), (test_store, sizes.n_unlabelled // 5))
    )
    judged = draw_labelled(store, test_store, sizes, train)
    print(f"{len(drawn.strips)} strips without labels; {len(judged.training)} examples, "
          f"{len(judged.validation)} for validation, {len(judged.test)} for the test")  # fmt: skip
    model, history = pretrain_on(drawn, Masking(), sizes.epochs, sizes.batch_size)
    print(f"\npart 1: pretrained for {sizes.epochs} epochs with {Masking()}, error over that of predicting 0:")
    print(pd.Series(ratios(model, unseen)).to_string(float_format="{:.4f}".format), flush=True)
    print(f"{sizes.steps} steps of {sizes.batch_size}, {sizes.seeds} seeds")
    for row in compare_starts(judged, sizes, model):
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    print(f"\npart 2: {sizes.sweep_epochs} epochs each; error over that of predicting 0, AUC after fine-tuning on "
          f"{min(sizes.labelled)}")  # fmt: skip
    for row in sweep_maskings(drawn, unseen, judged, sizes):
        values = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}
        print(", ".join(f"{name} {value}" for name, value in values.items()), flush=True)
    print("\npart 3: the reconstruction error alone")
    print(separate_by_error(model, judged.test).to_string(index=False, float_format="{:.3f}".format))
    if pictures is not None:
        draw_pictures(model, history, judged.test, pictures)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute instead of many, without meaningful results")
    parser.add_argument("--store", type=Path, help="event-free store for training")
    parser.add_argument("--test-store", type=Path, help="event-free store of other stars")
    parser.add_argument("--pictures", type=Path, help="folder for PNGs")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = arguments.store or make_store(Path(folder), "learn", 81, (1, 2), sizes.rows)
        test_store = arguments.test_store or make_store(Path(folder), "judge", 82, (3,), sizes.rows)
        measure(store, test_store, sizes, arguments.pictures)
    print(f"\n{time.perf_counter() - started:.0f} s, {time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()

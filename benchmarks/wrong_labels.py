"""Flip a share of the labels of a training: what the detector loses, and how many of the flipped ones are found.

    python benchmarks/wrong_labels.py runs/quickstart

Frames, training strips and the held-out store are those of a finished quickstart (`make run`). For every seed a share
of the labels of the training and validation strips is flipped at random. A model is trained on the true labels, one on
the flipped ones, and one on the flipped ones without the suspects, which are found out of fold
(`shutterless.models.training.wrong_labels`). All are judged on the held-out frames at the same counted rate of false
alarms, that of `shutterless evaluate`.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.families import build_model
from shutterless.models.inputs import DetectorModel
from shutterless.models.training.wrong_labels import find_suspects, score_out_of_fold
from shutterless.pipeline.events.kinds import KINDS, NOISE
from shutterless.pipeline.examples.training import UNKNOWN_KIND, TrainingSet
from shutterless.workflows.comparison.evaluate import evaluate_detectors
from shutterless.workflows.settings.settings import load_settings
from shutterless.workflows.training.train import TrainTask, fit_detector


def flip_labels(training_set: TrainingSet, chosen: np.ndarray) -> TrainingSet:
    """The same examples, those chosen with the other label; what only a true event has is unknown."""
    labels = training_set.labels
    was_event = labels.is_event[chosen] > 0.5
    changed = {name: array.copy() for name, array in labels.arrays().items()}
    changed["is_event"][chosen] = np.where(was_event, 0.0, 1.0)
    changed["kind"][chosen] = np.where(was_event, KINDS.index(NOISE), UNKNOWN_KIND)
    for name in ("onset", "log2_duration", "rho"):
        changed[name][chosen] = np.nan
    changed["weight"] = np.ones(len(training_set), dtype=np.float32)
    return replace(training_set, labels=replace(labels, **changed))


def without(training_set: TrainingSet, suspects: np.ndarray) -> TrainingSet:
    """The same examples, of which the suspects do not count."""
    weight = np.ones(len(training_set), dtype=np.float32)
    weight[suspects] = 0.0
    return replace(training_set, labels=replace(training_set.labels, weight=weight))


def main() -> None:
    """Train, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished quickstart")
    parser.add_argument("--family", default="transformer", choices=("transformer", "cnn", "mlp"))
    parser.add_argument("--share", type=float, default=0.2, help="of the labels that are flipped")
    parser.add_argument("--examples", type=int, default=8000, help="of the quickstart's, drawn at random")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    settings = load_settings(options.run / "settings.toml")
    own = settings.train_for(options.family)
    everything = TrainingSet.load(options.run / "training_set.npz")

    def build(seed: int) -> DetectorModel:
        return build_model(options.family, everything.grid, own.architecture, seed=seed)

    found = []
    with tempfile.TemporaryDirectory() as work:
        references = []
        for seed in range(1, options.seeds + 1):
            rng = np.random.default_rng(seed)
            here = replace(own, seed=seed)
            clean = everything[np.sort(rng.permutation(len(everything))[: options.examples])]
            flipped = np.sort(rng.permutation(len(clean))[: round(options.share * len(clean))])
            noisy = flip_labels(clean, flipped)
            probability = score_out_of_fold(build, noisy, here, n_folds=options.folds, seeds=(seed,))
            suspects = find_suspects(noisy, probability)
            n_right = np.isin(suspects, flipped).sum()
            found.append((seed, len(clean), len(flipped), len(suspects), n_right))
            print(f"seed {seed}: {len(suspects)} suspects, {n_right} of the {len(flipped)} flipped", flush=True)
            for name, examples in (("true", clean), ("flipped", noisy), ("without-suspects", without(noisy, suspects))):
                folder = Path(work) / f"{name}-{seed}"
                fit_detector(TrainTask(folder.name, options.family), examples, here, folder)
                references.append(str(folder))
        judged = evaluate_detectors(
            options.run / "store" / "held_out", references=references,
            truth=options.run / "evaluation" / "truth.parquet", out=Path(work) / "judged", settings=settings.evaluate,
        )  # fmt: skip
    summary = judged.summary.assign(labels=judged.summary["detector"].str.rpartition("-")[0])
    print(f"\ncompleteness at {judged.summary['rate_per_hour'].iloc[0]:.0f} false alarms per amplifier-hour, "
          f"{judged.summary['n_events'].iloc[0]} events")  # fmt: skip
    table = summary.assign(seed=summary["detector"].str.rpartition("-")[2])
    table = table.pivot_table(index="labels", columns="seed", values="completeness", sort=False)
    print((100 * table.assign(mean=table.mean(axis=1))).to_string(float_format="{:.1f}".format))
    counts = pd.DataFrame(found, columns=["seed", "examples", "flipped", "suspects", "flipped_found"])
    counts = counts.assign(
        recall=counts["flipped_found"] / counts["flipped"], precision=counts["flipped_found"] / counts["suspects"]
    )
    print("\n" + counts.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()

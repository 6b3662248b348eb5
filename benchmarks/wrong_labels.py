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


def judge_flips(
    run: Path, *, family: str = "transformer", share: float = 0.2, n_examples: int = 8000, n_seeds: int = 3,
    n_folds: int = 5, epochs: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Train on true and on flipped labels, with and without suspects, and judge on held-out frames.

    Parameters
    ----------
    run : Path
        Folder of a finished quickstart.
    family : str
    share : float
        Of the labels that are flipped.
    n_examples, n_seeds, n_folds : int
    epochs : int, optional
        Instead of those of the quickstart.

    Returns
    -------
    judged : DataFrame
        ``labels`` (true, flipped, without-suspects), ``seed``, ``completeness``, ``rate_per_hour``, ``n_events``.
    suspects : DataFrame
        ``seed``, and numbers of ``examples``, ``flipped``, ``suspects`` and ``flipped_found``.
    """
    settings = load_settings(run / "settings.toml")
    own = settings.train_for(family)
    if epochs is not None:
        own = replace(own, epochs=epochs)
    everything = TrainingSet.load(run / "training_set.npz")

    def build(seed: int) -> DetectorModel:
        return build_model(family, everything.grid, own.architecture, seed=seed)

    found = []
    with tempfile.TemporaryDirectory() as work:
        references = []
        for seed in range(1, n_seeds + 1):
            rng = np.random.default_rng(seed)
            here = replace(own, seed=seed)
            clean = everything[np.sort(rng.permutation(len(everything))[:n_examples])]
            flipped = np.sort(rng.permutation(len(clean))[: round(share * len(clean))])
            noisy = flip_labels(clean, flipped)
            probability = score_out_of_fold(build, noisy, here, n_folds=n_folds, seeds=(seed,))
            suspects = find_suspects(noisy, probability)
            found.append((seed, len(clean), len(flipped), len(suspects), np.isin(suspects, flipped).sum()))
            print(f"seed {seed}: {len(suspects)} suspects, {found[-1][-1]} of the {len(flipped)} flipped", flush=True)
            for name, examples in (("true", clean), ("flipped", noisy), ("without-suspects", without(noisy, suspects))):
                folder = Path(work) / f"{name}-{seed}"
                fit_detector(TrainTask(folder.name, family), examples, here, folder)
                references.append(str(folder))
        summary = evaluate_detectors(
            run / "store" / "held_out", references=references, truth=run / "evaluation" / "truth.parquet",
            out=Path(work) / "judged", settings=settings.evaluate,
        ).summary  # fmt: skip
    names = summary["detector"].str.rpartition("-")
    judged = summary[["completeness", "rate_per_hour", "n_events"]].assign(labels=names[0], seed=names[2].astype(int))
    return judged, pd.DataFrame(found, columns=["seed", "examples", "flipped", "suspects", "flipped_found"])


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
    judged, counts = judge_flips(
        options.run, family=options.family, share=options.share, n_examples=options.examples, n_seeds=options.seeds,
        n_folds=options.folds,
    )  # fmt: skip
    first = judged.iloc[0]
    print(f"\ncompleteness at {first['rate_per_hour']:.0f} false alarms per amplifier-hour, {first['n_events']} events")
    table = judged.pivot_table(index="labels", columns="seed", values="completeness", sort=False)
    print((100 * table.assign(mean=table.mean(axis=1))).to_string(float_format="{:.1f}".format))
    counts = counts.assign(
        recall=counts["flipped_found"] / counts["flipped"], precision=counts["flipped_found"] / counts["suspects"]
    )
    print("\n" + counts.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()

"""Nineteen examples of a class that no model was trained on: flares with two peaks. Who tells them from all the rest?

    python benchmarks/new_class.py

Two fields are simulated in still air, one to learn from and one to judge on. A double flare is a flare with a second
one on the same star, 2 to 5 widths later and 0.6 to 1 times as high, together as bright as the single events (ρ 12 to
40). All the rest are strips with other injected events, cosmic rays, scrambled noise and false triggers. A draw learns
from 19 doubles and 95 others, drawn anew, and judges all strips of the other field, where one in ten is a double. Every
network is trained on the one question (`is it a double?`): the bundled transformer with all its weights, the other
three from drawn weights. The nearest centroid takes the summaries of the bundled transformer as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from shutterless.models.boxes.judge import JudgedBoxes
from shutterless.models.explain.embedding import summarise_strips
from shutterless.models.families import build_model, load_model
from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import score_strips
from shutterless.models.training.fit import fit_model
from shutterless.models.training.settings import TrainingSettings
from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.examples.strips import cut_strips
from shutterless.pipeline.examples.training import (
    ExampleSettings,
    Labels,
    TrainingSet,
    concatenate_training_sets,
    draw_examples,
)
from shutterless.pipeline.injection.amplifiers import (
    INJECTED_COLUMNS,
    InjectionSettings,
    add_injection,
    place_injections,
    stamp_injection,
)
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.store.store import open_amplifier, read_manifest
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.frames.simulate import simulate_scene
from shutterless.workflows.tracking.tracking import bundled_folder

RHO, RECALL = (12.0, 40.0), 0.7
N_EXAMPLES, N_OTHERS, RARITY = 19, 95, 10
SEEDS = {"learning": 71, "judging": 9071}
DOUBLES_AT_ONCE, PASSES = 12, 4
FINE_TUNING = TrainingSettings(epochs=20, batch_size=16, learning_rate=5e-4, log_steps=100)
FROM_SCRATCH = replace(FINE_TUNING, learning_rate=2e-3)


def add_doubles(amplifier: Amplifier, rng: np.random.Generator, n: int) -> tuple[Amplifier, pd.DataFrame]:
    """A copy of an amplifier with flares that have a second peak, and their truth."""
    injected = replace(amplifier, residual=np.array(amplifier.residual))
    settings = InjectionSettings(kinds=(("flare", 1.0),), rho=RHO, partial=0, longest_flare_s=2.0)
    rows = []
    for first in place_injections(amplifier, rng, settings, n):
        event = first.event
        later = replace(event, row_peak=event.row_peak + rng.uniform(2, 5) * event.scale_rows)
        try:
            second = stamp_injection(amplifier, later, first.star_flux_e_row)
        except ValueError:  # beyond the end of the file
            continue
        share = rng.uniform(0.6, 1.0)
        both = np.hypot(1, share)
        for part, height in ((first, 1.0), (second, share)):
            add_injection(
                injected, replace(part, event=replace(event, amplitude_e=event.amplitude_e * height / both)), rng
            )
        truth = dict(zip(INJECTED_COLUMNS, first.truth(), strict=True))
        rows.append({**truth, "row_start": first.rows[0], "row_stop": second.rows[1]})
    return injected, pd.DataFrame(rows, columns=list(INJECTED_COLUMNS))


def double_strips(amplifier: Amplifier, grid: TokenGrid, rng: np.random.Generator) -> TrainingSet:
    """Strips around the strongest trigger of each double flare that is found."""
    parts = []
    for _ in range(PASSES):
        injected, truth = add_doubles(amplifier, rng, DOUBLES_AT_ONCE)
        triggers = find_triggers(injected, 6.4)
        matched = match_truth(triggers, truth)
        order = np.lexsort((-triggers["snr"].abs().to_numpy(), matched))
        order = order[matched[order] >= 0]
        best = order[np.unique(matched[order], return_index=True)[1]]
        strips = cut_strips(injected, triggers.iloc[best], grid)
        parts.append(TrainingSet(strips, plain_labels(len(best), 1.0), np.zeros(len(best), np.int64), grid))
    return concatenate_training_sets(parts)


def plain_labels(n: int, is_double: float) -> Labels:
    """Labels of the one question; everything else is unknown."""
    unknown = np.full(n, np.nan, np.float32)
    return Labels(np.full(n, is_double, np.float32), np.zeros(n, np.int64), unknown, unknown, unknown)


def draw_field(seed: int, grid: TokenGrid) -> tuple[TrainingSet, TrainingSet]:
    """Doubles, and all the rest, of one simulated field."""
    rng = np.random.default_rng(seed)
    others = ExampleSettings(n_events=120, n_cosmic_rays=30, n_noise=30, injection=InjectionSettings(rho=RHO))
    doubles, rest = [], []
    with tempfile.TemporaryDirectory() as folder:
        scene = SceneSettings(sequence="c", seed=seed, rows=8000, events=0, first_row=None)
        files = simulate_scene(scene, Path(folder) / "frames", executor=SerialExecutor()).files
        store = Path(folder) / "store"
        ingest_files(files, store, executor=SerialExecutor())
        for entry in read_manifest(store)["entry"]:
            amplifier = open_amplifier(store, entry)
            doubles.append(double_strips(amplifier, grid, rng))
            drawn = draw_examples(amplifier, grid, rng, others)
            rest.append(replace(drawn, labels=plain_labels(len(drawn), 0.0)))
    return concatenate_training_sets(doubles), concatenate_training_sets(rest)


def answer(model: DetectorModel, examples: TrainingSet, test: TrainingSet, settings: TrainingSettings) -> np.ndarray:
    """Scores of the judged strips after training on the one question."""
    model.config.loss_weights = {**model.config.loss_weights, "kind": 0.0, "onset": 0.0, "log2_duration": 0.0}
    fit_model(model, examples, settings)
    return score_strips(model, test.strips)["event_logit"].to_numpy()


def nearest_centroid(examples: TrainingSet, test: TrainingSet) -> np.ndarray:
    """How much nearer a strip is to the mean summary of the doubles than to that of the rest, in scaled summaries."""
    model = load_model(bundled_folder() / "transformer")
    learned, judged = (summarise_strips(model, one.strips) for one in (examples, test))
    middle, scale = learned.mean(0), learned.std(0) + 1e-6
    is_double = examples.labels.is_event > 0.5
    centroids = [((learned[chosen] - middle) / scale).mean(0) for chosen in (is_double, ~is_double)]
    near, far = (np.linalg.norm((judged - middle) / scale - centroid, axis=1) for centroid in centroids)
    return far - near


def judge(score: np.ndarray, is_double: np.ndarray) -> JudgedBoxes:
    """Precision and recall of scores."""
    order = np.argsort(-score, kind="stable")
    return JudgedBoxes(score[order], is_double[order], int(is_double.sum()))


def run_draw(
    fields: dict[str, Any], seed: int, grid: TokenGrid, plans: tuple[TrainingSettings, TrainingSettings]
) -> dict[str, JudgedBoxes]:
    """What every rival finds in one draw; ``plans`` are those of fine-tuning and of trainings from scratch."""
    rng = np.random.default_rng(seed)
    doubles, others = fields["learning"]
    drawn = doubles[rng.permutation(len(doubles))[:N_EXAMPLES]], others[rng.permutation(len(others))[:N_OTHERS]]
    examples = concatenate_training_sets(drawn)
    examples = replace(examples, groups=rng.integers(0, 10, len(examples)))  # a fifth of them chooses the epoch
    doubles, others = fields["judging"]
    n_doubles = min(len(doubles), len(others) // (RARITY - 1))
    test = concatenate_training_sets([doubles[np.arange(n_doubles)], others])
    settings = replace(plans[0], seed=seed), replace(plans[1], seed=seed)
    scores = {
        "bundled transformer": answer(load_model(bundled_folder() / "transformer"), examples, test, settings[0]),
        **{
            f"{name} from scratch": answer(build_model(name, grid, seed=seed), examples, test, settings[1])
            for name in ("transformer", "cnn", "mlp")
        },
        "nearest centroid": nearest_centroid(examples, test),
    }
    is_double = test.labels.is_event > 0.5
    return {name: judge(score, is_double) for name, score in scores.items()}


def judge_draws(
    n_draws: int, plans: tuple[TrainingSettings, TrainingSettings] = (FINE_TUNING, FROM_SCRATCH)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge all rivals.

    Returns
    -------
    draws : DataFrame
        ``rival``, ``seed``, ``n_doubles`` and ``n_strips`` of the judging field, ``precision`` at 70 % recall.
    curves : DataFrame
        ``rival``, ``seed``, ``precision`` and ``recall`` of every strip.
    """
    grid = load_model(bundled_folder() / "transformer").grid
    fields = {name: draw_field(seed, grid) for name, seed in SEEDS.items()}
    for name, (doubles, others) in fields.items():
        print(f"{name}: {len(doubles)} doubles, {len(others)} others", flush=True)
    draws, curves = [], []
    for seed in range(1, n_draws + 1):
        for rival, one in run_draw(fields, seed, grid, plans).items():
            own = {"rival": rival, "seed": seed}
            counts = {"n_doubles": one.n_true, "n_strips": len(one.score)}
            draws.append({**own, **counts, "precision": one.precision_at(RECALL)})
            curves.append(pd.DataFrame({"precision": one.precision, "recall": one.recall}).assign(**own))
    return pd.DataFrame(draws), pd.concat(curves, ignore_index=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draws, _ = judge_draws(arguments.draws)
    print(f"\n| precision at {RECALL:.0%} recall | mean ± scatter | draws |\n|---|---|---|")
    for rival, own in draws.groupby("rival", sort=False):
        values = own["precision"]
        each = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {rival} | {values.mean():.1%} ± {values.std():.1%} | {each} |")


if __name__ == "__main__":
    main()

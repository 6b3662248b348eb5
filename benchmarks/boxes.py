"""How well does the box detector find light echoes after nineteen boxed examples? And what does each part of it give?

    python benchmarks/boxes.py --out runs/boxes                # pretrains, fine-tunes, judges; prints a table
    python benchmarks/boxes.py --out runs/boxes --install      # pretrains alone, and copies the weights that ship

Everything is simulated. The detectors are pretrained on two kinds of survey, one after the other, and fine-tuned on a
third, which has more stars, more correlated noise, coarser pixels and dust that is less even than the first; the second
has wide ranges that hold both. A draw has six fields; of their tiles as many are labelled as hold nineteen echoes, with
boxes that are shifted and stretched as a person's are, and the artefacts in these tiles are boxed, too. Six other tiles
of these fields have no echo. Twenty other fields of the third survey judge, the same for all draws. `--out` keeps
pretrained weights: a second call starts from them. `few_labels.py` makes a page of the results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.boxes.find import find_boxes
from shutterless.models.boxes.fit import build_box_detector, copy_detector, find_in_tiles, fit_boxes
from shutterless.models.boxes.judge import JudgedBoxes, judge_boxes
from shutterless.models.boxes.saved import load_boxes
from shutterless.models.boxes.settings import BoxTrainingSettings
from shutterless.models.boxes.simulated import simulate_tiles
from shutterless.models.boxes.tiles import TileSet
from shutterless.pipeline.simulation.difference_images import BOX_KINDS, DifferenceSettings
from shutterless.workflows.tracking.tracking import bundled_folder

FIRST_SURVEY = DifferenceSettings(trails=0.3, ghosts=0.3)
WIDE_SURVEY = DifferenceSettings(
    pixel_scale_arcsec=(0.5, 2.5), noise_scale_px=(0.0, 1.3), stars=(2, 70), background_sigma=(0.0, 0.4),
    wiggle_px=(0, 7), bad_columns=0.6, trails=0.3, ghosts=0.3,
)  # fmt: skip
OTHER_SURVEY = DifferenceSettings(
    pixel_scale_arcsec=(1.5, 2.5), noise_scale_px=(0.7, 1.1), stars=(15, 60), background_sigma=(0.1, 0.35),
    wiggle_px=(3, 7), echo_length_px=(25, 110), bad_columns=0.8,
)  # fmt: skip
PRETRAINING = BoxTrainingSettings(epochs=12, batch_size=4, learning_rate=1.5e-3, empty_share=0.2)
FINE_TUNING = BoxTrainingSettings(epochs=40, batch_size=4)
JUDGING_SEED, DRAW_SEEDS = 9001, range(9101, 9106)
TILES_PER_FIELD = 4
N_EXAMPLES, N_EMPTY, RECALL = 19, 6, 0.7
OVERLAPS = (0.1, 0.3)  # IoU: the box points at the echo, and the box is about that of the echo
SHIPPED = "no attention"  # the best after fine-tuning, and the fastest
VARIANTS = ("all parts", "no attention", "no pretraining", "no artefact class", "not fine-tuned")


@dataclass(frozen=True)
class Stage:
    """A part of the pretraining, on a survey of its own."""

    survey: DifferenceSettings
    n_fields: int
    settings: BoxTrainingSettings


@dataclass(frozen=True)
class Plan:
    """How much is simulated and learned.

    Parameters
    ----------
    stages : tuple of Stage
    n_draws, n_judging : int
        Draws of examples, and fields that judge.
    fine_tuning : BoxTrainingSettings
    """

    stages: tuple[Stage, ...] = (
        Stage(FIRST_SURVEY, 300, PRETRAINING),
        Stage(WIDE_SURVEY, 400, replace(PRETRAINING, seed=2, learning_rate=1e-3)),
    )
    n_draws: int = len(DRAW_SEEDS)
    n_judging: int = 20
    fine_tuning: BoxTrainingSettings = FINE_TUNING


FULL = Plan()
QUICK = Plan((Stage(FIRST_SURVEY, 15, replace(PRETRAINING, epochs=3)),), 2, 4, replace(FINE_TUNING, epochs=5))


def pretrained(folder: Path, variant: str, plan: Plan = FULL) -> BoxDetector:
    """The detector from which a variant starts; trained once and kept."""
    name = "no-attention" if variant == "no attention" else "pretrained"
    if not (folder / name / "training.json").is_file():
        started = time.perf_counter()
        model = build_box_detector(attention=variant != "no attention")
        stages = []
        for number, stage in enumerate(plan.stages, 1):
            tiles = simulate_tiles(number, stage.survey, stage.n_fields, TILES_PER_FIELD, echo_share=0.7)
            losses = fit_boxes(model, tiles, stage.settings)["loss"].round(4).tolist()
            stages.append({**asdict(stage), "n_tiles": len(tiles), "loss": losses})
            print(f"{name}, stage {number}: loss {losses[-1]:.3f}", flush=True)
        model.save_pretrained(folder / name)
        facts = {
            "command": "python benchmarks/boxes.py --out runs/boxes --install",
            "trained_on": "simulated difference images alone",
            "stages": stages,
            "train_seconds": round(time.perf_counter() - started),
        }
        (folder / name / "training.json").write_text(json.dumps(facts, indent=1))
    return load_boxes(folder / name)


@cache
def draw_examples(seed: int) -> TileSet:
    """Labelled tiles of a draw: nineteen echoes, the artefacts beside them, and tiles without an echo."""
    tiles = simulate_tiles(seed, OTHER_SURVEY, 6, 12, echo_share=0.4)
    rng = np.random.default_rng(seed)
    echoes = tiles.boxes[tiles.boxes["kind"] == "echo"]
    order = rng.permutation(np.unique(echoes["tile"]))
    counts = echoes.groupby("tile").size().reindex(order)
    chosen = order[: int(np.searchsorted(counts.cumsum().to_numpy(), N_EXAMPLES)) + 1]
    empty = rng.choice(np.setdiff1d(np.arange(len(tiles)), echoes["tile"]), N_EMPTY, replace=False)
    drawn = tiles.take(np.concatenate([chosen, empty]))
    boxes = drawn.boxes.assign(kind=drawn.boxes["kind"].where(drawn.boxes["kind"] == "echo", "artefact"))
    extra = boxes[boxes["kind"] == "echo"].index[N_EXAMPLES:]
    boxes = boxes.drop(extra)
    shift = rng.normal(0, 0.07, (2, len(boxes))) * boxes[["length", "width"]].to_numpy().T
    boxes["x"] += shift[0] * np.cos(boxes["angle"]) - shift[1] * np.sin(boxes["angle"])
    boxes["y"] += shift[0] * np.sin(boxes["angle"]) + shift[1] * np.cos(boxes["angle"])
    boxes[["length", "width"]] *= np.exp(rng.normal(0, 0.1, (len(boxes), 2)))
    boxes["angle"] += rng.normal(0, 0.05, len(boxes))
    return TileSet(drawn.pixels, boxes, drawn.fields)


def fine_tuned(folder: Path, variant: str, examples: TileSet, plan: Plan) -> BoxDetector:
    """A variant after it learned from the examples of a draw."""
    kinds = ["echo"] if variant == "no artefact class" else list(BOX_KINDS)
    model = build_box_detector(kinds=kinds) if variant == "no pretraining" else pretrained(folder, variant, plan)
    if variant == "not fine-tuned":
        return model
    model = copy_detector(model, kinds)
    fit_boxes(model, examples if "artefact" in kinds else examples.without_kind("artefact"), plan.fine_tuning)
    return model


def judge_variants(folder: Path, plan: Plan = FULL) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge all variants.

    Returns
    -------
    draws : DataFrame
        ``variant``, ``seed``, ``overlap``, ``n_echoes``, ``seconds`` of processor time of the training, ``precision``
        at 70 % recall, ``recall`` at 80 % precision.
    curves : DataFrame
        ``variant``, ``seed``, ``overlap``, ``precision`` and ``recall`` of every found box.
    """
    test = simulate_tiles(JUDGING_SEED, OTHER_SURVEY, plan.n_judging, 8, echo_share=0.4)
    draws: list[dict[str, Any]] = []
    curves = []
    for variant in VARIANTS:
        if variant not in ("no pretraining", "not fine-tuned"):
            pretrained(folder, variant, plan)  # its seconds are those of no draw
        for seed in DRAW_SEEDS[: plan.n_draws] if variant != "not fine-tuned" else DRAW_SEEDS[:1]:
            examples = draw_examples(seed)
            started = time.process_time()
            model = fine_tuned(folder, variant, examples, plan)
            seconds = time.process_time() - started
            found = find_in_tiles(model, test)
            for overlap in OVERLAPS:
                one = judge_boxes(found, test.boxes, "echo", overlap)
                own = {"variant": variant, "seed": seed, "overlap": overlap}
                numbers = {"precision": one.precision_at(RECALL), "recall": recall_at(one, 0.8)}
                draws.append({**own, "n_echoes": one.n_true, "seconds": seconds, **numbers})
                curves.append(pd.DataFrame({"precision": one.precision, "recall": one.recall}).assign(**own))
                print(draws[-1], flush=True)
    return pd.DataFrame(draws), pd.concat(curves, ignore_index=True)


def simulate_image(seed: int, n_tiles: int, echo_share: float = 0.5) -> np.ndarray:
    """Image of simulated tiles, as many side by side as below each other, each row of them a field of its own."""
    tiles = simulate_tiles(seed, OTHER_SURVEY, n_tiles, n_tiles, echo_share).pixels
    side = tiles.shape[1]
    rows = tiles.reshape(n_tiles, n_tiles, side, side).swapaxes(1, 2)
    return rows.reshape(n_tiles * side, n_tiles * side).astype(np.float32)


def measure_find(model: BoxDetector, n_tiles: int = 8) -> float:
    """Mpix that a detector searches in a second of processor time, in an image of so many tiles a side."""
    image = simulate_image(JUDGING_SEED + 1, n_tiles)
    find_boxes(model, image[:512, :512])  # compiles
    started = time.process_time()
    find_boxes(model, image)
    return float(image.size / 1e6 / (time.process_time() - started))


def summarise_draws(draws: pd.DataFrame) -> pd.DataFrame:
    """A row for each variant and overlap: mean and scatter over the draws."""
    grouped = draws.groupby(["variant", "overlap"], sort=False)
    columns = ["precision", "recall"]
    table = grouped[columns].mean().join(grouped[columns].std(ddof=0), rsuffix="_scatter")
    return table.assign(seconds=grouped["seconds"].mean(), n_draws=grouped.size()).reset_index()


def recall_at(judged: JudgedBoxes, precision: float) -> float:
    """Largest recall with at least this precision."""
    enough = judged.precision >= precision
    return float(judged.recall[enough].max()) if enough.any() else 0.0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/boxes"))
    parser.add_argument("--install", action="store_true", help="pretrain alone, and copy the weights that ship")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.install:
        pretrained(out, SHIPPED)
        shutil.copytree(out / "no-attention", bundled_folder() / "boxes", dirs_exist_ok=True)
        return
    draws, curves = judge_variants(out)
    curves.to_parquet(out / "curves.parquet")
    print(summarise_draws(draws).to_string(index=False, float_format="{:.3f}".format))
    for variant in ("all parts", "no attention"):
        print(f"{variant}: find {measure_find(pretrained(out, variant)):.1f} Mpix per second of processor time")


if __name__ == "__main__":
    main()

"""How well does the box detector find light echoes after nineteen boxed examples? And what does each part of it give?

    python benchmarks/boxes.py --out runs/boxes                # pretrains, fine-tunes, judges; report.md, curves.png
    python benchmarks/boxes.py --out runs/boxes --install      # pretrains alone, and copies the weights that ship

Everything is simulated. The detectors are pretrained on one kind of survey and fine-tuned on another, which has more
stars, more correlated noise, coarser pixels and dust that is less even. A draw has six fields; of their tiles as many
are labelled as hold nineteen echoes, with boxes that are shifted and stretched as a person's are, and the artefacts in
these tiles are boxed, too. Six other tiles of these fields have no echo. Twenty other fields of the second survey
judge, the same for all draws. `--out` keeps pretrained weights: a second call starts from them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.boxes.fit import build_box_detector, copy_detector, find_in_tiles, fit_boxes
from shutterless.models.boxes.judge import JudgedBoxes, judge_boxes
from shutterless.models.boxes.saved import load_boxes
from shutterless.models.boxes.settings import BoxTrainingSettings
from shutterless.models.boxes.simulated import simulate_tiles
from shutterless.models.boxes.tiles import TileSet
from shutterless.pipeline.simulation.difference_images import BOX_KINDS, DifferenceSettings
from shutterless.workflows.tracking.tracking import bundled_folder

FIRST_SURVEY = DifferenceSettings(trails=0.3, ghosts=0.3)
SECOND_SURVEY = DifferenceSettings(
    pixel_scale_arcsec=(1.5, 2.5), noise_scale_px=(0.7, 1.1), stars=(15, 60), background_sigma=(0.1, 0.35),
    wiggle_px=(3, 7), echo_length_px=(25, 110), bad_columns=0.8,
)  # fmt: skip
PRETRAINING = BoxTrainingSettings(epochs=12, batch_size=4, learning_rate=1.5e-3, empty_share=0.2)
FINE_TUNING = BoxTrainingSettings(epochs=40, batch_size=4)
PRETRAINING_SEED, JUDGING_SEED, DRAW_SEEDS = 1, 9001, range(9101, 9106)
N_FIELDS, TILES_PER_FIELD = 300, 4
N_EXAMPLES, N_EMPTY, RECALL = 19, 6, 0.7
OVERLAPS = (0.1, 0.3)  # IoU: the box points at the echo, and the box is about that of the echo
SHIPPED = "no attention"  # the best after fine-tuning, and the fastest
VARIANTS = ("all parts", "no attention", "no pretraining", "no artefact class", "not fine-tuned")


Curves = dict[str, list[dict[float, JudgedBoxes]]]  # of each variant and draw, by least overlap


def pretrained(folder: Path, variant: str) -> BoxDetector:
    """The detector from which a variant starts; trained once and kept."""
    name = "no-attention" if variant == "no attention" else "pretrained"
    if not (folder / name / "training.json").is_file():
        started = time.perf_counter()
        model = build_box_detector(attention=variant != "no attention")
        tiles = simulate_tiles(PRETRAINING_SEED, FIRST_SURVEY, N_FIELDS, TILES_PER_FIELD, echo_share=0.7)
        losses = fit_boxes(model, tiles, PRETRAINING)["loss"].round(4).tolist()
        model.save_pretrained(folder / name)
        facts = {
            "command": "python benchmarks/boxes.py --out runs/boxes --install",
            "trained_on": "simulated difference images alone",
            "survey": asdict(FIRST_SURVEY),
            "seed": PRETRAINING_SEED,
            "n_tiles": len(tiles),
            "settings": asdict(PRETRAINING),
            "loss": losses,
            "train_seconds": round(time.perf_counter() - started),
        }
        (folder / name / "training.json").write_text(json.dumps(facts, indent=1))
        print(f"{name}: {facts['train_seconds']} s, last loss {losses[-1]:.3f}", flush=True)
    return load_boxes(folder / name)


def draw_examples(seed: int) -> TileSet:
    """Labelled tiles of a draw: nineteen echoes, the artefacts beside them, and tiles without an echo."""
    tiles = simulate_tiles(seed, SECOND_SURVEY, 6, 12, echo_share=0.4)
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


def judge_variant(
    folder: Path, variant: str, examples: TileSet, test: TileSet
) -> tuple[dict[float, JudgedBoxes], float]:
    """Echoes found in the judging fields after fine-tuning a variant, by least overlap, and the seconds it took."""
    started = time.perf_counter()
    kinds = ["echo"] if variant == "no artefact class" else list(BOX_KINDS)
    model = build_box_detector(kinds=kinds) if variant == "no pretraining" else pretrained(folder, variant)
    if variant != "not fine-tuned":
        model = copy_detector(model, kinds)
        fit_boxes(model, examples if "artefact" in kinds else examples.without_kind("artefact"), FINE_TUNING)
    seconds = time.perf_counter() - started
    found = find_in_tiles(model, test)
    return {iou: judge_boxes(found, test.boxes, "echo", iou) for iou in OVERLAPS}, seconds


def write_report(out: Path, results: list[dict[str, Any]], judged: Curves, n_echoes: int) -> None:
    """Table of the variants and their curves."""
    table = pd.DataFrame(results)
    loose, tight = OVERLAPS
    lines = [
        "# Nineteen boxed echoes", "",
        f"{len(DRAW_SEEDS)} draws, {n_echoes} echoes in fields held out. A box is right if it overlaps one by an IoU "
        f"of {loose} (it points at the echo) or {tight} (it is about its box). Means and scatter of the draws.", "",
        f"| detector | precision at {RECALL:.0%} recall, {loose} | {tight} | recall at 80 % precision, {loose} | "
        f"{tight} | s a training |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for variant, own in table.groupby("variant", sort=False):
        cells = [
            f"{own[name].mean():.0%} ± {own[name].std(ddof=0):.0%}"
            for name in (f"precision {loose}", f"precision {tight}", f"recall {loose}", f"recall {tight}")
        ]
        lines.append(f"| {variant} | {' | '.join(cells)} | {own['seconds'].mean():.0f} |")
    (out / "report.md").write_text("\n".join(lines) + "\n")
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    ax = figure.add_subplot()
    for number, (variant, draws) in enumerate(judged.items()):
        for k, by_overlap in enumerate(draws):
            one = by_overlap[loose]
            ax.plot(one.recall, one.precision, color=f"C{number}", lw=1, alpha=0.7, label=variant if k == 0 else None)
    ax.axvline(RECALL, color="0.7", lw=0.8)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(frameon=False)
    figure.savefig(out / "curves.png", dpi=110)
    print("\n".join(lines))


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
    test = simulate_tiles(JUDGING_SEED, SECOND_SURVEY, 20, 8, echo_share=0.4)
    n_echoes = int((test.boxes["kind"] == "echo").sum())
    results: list[dict[str, Any]] = []
    judged: Curves = {}
    for variant in VARIANTS:
        for seed in DRAW_SEEDS if variant != "not fine-tuned" else DRAW_SEEDS[:1]:
            one, seconds = judge_variant(out, variant, draw_examples(seed), test)
            judged.setdefault(variant, []).append(one)
            values = {f"precision {iou}": judged_at.precision_at(RECALL) for iou, judged_at in one.items()}
            values |= {f"recall {iou}": recall_at(judged_at, 0.8) for iou, judged_at in one.items()}
            results.append({"variant": variant, "seed": seed, "seconds": seconds, **values})
            print(results[-1], flush=True)
    write_report(out, results, judged, n_echoes)


if __name__ == "__main__":
    main()

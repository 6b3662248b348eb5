"""One page of all that is measured with few or wrong labels: light echoes, trails, flipped labels, a new class, speed.

    python benchmarks/few_labels.py --out runs/few-labels            # hours on one core; goes on where it stopped
    python benchmarks/few_labels.py --out runs/few-labels --quick    # minutes; the numbers mean little

Each part is a benchmark of its own (`boxes.py`, `frame_trails.py`, `wrong_labels.py`, `new_class.py`), which says what
is simulated. Its tables are kept in a folder below `--out`, and a second call measures only what is missing. Flipped
labels need a finished quickstart; one that is not there is run first, or, with `--quick`, left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from astropy.io import fits
from boxes import FULL, JUDGING_SEED, OVERLAPS, QUICK, RECALL, judge_variants, measure_find, pretrained, simulate_image
from boxes import summarise_draws as summarise_echoes
from frame_trails import count_trails
from new_class import FINE_TUNING, FROM_SCRATCH, judge_draws
from wrong_labels import judge_flips

from shutterless.models.boxes.saved import load_boxes
from shutterless.models.boxes.settings import LEAST_SHOWN_SCORE
from shutterless.pipeline.files import write_parquet, write_text
from shutterless.pipeline.oriented_boxes import GEOMETRY_COLUMNS, box_overlaps, scale_boxes
from shutterless.workflows.boxes.find import find_in_files
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.pages.drawings import name_below, new_figure, picture
from shutterless.workflows.pages.formats import tabulate
from shutterless.workflows.pages.page import page
from shutterless.workflows.pages.parts import Heading, Paragraph, Part, Picture, Preformatted, Section
from shutterless.workflows.quickstart import run_quickstart
from shutterless.workflows.settings.settings import load_settings
from shutterless.workflows.tracking.tracking import bundled_folder

PAGE = "few_labels.html"
WANTED_PRECISION, WANTED_TRAILS, MOST_MARKED = 0.8, 0.95, 0.005
MOST_LOST, LEAST_SUSPECTED, WANTED_MPIX, MOST_MINUTES = 0.05, 0.5, 20.0, 15.0
N_TRAININGS = 7  # of a `boxes train` on the six fields of a draw: without each field, and with all
Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Job:
    """Where results are kept, and how much is measured.

    Parameters
    ----------
    out : Path
    quick : bool
    run : Path
        Folder of a quickstart.
    """

    out: Path
    quick: bool
    run: Path

    @property
    def command(self) -> str:
        """The call that measures the same again."""
        return "python benchmarks/few_labels.py --quick" if self.quick else "python benchmarks/few_labels.py"


def measure_echoes(job: Job) -> Tables:
    """Light echoes after nineteen boxed examples."""
    draws, curves = judge_variants(job.out, QUICK if job.quick else FULL)
    return {"draws": draws, "curves": curves}


def measure_speed(job: Job) -> Tables:
    """Mpix that are searched in a second of processor time."""
    plan, n_tiles = (QUICK, 2) if job.quick else (FULL, 8)
    detectors = {
        "bundled": load_boxes(bundled_folder() / "boxes"),
        "with attention": pretrained(job.out, "all parts", plan),
    }
    rows = [(name, measure_find(model, n_tiles)) for name, model in detectors.items()]
    return {"speed": pd.DataFrame(rows, columns=["detector", "mpix_per_second"])}


def measure_images(job: Job) -> Tables:
    """Boxes in one image that other programs could have written."""
    pixels = simulate_image(JUDGING_SEED + 2, 2, echo_share=1.0)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        model = load_boxes(bundled_folder() / "boxes")
        model.config.pixel_scale_arcsec = 1.0
        model.save_pretrained(folder / "model")
        rows, first = [], None
        for name, hdu in _variants(pixels).items():
            path = folder / f"{len(rows)}.fits"
            hdu.writeto(path)
            found = find_in_files([path], model=folder / "model", out=folder / "o", least_score=LEAST_SHOWN_SCORE)
            said = " ".join([*found.notes, *found.failures]).replace(f"{path} ", "")
            first = found.boxes if first is None else first
            alike = np.nan if found.failures else _share_alike(first, found.boxes, 2.0 if "0.5" in name else 1.0)
            rows.append((name, len(found.boxes), alike, said))
    return {"images": pd.DataFrame(rows, columns=["image", "boxes", "alike", "said"])}


def _variants(pixels: np.ndarray) -> dict[str, Any]:
    """The same image in several forms, each with pixels of 1 arcsec unless it says another scale."""
    gappy = pixels.copy()
    gappy[:, 100:104] = np.nan
    counts = np.rint(2000 + 50 * pixels).clip(0, 65535).astype(np.uint16)
    return {
        "floats": fits.PrimaryHDU(pixels, _header(1.0)),
        "floats, four columns NaN": fits.PrimaryHDU(gappy, _header(1.0)),
        "integers with BZERO": fits.PrimaryHDU(counts, _header(1.0)),
        "integers, compressed": fits.CompImageHDU(counts, _header(1.0)),
        "pixels of 0.5 arcsec": fits.PrimaryHDU(np.kron(pixels, np.ones((2, 2), np.float32)), _header(0.5)),
        "pixels of 3 arcsec": fits.PrimaryHDU(pixels, _header(3.0)),
    }


def _header(scale_arcsec: float) -> fits.Header:
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0, "CRPIX1": 1.0, "CRPIX2": 1.0}
    return fits.Header({**cards, "CDELT1": -scale_arcsec / 3600, "CDELT2": scale_arcsec / 3600})


def _share_alike(expected: pd.DataFrame, found: pd.DataFrame, factor: float) -> float:
    """Share of expected boxes that are found again, with an IoU of 0.5, in pixels ``factor`` times smaller."""
    names = list(GEOMETRY_COLUMNS)
    wanted, own = (table[names].to_numpy(dtype=np.float64) for table in (expected, found))
    if not len(wanted) or not len(own):
        return float(len(wanted) == len(own))
    own = scale_boxes(own, 1 / factor)
    return float((box_overlaps(wanted, own)[0].max(1) > 0.5).mean())


def measure_trails(job: Job) -> Tables:
    """Trails in frames with everything on."""
    return {"counts": count_trails(1, 5000) if job.quick else count_trails(12)}


def measure_flips(job: Job) -> Tables:
    """Training on labels of which a fifth was flipped."""
    if not (job.run / "training_set.npz").is_file():
        if job.quick:
            return {}
        run_quickstart(load_settings(), job.run, progress=Progress())
    amount: dict[str, Any] = {"n_examples": 1500, "n_seeds": 1, "n_folds": 2, "epochs": 2} if job.quick else {}
    judged, suspects = judge_flips(job.run, **amount)
    return {"judged": judged, "suspects": suspects}


def measure_doubles(job: Job) -> Tables:
    """Nineteen examples of a class of event that no model was trained on."""
    epochs = {"epochs": 2} if job.quick else {}
    plans = replace(FINE_TUNING, **epochs), replace(FROM_SCRATCH, **epochs)
    draws, curves = judge_draws(1 if job.quick else 5, plans)
    return {"draws": draws, "curves": curves}


PARTS: dict[str, Callable[[Job], Tables]] = {
    "echoes": measure_echoes,
    "speed": measure_speed,
    "images": measure_images,
    "trails": measure_trails,
    "doubles": measure_doubles,
    "flips": measure_flips,
}


def measure(job: Job, part: str) -> Tables:
    """Tables of a part: those that are kept, or measured now."""
    folder = job.out / part
    finished = folder / "seconds.json"
    if not finished.is_file():
        started = time.process_time()
        tables = PARTS[part](job)
        if not tables:
            return {}
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            write_parquet(table, folder / f"{name}.parquet")
        write_text(finished, json.dumps({"processor_seconds": round(time.process_time() - started)}))
    return {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def write_page(job: Job, results: Mapping[str, Tables]) -> Path:
    """Write the page; return its path."""
    writers = {"echoes": write_echoes, "trails": write_trails, "flips": write_flips, "doubles": write_doubles,
               "images": write_images, "speed": write_speed}  # fmt: skip
    warning = [Paragraph("A quick run: too little is learned and judged to mean anything.", "verdict")]
    first = [*(warning if job.quick else []), summarise(results)]
    sections = [Section("summary", "What was wanted, and what is reached", first)]
    for name, write in writers.items():
        if results[name]:
            sections.append(write(results[name]))
    seconds = {name: job.out / name / "seconds.json" for name in PARTS}
    spent = [
        f"{name:8} {json.loads(path.read_text())['processor_seconds']:7,} s"
        for name, path in seconds.items()
        if path.is_file()
    ]
    sections.append(
        Section("command", "How to measure it again", [
            Preformatted(job.command), Paragraph("Processor time of each part:"), Preformatted("\n".join(spent)),
        ])
    )  # fmt: skip
    missing = [name for name in PARTS if not results[name]]
    note = f"; not measured: {', '.join(missing)}" if missing else ""
    write_text(job.out / PAGE, page("Few labels, wrong labels", f"simulated data alone{note}", sections))
    return job.out / PAGE


@dataclass(frozen=True)
class Goal:
    """What was wanted, what was measured, and whether that is enough."""

    what: str
    wanted: str
    measured: str
    reached: bool


def summarise(results: Mapping[str, Tables]) -> Part:
    """Table of the goals of all parts that were measured."""
    writers = {"echoes": echo_goals, "trails": trail_goals, "flips": flip_goals, "doubles": double_goals,
               "images": image_goals, "speed": speed_goals}  # fmt: skip
    goals = [goal for name, write in writers.items() if results[name] for goal in write(results[name])]
    columns: dict[str, Any] = {
        "What": lambda goal: goal.what,
        "Wanted": lambda goal: goal.wanted,
        "Measured": lambda goal: goal.measured,
        "Reached": lambda goal: "yes" if goal.reached else "no",
    }
    return tabulate(goals, columns)


def echo_goals(tables: Tables) -> Iterator[Goal]:
    """Precision with and without attention, and the time of a training."""
    table = summarise_echoes(tables["draws"])
    for row in table[table["overlap"] == OVERLAPS[0]].itertuples():
        if row.variant in ("all parts", "no attention"):
            value = _spread(row.precision, row.precision_scatter)
            what = f"Echoes, precision at 70 % recall, {row.variant}"
            yield Goal(what, "≥ 80 %", value, row.precision >= WANTED_PRECISION)
    minutes = N_TRAININGS * tables["draws"]["seconds"].max() / 60
    what = "Minutes of processor time for a training, each field held out once"
    yield Goal(what, "< 15", f"{minutes:.1f}", minutes < MOST_MINUTES)


def trail_goals(tables: Tables) -> Iterator[Goal]:
    """Trails that are found, and events that are marked by mistake."""
    for row in tables["counts"].to_dict("records"):
        found, marked = row["found"] / max(row["bright trails"], 1), row["marked"] / max(row["events"], 1)
        yield Goal(f"Bright trails found by {row['way']}", "≥ 95 %", f"{found:.0%}", found >= WANTED_TRAILS)
        yield Goal(f"Events marked by {row['way']}", "≤ 0.5 %", f"{marked:.1%}", marked <= MOST_MARKED)


def flip_goals(tables: Tables) -> Iterator[Goal]:
    """What wrong labels cost, and how many of them are found."""
    mean = tables["judged"].groupby("labels")["completeness"].mean()
    lost = mean["true"] - mean["flipped"]
    yield Goal("Completeness lost by 20 % flipped labels", "< 5 points", f"{100 * lost:.1f}", lost < MOST_LOST)
    found = tables["suspects"]["flipped_found"].sum() / tables["suspects"]["flipped"].sum()
    yield Goal("Flipped labels among the suspects", "≥ 50 %", f"{found:.0%}", found >= LEAST_SUSPECTED)


def double_goals(tables: Tables) -> Iterator[Goal]:
    """Precision of the best of the rivals."""
    table = tables["draws"].groupby("rival", sort=False)["precision"].agg(["mean", "std"])
    best = table.loc[table["mean"].idxmax()]
    what = f"New class, precision at 70 % recall, {best.name}"
    yield Goal(what, "≥ 80 %", _spread(best["mean"], best["std"]), best["mean"] >= WANTED_PRECISION)


def image_goals(tables: Tables) -> Iterator[Goal]:
    """Whether other forms of an image show the same boxes."""
    alike = tables["images"]["alike"].min()
    yield Goal("Boxes found again in images of other programs", "all", f"{alike:.0%}", alike == 1)


def speed_goals(tables: Tables) -> Iterator[Goal]:
    """Speed of a search for boxes."""
    for row in tables["speed"].itertuples():
        what, speed = f"Mpix/s searched by a core, {row.detector}", row.mpix_per_second
        yield Goal(what, "≥ 20", f"{speed:.1f}", speed >= WANTED_MPIX)


def _spread(mean: float, scatter: float) -> str:
    return f"{mean:.0%}" if pd.isna(scatter) else f"{mean:.0%} ± {scatter:.0%}"


def draw_curves(curves: pd.DataFrame, by: str, caption: str) -> Picture:
    """Precision over recall, a line for each draw in the colour of what was judged."""
    drawing = new_figure(6.5, 4.6)
    ax = drawing.add_subplot()
    for k, (name, own) in enumerate(curves.groupby(by, sort=False)):
        for n, (_, draw) in enumerate(own.groupby("seed")):
            ax.plot(
                draw["recall"], draw["precision"], color=f"C{k}", lw=1.1, alpha=0.75, label=name if n == 0 else None
            )
    ax.axvline(RECALL, color="0.6", lw=0.8)
    ax.axhline(WANTED_PRECISION, color="0.6", lw=0.8)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    name_below(drawing, 70)
    return picture(drawing, caption, alt=f"precision over recall of each {by}")


def write_echoes(tables: Tables) -> Section:
    """Section on light echoes."""
    draws, curves = tables["draws"], tables["curves"]
    n_draws, n_echoes = draws["seed"].nunique(), draws["n_echoes"].iloc[0]
    parts: list[Part] = [
        Paragraph(
            f"Nineteen boxed echoes, {n_draws} draws. {n_echoes} echoes in fields that no draw contains judge. A box "
            f"is right if it overlaps an echo by an IoU of {OVERLAPS[0]} (it points at the echo) or {OVERLAPS[1]} (it "
            "is about the echo's box)."
        )
    ]
    for overlap in OVERLAPS:
        caption = f"IoU {overlap}. Each line is a draw; grey lines are what was wanted."
        parts.append(draw_curves(curves[curves["overlap"] == overlap], "variant", caption))
    parts.append(Heading("Mean and scatter of the draws"))
    columns: dict[str, Any] = {
        "Detector": "variant",
        "IoU": ("overlap", "{:.1f}"),
        "Precision at 70 % recall": lambda row: _spread(row["precision"], row["precision_scatter"]),
        "Recall at 80 % precision": lambda row: _spread(row["recall"], row["recall_scatter"]),
        "Processor seconds of a training": ("seconds", "{:.0f}"),
        "Draws": ("n_draws", "{:.0f}"),
    }
    parts.append(tabulate(summarise_echoes(draws), columns))
    return Section("echoes", "Light echoes in difference images", parts)


def write_trails(tables: Tables) -> Section:
    """Section on trails."""
    columns: dict[str, Any] = {"Marked by": "way"}
    columns |= {
        heading: (name, "{:.0f}")
        for heading, name in (
            ("Bright trails", "bright trails"), ("Found", "found"), ("False alarms above 6.5 σ", "alarms"),
            ("On a trail", "explained"), ("Events beside no trail", "events"), ("Marked by mistake", "marked"),
        )
    }  # fmt: skip
    text = (
        "Frames with everything on, in which satellites, aircraft and meteors are some thirty times as frequent as "
        "usual. A trail is bright if its brightest pixel exceeds 4 σ. False alarms are those of the template bank."
    )
    return Section("trails", "Trails in frames", [Paragraph(text), tabulate(tables["counts"], columns)])


def write_flips(tables: Tables) -> Section:
    """Section on wrong labels."""
    judged, suspects = tables["judged"], tables["suspects"]
    rate, n_events = judged["rate_per_hour"].iloc[0], judged["n_events"].iloc[0]
    names = {"true": "true", "flipped": "a fifth flipped", "without-suspects": "a fifth flipped, without suspects"}
    table = judged.groupby("labels", sort=False)["completeness"].agg(["mean", "std", "count"]).reset_index()
    columns: dict[str, Any] = {
        "Labels": lambda row: names[row["labels"]],
        "Completeness": lambda row: _spread(row["mean"], row["std"]),
        "Seeds": ("count", "{:.0f}"),
    }
    counts: dict[str, Any] = {
        "Seed": ("seed", "{:.0f}"),
        "Examples": ("examples", "{:,.0f}"),
        "Flipped": ("flipped", "{:,.0f}"),
        "Suspects": ("suspects", "{:,.0f}"),
        "Flipped among them": ("flipped_found", "{:,.0f}"),
    }
    text = f"A transformer of strips at {rate:.0f} false alarms per amplifier-hour, judged on {n_events:.0f} events."
    parts = [Paragraph(text), tabulate(table, columns), Heading("Suspects"), tabulate(suspects, counts)]
    return Section("flips", "Wrong labels", parts)


def write_doubles(tables: Tables) -> Section:
    """Section on the new class."""
    draws, curves = tables["draws"], tables["curves"]
    table = draws.groupby("rival", sort=False)["precision"].agg(["mean", "std", list]).reset_index()
    columns: dict[str, Any] = {
        "Detector": "rival",
        "Precision at 70 % recall": lambda row: _spread(row["mean"], row["std"]),
        "Draws": lambda row: ", ".join(f"{value:.2f}" for value in row["list"]),
    }
    text = (
        f"Flares with two peaks, which no model was trained on: nineteen of them and 95 others to learn from, "
        f"{draws['n_doubles'].iloc[0]} among {draws['n_strips'].iloc[0]:,} strips of another field to judge."
    )
    curve = draw_curves(curves, "rival", "Each line is a draw; grey lines are what was wanted.")
    return Section("doubles", "Nineteen examples of a new class", [Paragraph(text), curve, tabulate(table, columns)])


def write_images(tables: Tables) -> Section:
    """Section on images of other programs."""
    columns: dict[str, Any] = {
        "Image": "image",
        "Boxes": ("boxes", "{:.0f}"),
        "Boxes of the first found again": ("alike", "{:.0%}"),
        "What is said": "said",
    }
    text = "One image in several forms, for a detector of pixels of 1 arcsec."
    return Section("images", "Images of other programs", [Paragraph(text), tabulate(tables["images"], columns)])


def write_speed(tables: Tables) -> Section:
    """Section on speed."""
    columns: dict[str, Any] = {
        "Detector": "detector",
        "Mpix per second of processor time": ("mpix_per_second", "{:.1f}"),
    }
    return Section("speed", "Speed of boxes find", [tabulate(tables["speed"], columns)])


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/few-labels"))
    parser.add_argument("--quick", action="store_true", help="much less of everything, in OUT/quick")
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="folder of a quickstart")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    job = Job(arguments.out / "quick" if arguments.quick else arguments.out, arguments.quick, arguments.run)
    job.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for part in PARTS:
        results[part] = measure(job, part)
        print(f"{part}: {'measured' if results[part] else f'left out, {job.run} holds no quickstart'}", flush=True)
    print(write_page(job, results))


if __name__ == "__main__":
    main()

"""Completeness of flares and bursts injected into the pixels of an image cube, against the optimal detector.

    python benchmarks/cubes.py CUBE.fits --copies 100 [--model FOLDER] [--alarms 10]

Every copy of the file passes all steps: injection into its pixels, calibration, template bank, vetoes, threshold.
Triggers that the file has without injections (real flares, cosmic rays, drifts) do not count as found. "known shape" is
the matched filter of the exact shape at the exact place in the calibrated pixels, in units of its own robust scatter
over all rows. It shows what a perfect template finds in this noise, compared with Φ(ρ - η) in ideal noise. Thresholds
are those of a rate of false alarms, or with --alarms those at which each detector has that many in the file itself. The
file's own events are hidden for this: unvetoed triggers above 6 σ are masked.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.stats import mad_std
from scipy.special import ndtr

from shutterless.models.evaluation.metrics import fit_rho50, optimum_threshold, wilson_interval
from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.injection.amplifiers import Injection, InjectionSettings, place_injections
from shutterless.pipeline.injection.cubes import inject_cube
from shutterless.pipeline.injection.injected_files import seeds_of
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier
from shutterless.workflows.comparison.evaluate import count_false_alarms
from shutterless.workflows.searching.detect import DetectTask, StackView, detect, detector_columns
from shutterless.workflows.searching.search import find_curve, find_detector

TRIGGERS_FROM = 4.0
HIDDEN_FROM = 6.0
SHORT_ROWS = 12  # a quarter of the window of a day in which slow changes are followed
COLUMNS = ["known shape", "unvetoed"]  # besides the detectors: the exact template, and the bank without vetoes
BINS = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 15.0, 20.0)


def search_copy(
    seed: int, *, file: str, settings: InjectionSettings, events: int, references: list[str]
) -> pd.DataFrame:
    """Truth of one copy with the best score of each detector; -inf where nothing matched or it was vetoed."""
    detectors = tuple(find_detector(reference) for reference in references)
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "copy").mkdir()
        copy = inject_cube(file, Path(work) / "copy", settings, events=events, seed=seed)
        plain, changed = (ingest_amplifier(path, None, Path(work) / str(i))["entry"] for i, path in
                          enumerate((file, copy.path)))  # fmt: skip
        before = detect(DetectTask(f"{work}/0", plain, detectors, TRIGGERS_FROM))
        triggers = detect(DetectTask(f"{work}/1", changed, detectors, TRIGGERS_FROM))
        quiet, amplifier = open_amplifier(f"{work}/0", plain), open_amplifier(f"{work}/1", changed)
        rng = np.random.default_rng(seeds_of(seed, Path(file), None))
        injections = place_injections(quiet, rng, settings, events)
        known = [known_shape(injection, quiet, amplifier) for injection in injections]
    triggers = triggers[~was_there(triggers, before)].reset_index(drop=True)
    matched = match_truth(triggers, copy.truth)
    truth = copy.truth.assign(**{"known shape": known}, seed=seed)
    truth["unvetoed"] = best(triggers["snr"].abs().to_numpy(), matched, len(truth))
    for detector, reference in zip(detectors, references, strict=True):
        score = detector_columns(triggers, detector.name)["score"].to_numpy()
        truth[reference] = best(score, matched, len(truth))
    return truth


def known_shape(injection: Injection, quiet: Amplifier, amplifier: Amplifier) -> float:
    """Matched filter of an injection in a copy, over its scatter in the file without injections."""
    window = (injection.y, injection.columns)
    rows, n_rows = injection.rows_lit, amplifier.n_rows
    shape = injection.profile[:, :, None] * injection.curve / amplifier.sigma_rows(*window, rows.start, rows.stop)
    shape = shape.reshape(-1, shape.shape[2])
    values = []
    for stack in (quiet, amplifier):
        residual = np.nan_to_num(stack.residual[window].astype(np.float64)).reshape(len(shape), n_rows)
        live = np.isfinite(stack.residual[window]).astype(float).reshape(len(shape), n_rows)
        total = sum(np.correlate(line, kernel, "valid") for line, kernel in zip(residual, shape, strict=True))
        power = sum(np.correlate(line, kernel**2, "valid") for line, kernel in zip(live, shape, strict=True))
        values.append(total / np.sqrt(np.maximum(power, 1e-12 + 0.3 * np.sum(shape**2))))
    scatter = mad_std(values[0])
    return float(values[1][rows.start] / max(scatter, 1.0))


def was_there(triggers: pd.DataFrame, before: pd.DataFrame) -> np.ndarray:
    """Whether the file has a trigger of the same position, row and about the same S/N without injections."""
    same = np.zeros(len(triggers), dtype=bool)
    for other in before.itertuples():
        near = (triggers["x"] - other.x).abs().le(0.6) & (triggers["y"] - other.y).abs().le(0.6)
        near &= (triggers["row_peak"] - other.row_peak).abs().le(2)
        same |= (near & (triggers["snr"] / other.snr).between(0.8, 1.25)).to_numpy()
    return same


def count_thresholds(file: str, references: list[str], from_row: int, n_alarms: int) -> tuple[dict[str, float], float]:
    """Scores of the ``n_alarms``-th false alarm of the file, its own events hidden, and their rate per hour."""
    with tempfile.TemporaryDirectory() as store:
        manifest = pd.DataFrame([ingest_amplifier(file, None, store)])
        views = {manifest["entry"][0]: StackView((from_row, int(manifest["n_rows"][0])), HIDDEN_FROM)}
        curves = {
            name: count_false_alarms(Path(store), manifest, find_detector(name), views=views) for name in references
        }
    thresholds = {name: float(curve.scores[min(n_alarms, len(curve.scores)) - 1]) for name, curve in curves.items()}
    return thresholds, n_alarms / curves[references[0]].live_hours


def best(score: np.ndarray, matched: np.ndarray, n: int) -> np.ndarray:
    """Highest score of the triggers that match each of ``n`` truth rows."""
    highest = np.full(n, -np.inf)
    np.maximum.at(highest, matched[matched >= 0], score[matched >= 0])
    return highest


def print_completeness(found: pd.DataFrame, references: list[str], thresholds: dict[str, float], eta: float) -> None:
    """Print completeness in bins of rho beside Φ(ρ - η), then the rho of 50 % and the loss."""
    print(f"{'rho':>9s}{'n':>6s}{'optimum':>9s}" + "".join(f"{name[-22:]:>26s}" for name in COLUMNS + references))
    columns = {"known shape": eta, "unvetoed": thresholds["template-bank"], **thresholds}
    for low, high in pairwise(BINS):
        part = found[(found["rho"] >= low) & (found["rho"] < high)]
        if part.empty:
            continue
        cells = []
        for name, threshold in columns.items():
            n_found = int((part[name] >= threshold).sum())
            bounds = wilson_interval(n_found, len(part))
            cells.append(f"{n_found / len(part):8.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})".rjust(26))
        print(f"{low:4.0f}-{high:4.0f}{len(part):6d}{ndtr(part['rho'] - eta).mean():9.3f}" + "".join(cells))
    for name, threshold in columns.items():
        half = fit_rho50(found["rho"].to_numpy(), (found[name] >= threshold).to_numpy())
        print(f"{name}: half found at rho {half:.2f}, loss {2.5 * np.log10(max(half, 1e-9) / eta):.2f} mag")


def main() -> None:
    """Inject, search, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--events", type=int, default=4, help="in each copy")
    parser.add_argument("--kinds", default="flare")
    parser.add_argument("--orphans", type=float, default=0.0, help="share of bursts off the stars")
    parser.add_argument("--rate", type=float, default=50.0, help="false alarms per amplifier-hour (3.3 Gpix)")
    parser.add_argument("--alarms", type=int, default=0, help="false alarms in the file instead of a rate")
    parser.add_argument("--model", action="append", default=[], help="besides the template bank; repeatable")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument(
        "--from-row",
        type=int,
        default=0,
        help="first row of counted events, if a model was trained on the rows before it",
    )
    arguments = parser.parse_args()
    references = ["template-bank", *arguments.model]
    if arguments.alarms:
        thresholds, rate = count_thresholds(arguments.file, references, arguments.from_row, arguments.alarms)
    else:
        thresholds = {
            name: find_curve(find_detector(name), arguments.rate).threshold(arguments.rate)[0] for name in references
        }
        rate = arguments.rate
    eta = optimum_threshold(rate)
    kinds = arguments.kinds.split(",")
    settings = InjectionSettings(
        kinds=tuple((kind, 1 / len(kinds)) for kind in kinds), orphan_fraction=arguments.orphans, rho=(3.0, 20.0),
        partial=0.0,
    )  # fmt: skip
    work = partial(search_copy, file=arguments.file, settings=settings, events=arguments.events, references=references)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.copies)
    # a process forked after torch has run may wait forever for its threads
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = pd.concat(list(pool.map(work, seeds)), ignore_index=True)
    found = found[found["row_peak"] >= arguments.from_row]
    print(f"{len(found)} events in {arguments.copies} copies; eta {eta:.2f}, thresholds {thresholds}")
    n_rows = found["row_stop"] - found["row_start"] + 1
    for kind in kinds:
        for name, chosen in (("all", n_rows > 0), (f"up to {SHORT_ROWS} rows", n_rows <= SHORT_ROWS)):
            part = found[(found["kind"] == kind) & chosen]
            print(f"\n{kind}, {name}, {(part['star_id'] >= 0).mean():.0%} on stars")
            print_completeness(part, references, thresholds, eta)


if __name__ == "__main__":
    main()

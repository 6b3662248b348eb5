"""Trails in frames with everything on: how many are found, what they explain, and what it costs in events.

    python benchmarks/frame_trails.py

Fields of held-out seeds with moving air, faults of the detector and events, in which satellites, aircraft and meteors
are some thirty times as frequent as usual. Two ways mark triggers: geometry (`shutterless.pipeline.detection.trails`,
as in every search), and the boxes of kind `trail` that the bundled box detector finds in the residuals, rows by
columns. A trail counts as found if three marked triggers lie beside it, and it is bright if its brightest pixel exceeds
4 sigma. Printed, too, are the share of the template bank's false alarms above 6.5 sigma that are marked, and of the
events that have a trigger and lie beside no trail, those whose strongest is marked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from nuisances import beside, calibrate

from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.boxes.find import find_boxes
from shutterless.models.boxes.saved import load_boxes
from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.simulation.content import AmplifierContent, draw_content
from shutterless.pipeline.simulation.fields import draw_fields
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.trails import AmplifierTrail, trail_patches
from shutterless.pipeline.simulation.truth import truth_rows
from shutterless.workflows.tracking.tracking import bundled_folder

SEED, BRIGHT_SIGMA, ALARM_SNR, LEAST_MARKED, LEAST_SCORE = 9301, 4.0, 6.5, 3, 0.3
OFTEN = {"geosynchronous_per_hour": 300.0, "low_orbit_per_hour": 600.0, "aircraft_per_hour": 60.0,
         "meteors_per_hour": 600.0}  # fmt: skip
COUNTS = ("bright trails", "found", "alarms", "explained", "events", "marked")


def brightest_sigma(trail: AmplifierTrail, amplifier: Amplifier, rows: tuple[int, int]) -> float:
    """Brightest pixel of a trail in the rows of a file, in units of the amplifier's median noise."""
    peaks = [float(patch.max()) for _, _, patch in trail_patches(trail, *rows)]
    return max(peaks, default=0.0) / float(np.nanmedian(amplifier.sigma_e))


def by_boxes(model: BoxDetector, amplifier: Amplifier, triggers: pd.DataFrame) -> np.ndarray:
    """Triggers that lie in a box of kind trail."""
    found = find_boxes(model, np.asarray(amplifier.residual[0], dtype=np.float32).T, LEAST_SCORE)
    middle = (triggers["row_start"] + triggers["row_stop"]).to_numpy(float) / 2
    x, marked = triggers["x"].to_numpy(float), np.zeros(len(triggers), dtype=bool)
    for box in found[found["kind"] == "trail"].itertuples():
        dx, dy = x - box.x, middle - box.y
        along = dx * np.cos(box.angle) + dy * np.sin(box.angle)
        across = dy * np.cos(box.angle) - dx * np.sin(box.angle)
        marked |= (np.abs(along) <= box.length / 2) & (np.abs(across) <= box.width / 2 + 2)
    return marked


def count(marked: np.ndarray, triggers: pd.DataFrame, content: AmplifierContent, amplifier: Amplifier) -> list[int]:
    """The numbers of `COUNTS` for one way of marking."""
    rows = content.rows[0], len(content.rows)
    trails = content.sky_lights.trails if content.sky_lights else ()
    bright = [trail for trail in trails if brightest_sigma(trail, amplifier, rows) > BRIGHT_SIGMA]
    found = [np.sum(beside(triggers, [trail], rows[0]) & marked) >= LEAST_MARKED for trail in bright]
    truth = truth_rows(content, "memory.fits", 1, 1)
    matched = match_truth(triggers, truth[truth["is_event"].astype(bool)])
    strength = triggers["snr"].abs().to_numpy()
    alarm = (triggers["veto"] == "").to_numpy() & (strength > ALARM_SNR) & (matched < 0)
    on_trail = beside(triggers, list(trails), rows[0])
    best = [_strongest(np.flatnonzero(matched == event), strength) for event in np.unique(matched[matched >= 0])]
    best = [trigger for trigger in best if not on_trail[trigger]]
    return [len(bright), sum(found), alarm.sum(), (alarm & marked).sum(), len(best), int(marked[best].sum())]


def _strongest(of_event: np.ndarray, strength: np.ndarray) -> int:
    return int(of_event[np.argmax(strength[of_event])])


def count_trails(n_fields: int, rows: int = 6000) -> pd.DataFrame:
    """Counts of `COUNTS` for both ways of marking, which stand in ``way``."""
    model = load_boxes(bundled_folder() / "boxes")
    ways: dict[str, Callable[[Amplifier, pd.DataFrame], np.ndarray]] = {
        "geometry": lambda _, triggers: triggers["trail_id"].notna().to_numpy(bool),
        "boxes": lambda amplifier, triggers: by_boxes(model, amplifier, triggers),
    }
    totals = {way: np.zeros(len(COUNTS), dtype=np.int64) for way in ways}
    base = SceneSettings(sequence="t", rows=rows, events=20, first_row=4000, **OFTEN)
    for settings in draw_fields(SEED, n_fields, base):
        content = draw_content(settings, settings.ccds[0], 1, 0)
        amplifier = calibrate(settings, content)
        triggers = find_triggers(amplifier)
        for way, mark in ways.items():
            totals[way] += count(mark(amplifier, triggers), triggers, content, amplifier)
        print({way: counts.tolist() for way, counts in totals.items()}, flush=True)
    return pd.DataFrame.from_dict(totals, orient="index", columns=list(COUNTS)).rename_axis("way").reset_index()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(count_trails(arguments.fields).to_string(index=False))


if __name__ == "__main__":
    main()

"""Count the lines of the candidates table that one nuisance causes, with and without joining its triggers to a trail.

    python benchmarks/nuisances.py
    python benchmarks/nuisances.py --model bundled
    python benchmarks/nuisances.py --events --seed 13 --amplifiers 12

Each nuisance is alone in an amplifier of 6,000 rows with its stars in moving air: satellites, an aircraft, meteors,
flickering hot columns, a block of dead rows. A detector searches it at 50 false alarms per amplifier-hour, by the curve
that is stored beside it. A line counts for the nuisance if it lies on it, or beside it as far as its wings
reach. The first amplifier has no nuisance but lines of its own, from stars; as many of them as stand in "stars" lie by
chance where the nuisance is in the others.

With `--events` the amplifiers hold 30 events, cosmic rays and pickup each, but no lights. Printed are the triggers that
match an event and are joined to a trail, and the events above the threshold that only lose their score to one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.astrometry.focal_plane import focal_plane
from shutterless.pipeline.calibration.exposure import calibrate_exposure, exposure_shape
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.candidates import build_candidates
from shutterless.pipeline.simulation.camera.detector import Blinking, DetectorFaults, HotColumn
from shutterless.pipeline.simulation.content import AmplifierContent, draw_content
from shutterless.pipeline.simulation.rendering import render
from shutterless.pipeline.simulation.scene import PIXELS
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.moving_lights import Brightness, SkyTrail
from shutterless.pipeline.simulation.sky.trails import AmplifierTrail, trails_in_amplifier
from shutterless.pipeline.simulation.sky_lights import SkyLights
from shutterless.pipeline.simulation.truth import truth_rows
from shutterless.workflows.searching.detect import Detector, find_triggers_for, keep_best_of_trails, score_triggers
from shutterless.workflows.searching.search import find_curve, find_detector

RATE_PER_HOUR = 50.0
MIDDLE_ROW, COLUMN, DEAD_ROWS = 3000, 1501, (3000, 12)  # file rows
WINGS_PX = 40.0  # on either side of a trail
MARGIN_ROWS = 30  # on either side of dead rows
Near = Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class Nuisance:
    """Content of an amplifier with one nuisance, and which candidates lie on it."""

    name: str
    content: AmplifierContent
    near: Near


def moving(
    settings: SceneSettings, empty: AmplifierContent, name: str, velocity: tuple[float, float], light: Brightness,
    **more: float,
) -> Nuisance:  # fmt: skip
    """A light that passes the middle of the amplifier in the middle of the file; velocity in pixels per second."""
    plane = focal_plane(settings.profile, empty.scene.n_transit)
    frame = plane.frame(1, 1)
    half_span, duration_s, blur = (more.get(key, 0.0) for key in ("half_span_px", "duration_s", "blur_px"))
    across = np.array([-velocity[1], velocity[0]]) / np.hypot(*velocity)
    middle_s = (empty.rows[0] + MIDDLE_ROW - empty.scene.n_transit / 2) / empty.scene.row_rate_hz
    times = (middle_s - duration_s / 2, middle_s + duration_s / 2) if duration_s else (-np.inf, np.inf)
    lights = []
    for side in (-1, 1) if half_span else (0,):
        x, y = np.array([empty.scene.n_columns, empty.scene.n_transit]) / 2 + side * half_span * across
        offset = frame.to_read(0.0, 0.0)
        lights.append(
            SkyTrail(
                name, 0, frame.sign_x * (x - offset[0]), frame.sign_y * (y - offset[1]), middle_s,
                frame.sign_x * velocity[0], frame.sign_y * velocity[1], *times, light, blur,
            )
        )  # fmt: skip
    trails = trails_in_amplifier(
        lights, plane, 1, 1, row_rate_hz=empty.scene.row_rate_hz, sigma_px=empty.scene.psf_sigma_px
    )
    content = replace(empty, sky_lights=SkyLights(empty.scene, trails))
    return Nuisance(name, content, lambda found: beside(found, trails, empty.rows[0]))


def beside(found: pd.DataFrame, trails: list[AmplifierTrail], first_row: int) -> np.ndarray:
    """Candidates within `WINGS_PX` of a trail, between its ends."""
    near = np.zeros(len(found), dtype=bool)
    middle = (found["row_start"] + found["row_stop"]).to_numpy() / 2 + first_row
    for trail in trails:
        along = np.array([trail.x_leave - trail.x_enter, trail.row_leave - trail.row_enter])
        dx, dr = found["x"].to_numpy() - trail.x_enter, middle - trail.row_enter
        across = np.abs(dx * along[1] - dr * along[0]) / np.hypot(*along)
        place = (dx * along[0] + dr * along[1]) / np.hypot(*along)
        near |= (across <= WINGS_PX) & (place >= -WINGS_PX) & (place <= np.hypot(*along) + WINGS_PX)
    return near


def nuisances(settings: SceneSettings) -> Iterator[Nuisance]:
    """None at all, then one of each kind, where a kind's effect depends on its brightness several."""
    empty = draw_content(settings, 1, 1, 0)
    yield Nuisance("nothing", empty, lambda found: np.ones(len(found), dtype=bool))

    def electrons_s(mag: float) -> float:
        return float(10 ** (-0.4 * (mag - settings.magnitude_of_one_e_s)))

    for mag in (12.0, 13.5, 14.5, 15.0):  # 15 arcsec/s, tilted by 10 degrees
        yield moving(settings, empty, f"satellite of {mag} mag", (-14.4, 2.5), Brightness(electrons_s(mag)))
    strobe = Brightness(electrons_s(3.0), 1.0, 0.5, flash_e_s=electrons_s(-1.5), flash_s=0.1)  # 230 m/s at 12 km
    yield moving(settings, empty, "aircraft", (1200.0, 3700.0), strobe, half_span_px=400.0, blur_px=20.0)
    for mag in (3.0, 5.0):  # 40 km/s at 100 km
        light = Brightness(electrons_s(mag), fades=True)
        yield moving(settings, empty, f"meteor of {mag} mag", (8e4, 500.0), light, duration_s=0.3, blur_px=2.5)
    pattern = np.zeros(settings.profile.n_columns + settings.profile.n_overscan_columns)
    for level in (14.0, 60.0):
        hot = DetectorFaults(pattern, [HotColumn(COLUMN, level, Blinking(5, 0.3, 0.5))])
        yield Nuisance(
            f"hot column of {level:g} e-",
            replace(empty, detector=hot),
            lambda found: (found["x"] - COLUMN).abs().le(3).to_numpy(),
        )
    dead = DetectorFaults(pattern, dropped_rows=(DEAD_ROWS,))
    first, last = DEAD_ROWS[0] - MARGIN_ROWS, sum(DEAD_ROWS) + MARGIN_ROWS
    yield Nuisance(
        f"{DEAD_ROWS[1]} dead rows",
        replace(empty, detector=dead),
        lambda found: found["row_peak"].between(first, last).to_numpy(),
    )


def calibrate(settings: SceneSettings, content: AmplifierContent) -> Amplifier:
    """Render an amplifier and calibrate it, in memory."""
    data, overscan = render(settings, content, settings.generator(PIXELS, 1, 1, 0))
    readout = Readout(
        settings.row_rate_hz, 6.2, 10.0, 48_000.0, content.scene.n_transit, first_row=settings.first_row,
        zero_point_mag=settings.magnitude_of_one_e_s, pixel_scale_arcsec=1.012, seeing_arcsec=settings.seeing_arcsec,
    )  # fmt: skip
    frame = Frame(data, overscan, readout, settings.profile, Path("memory.fits"))
    return calibrate_exposure(frame, np.empty(exposure_shape(frame), np.float16)).amplifier("memory")


def search(amplifier: Amplifier, triggers: pd.DataFrame, detector: Detector) -> pd.DataFrame:
    """Candidates of a detector."""
    threshold = find_curve(detector, RATE_PER_HOUR).threshold(RATE_PER_HOUR)[0]
    scored = score_triggers(amplifier, triggers, (detector,))
    found = scored[scored[f"{detector.name}/score"] >= threshold]
    return build_candidates(found, amplifier.streaks, amplifier.readout, file="memory.fits", model=detector.name)


def join_events(seed: int) -> np.ndarray:
    """Triggers that match one of 30 events and those joined to a trail; events found, and those lost to trails."""
    settings = SceneSettings(events=30, atmosphere=True, first_row=4000, rows=8000, seed=seed)
    content = draw_content(settings, 1, 1, 0)
    triggers = find_triggers(calibrate(settings, content))
    truth = truth_rows(content, "memory.fits", 1, 1)
    matched = match_truth(triggers, truth[truth["is_event"].astype(bool)])
    score = triggers["snr"].abs().where(triggers["veto"] == "", -np.inf).to_numpy()
    threshold = find_curve(find_detector("template-bank"), RATE_PER_HOUR).threshold(RATE_PER_HOUR)[0]
    is_found, is_kept = score >= threshold, keep_best_of_trails(score, triggers["trail_id"]) >= threshold
    found, kept = (np.unique(matched[(matched >= 0) & chosen]) for chosen in (is_found, is_kept))
    joined = (matched >= 0) & triggers["trail_id"].notna().to_numpy()
    return np.array([np.sum(matched >= 0), joined.sum(), len(found), len(found) - len(kept)])


def main() -> None:
    """Simulate, search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="template-bank", help="without --events")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--events", action="store_true")
    parser.add_argument("--amplifiers", type=int, default=12, help="with events, of as many seeds")
    arguments = parser.parse_args()
    if arguments.events:
        counts = np.zeros(4, dtype=np.int64)
        for seed in range(arguments.seed, arguments.seed + arguments.amplifiers):
            counts += join_events(seed)
            total = "triggers of events {}, joined {}; events found {}, lost to a trail {}".format(*counts)
            print(f"seeds {arguments.seed} to {seed}: {total}", flush=True)
        return
    settings = SceneSettings(
        events=0, artefacts=False, atmosphere=True, first_row=4000, rows=arguments.rows, seed=arguments.seed
    )
    detector = find_detector(arguments.model)
    print(f"{'nuisance':24} triggers  joined  lines before  after  stars  all lines", flush=True)
    stars = None
    for nuisance in nuisances(settings):
        amplifier = calibrate(settings, nuisance.content)
        triggers, _ = find_triggers_for(amplifier, (detector,), TRIGGER_THRESHOLD)
        before = search(amplifier, triggers.assign(trail_id=pd.array([None] * len(triggers), dtype="Int64")), detector)
        after = search(amplifier, triggers, detector)
        stars = after if stars is None else stars
        near = triggers[nuisance.near(triggers)]
        lines = [nuisance.near(table).sum() for table in (before, after, stars)]
        print(
            f"{nuisance.name:24} {len(near):8d} {near['trail_id'].notna().sum():7d} {{:13d}} {{:6d}} {{:6d}}".format(
                *lines
            )
            + f" {len(after):10d}",
            flush=True,
        )


if __name__ == "__main__":
    main()

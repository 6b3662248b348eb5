"""Draw a small panel of every artefact and every class of event, for `gallery.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from simulator import GAIN, ROW_RATE_HZ, camera, quiet

from shutterless.pipeline.calibration.serial_trap import apply_serial_trap
from shutterless.pipeline.events.events import Event, draw_event
from shutterless.pipeline.plots.sky import plot_event, plot_pixels, plot_series
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.simulation.camera.artefacts import (
    CosmicRay,
    draw_cosmic_ray,
    draw_drift,
    draw_mains,
    draw_pickup_bursts,
)
from shutterless.pipeline.simulation.camera.detector import (
    Blinking,
    DetectorFaults,
    HotColumn,
    Trap,
    draw_detector,
    pass_trap,
)
from shutterless.pipeline.simulation.content import AmplifierContent
from shutterless.pipeline.simulation.rendering import render
from shutterless.pipeline.simulation.scene import draw_scene
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.event_examples import EventExample, example_event
from shutterless.pipeline.simulation.sky.sky_examples import example_ghost, example_trail

SKY_E, READ_NOISE_E, SIGMA_PX = 314.0, 10.0, 0.84
N_COLUMNS = 64
STAR_E_ROW = 2000.0  # r = 10.0
GREY_E = (200.0, 600.0)  # black and white: sky of 314 e- with a noise of 20


@lru_cache(maxsize=1)
def narrow() -> SceneSettings:
    """ZTF with 64 columns and steady sky, without stars, events and artefacts."""
    with tempfile.TemporaryDirectory() as folder:
        settings = quiet(instrument=camera(Path(folder), N_COLUMNS), rows=400)
        _ = settings.profile  # read before the file is removed
    return settings


def expose(rng: np.random.Generator, light_e: np.ndarray) -> np.ndarray:
    """Add sky, photon noise and read noise to light, in electrons."""
    mean_e = light_e + SKY_E
    return rng.poisson(mean_e) + READ_NOISE_E * rng.standard_normal(mean_e.shape)


def read(rng: np.random.Generator, n_rows: int, **content: object) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the narrow camera with the given content, as integers: data and overscan."""
    settings = replace(narrow(), rows=n_rows)
    whole = AmplifierContent(draw_scene(settings, 1, 1), settings.sequence_rows(0), **content)  # type: ignore[arg-type]
    return render(settings, whole, rng)


def electrons(data: np.ndarray, overscan: np.ndarray) -> np.ndarray:
    """Convert integers above the median overscan to electrons."""
    return GAIN * (data - np.median(overscan[:, 20:30].astype(float)))


def sky_sheet(rng: np.random.Generator) -> Figure:
    """Artefacts from the sky, and particles."""
    figure, panels = sheet(3, 3, (9.0, 8.4))
    for name, wanted in (("Cosmic ray", is_short), ("Grazing muon", is_straight), ("Worm", is_worm)):
        ray = draw_ray(rng, wanted)
        pixels = electrons(*read(rng, 48, cosmic_rays=[ray]))[:, 8:56]
        ax = plot_pixels(pixels, next(panels), limits=GREY_E, first_column=8)
        ax.set_title(f"{name}: {len(ray.rows)} px, {ray.charge_e.sum() / 1e3:.1f} ke⁻")
    show_trail(next(panels), rng, "geosynchronous", "Geosynchronous, flashing", (1024, 128), (4, 1))
    show_trail(next(panels), rng, "low_orbit", "Satellite in low orbit", (768, 768), (3, 3))
    show_trail(next(panels), rng, "aircraft", "Aircraft: one wing tip", (1024, 1024), (4, 4))
    show_trail(next(panels), rng, "meteor", "Meteor", (1024, 1024), (4, 4))
    glint = example_event(rng, "glint", star_flux_e_row=STAR_E_ROW)
    plot_pixels(glint.exposed_e, next(panels), limits=(200, 1200)).set_title("Glint, on no star")
    ghost = expose(rng, example_ghost(1024, 512)[:, 192:320])
    ax = plot_pixels(binned(ghost, (8, 2)), next(panels), limits=(295, 355), first_column=192, bins=(8, 2))
    ax.set_title("Ghost of a star of r = 3")
    return figure


def sheet(n_across: int, n_down: int, size: tuple[float, float]) -> tuple[Figure, Iterator[Axes]]:
    """A figure, and its panels in reading order."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, iter(figure.subplots(n_down, n_across).ravel())


def draw_ray(rng: np.random.Generator, wanted: Callable[[CosmicRay], bool]) -> CosmicRay:
    """Draw cosmic rays in the middle of 48 rows and columns until one is ``wanted``."""
    while True:
        ray = draw_cosmic_ray(rng, 24.0, 32.0, 48, N_COLUMNS)
        if len(ray.rows) and ray.columns.min() > 9 and ray.columns.max() < 54 and wanted(ray):
            return ray


def is_short(ray: CosmicRay) -> bool:
    """Whether a ray has few pixels, as half of all cosmic rays."""
    return len(ray.rows) <= 5 and ray.charge_e.max() > 500


def straightness(ray: CosmicRay) -> float:
    """Share of the variance of the pixels along their principal axis; 1 for a line."""
    along = np.linalg.eigvalsh(np.cov(np.stack([ray.rows, ray.columns])))
    return float(along[1] / along.sum())


def is_straight(ray: CosmicRay) -> bool:
    """Whether a ray looks like a grazing muon."""
    return len(ray.rows) > 15 and straightness(ray) > 0.98


def is_worm(ray: CosmicRay) -> bool:
    """Whether a ray looks like a scattered electron."""
    return len(ray.rows) > 25 and straightness(ray) < 0.9


def show_trail(
    ax: Axes, rng: np.random.Generator, kind: str, title: str, shape: tuple[int, int], bins: tuple[int, int]
) -> None:
    """Show an example of a moving source over sky, in the middle of the detector."""
    light = example_trail(kind)
    top, left = ((size - part) // 2 for size, part in zip(light.shape, shape, strict=True))
    pixels = binned(expose(rng, light[top : top + shape[0], left : left + shape[1]]), bins)
    limits, softening = (SKY_E - 60, float(np.percentile(pixels, 99.9))), 300.0 if shape[0] == shape[1] else None
    plot_pixels(pixels, ax, limits=limits, softening=softening, first_row=top, first_column=left, bins=bins)
    ax.set_title(title)


def binned(pixels: np.ndarray, bins: tuple[int, int]) -> np.ndarray:
    """Mean of blocks of pixels."""
    rows, columns = pixels.shape[0] // bins[0], pixels.shape[1] // bins[1]
    cut = pixels[: rows * bins[0], : columns * bins[1]]
    return cut.reshape(rows, bins[0], columns, bins[1]).mean(axis=(1, 3))


def camera_sheet(rng: np.random.Generator) -> Figure:
    """Artefacts of the camera."""
    figure, panels = sheet(3, 4, (9.0, 9.6))
    for show in (
        show_pickup, show_mains, show_drift, show_hot_columns, show_blinking, show_trap, show_dropped_rows,
        show_serial_trap, show_serial_trap_loss, show_deferred_charge, show_bias, show_nonlinearity,
    ):  # fmt: skip
        show(next(panels), rng)
    return figure


def show_pickup(ax: Axes, rng: np.random.Generator) -> None:
    """A burst of interference, equal in data and overscan."""
    bursts = draw_pickup_bursts(rng, 60_000, ROW_RATE_HZ)
    burst = max((burst for burst in bursts if len(burst.offsets_e) > 3), key=lambda burst: np.ptp(burst.offsets_e))
    data, overscan = read(rng, 40, pickup_bursts=[replace(burst, first_row=18)])
    rows = GAIN * np.stack([data[:, 8:].mean(axis=1), overscan[:, 20:].mean(axis=1)])
    rows -= np.median(rows, axis=1, keepdims=True)
    curves = dict(zip(("56 data columns", "10 overscan columns"), rows, strict=True))
    plot_series(np.arange(40), curves, ax, xlabel="Row", ylabel="Mean − median (e⁻)", steps=True)
    ax.set_ylim(top=1.5 * rows.max())
    ax.set_title("Pickup burst")


def show_mains(ax: Axes, rng: np.random.Generator) -> None:
    """Pickup of the mains frequency."""
    rows = np.arange(45)
    curve = {"": draw_mains(rng).offsets_e(rows, ROW_RATE_HZ)}
    plot_series(rows, curve, ax, xlabel="Row (5 rows are 1/60 s)", ylabel="All columns (e⁻)", steps=True)
    ax.set_title("Mains: 60 and 120 Hz")


def show_drift(ax: Axes, rng: np.random.Generator) -> None:
    """Drift of the bias."""
    rows = np.arange(0, 9000, 5)
    curve = {"": draw_drift(rng).offsets_e(rows, ROW_RATE_HZ)}
    plot_series(rows / ROW_RATE_HZ, curve, ax, xlabel="Time (s)", ylabel="All columns (e⁻)")
    ax.set_title("Bias drift: 1/f, 0.01 to 20 Hz")


HOT = (HotColumn(20, 120.0), HotColumn(44, 120.0, Blinking(7, 0.15, 0.25)))


def show_hot_columns(ax: Axes, rng: np.random.Generator) -> None:
    """A steady and a blinking hot column."""
    pixels = electrons(*read(rng, 400, detector=DetectorFaults(np.zeros(N_COLUMNS + 30), HOT)))
    plot_pixels(binned(pixels, (2, 1)), ax, limits=(240, 500), bins=(2, 1))
    ax.set_title("Hot columns: steady and blinking")


def show_blinking(ax: Axes, rng: np.random.Generator) -> None:
    """Mean charge of the hot columns."""
    rows = np.arange(1500) + narrow().sequence_rows(0)[0]
    curves = {name: hot.light_e(rows, ROW_RATE_HZ) for name, hot in zip(("steady", "blinking"), HOT, strict=True)}
    plot_series((rows - rows[0]) / ROW_RATE_HZ, curves, ax, xlabel="Time (s)", ylabel="Dark charge (e⁻ per row)")
    ax.set_ylim(-10, 160)
    ax.set_title("Their mean charge")


def show_trap(ax: Axes, rng: np.random.Generator) -> None:
    """Charge that a trap captures from a burst of 80 rows and releases behind it."""
    without = np.full(300, SKY_E)
    without[60:140] += 1000
    trap, through = Trap(0, 400.0, 0.02, 40.0), without.copy()
    pass_trap(through, trap, trap.filling_e(SKY_E))
    rows = np.arange(300)
    change = {"": through - without}
    plot_series(rows, change, ax, xlabel="Row", ylabel="Change of its column (e⁻)", steps=True)
    ax.axvspan(60, 140, color="0.9", lw=0)
    ax.set_title("Trap (shaded: 1,000 e⁻ more)")


def show_dropped_rows(ax: Axes, rng: np.random.Generator) -> None:
    """Dropped rows, as integers."""
    detector = DetectorFaults(np.zeros(N_COLUMNS + 30), dropped_rows=[(14, 7)])
    data, _ = read(rng, 40, detector=detector)
    plot_pixels(data.astype(float), ax, limits=(0, 180), unit="ADU").set_title("Dropped rows: 0 ADU")


def streak_row() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns around a star, its mean electrons, and the same after the serial trap."""
    columns = np.arange(60)
    without = SKY_E + STAR_E_ROW * pixel_profile(columns - 30.0, SIGMA_PX)
    row = without[None].copy()
    apply_serial_trap(row, narrow().profile.serial_trap)
    return columns - 30, without, row[0]


def show_serial_trap(ax: Axes, rng: np.random.Generator) -> None:
    """Profile of a streak with and without the serial trap."""
    columns, without, through = (values[24:40] for values in streak_row())
    plot_series(
        columns, {"without": without, "with": through}, ax,
        xlabel="Column from the star (px)", ylabel="Mean of a pixel (e⁻)", steps=True,
    )  # fmt: skip
    ax.set_title("Serial trap (pocket effect): streak of r = 10.0")


def show_serial_trap_loss(ax: Axes, rng: np.random.Generator) -> None:
    """Charge that the serial trap captures and releases."""
    columns, without, through = (values[24:40] for values in streak_row())
    change = {"": through - without}
    plot_series(columns, change, ax, xlabel="Column from the star (px)", ylabel="With − without (e⁻)", steps=True)
    ax.axhline(0, color="0.6", lw=0.8)
    ax.set_title("Charge moved by the serial trap")


def show_deferred_charge(ax: Axes, rng: np.random.Generator) -> None:
    """Overscan columns, mean of 400 rows."""
    _, overscan = read(rng, 400)
    curve = {"": overscan.mean(axis=0)}
    plot_series(np.arange(30), curve, ax, xlabel="Overscan column", ylabel="Mean (ADU)", steps=True)
    ax.axvspan(19.5, 29, color="0.9", lw=0)
    ax.set_title("Deferred charge (shaded: bias)")


def show_bias(ax: Axes, rng: np.random.Generator) -> None:
    """Bias structure of a whole row."""
    pattern = draw_detector(rng, 3072, 30, hot_columns=0, traps=0, row_rate_hz=300.0).pattern_e
    plot_series(
        np.arange(3102), {"": pattern}, ax, xlabel="Column, overscan behind 3,071", ylabel="Bias structure (e⁻)"
    )
    ax.lines[0].set_linewidth(0.4)
    ax.set_title("Bias structure, same in every row")


def show_nonlinearity(ax: Axes, rng: np.random.Generator) -> None:
    """Deviation of the reading from the true charge."""
    a, b = narrow().profile.nonlinearity or (0.0, 0.0)
    reading = np.linspace(0, 48_000, 200)
    curve = {"": 100 * (a * reading**2 + b * reading)}
    plot_series(reading / 1e3, curve, ax, xlabel="Reading (kADU)", ylabel="Reading / true − 1 (%)")
    ax.set_title("Non-linearity")


# title, kind, shape and range of scales (s) of the event that is selected among the draws
EVENT_PANELS: Sequence[tuple[str, str, dict[str, object], tuple[float, float]]] = (
    ("Flare", "flare", {}, (0.05, 0.5)),
    ("Burst, top-hat", "burst", {"profile": "tophat"}, (0.05, 0.3)),
    ("Burst, Gaussian", "burst", {"profile": "gaussian"}, (0.02, 0.1)),
    ("Glint, on no star", "glint", {}, (0.1, 0.3)),
    ("Occultation, point star", "occultation", {"star_radius": 0.0}, (0.0, 1.0)),
    ("Occultation, stellar disc", "occultation", {"star_radius": 0.8}, (0.0, 1.0)),
    ("Lunar limb or eclipse, point star", "eclipse", {"star_radius": 0.0, "direction": "down"}, (0.02, 0.1)),
    ("The same, stellar disc, reappearing", "eclipse", {"star_radius": 0.8, "direction": "up"}, (0.02, 0.1)),
    ("Pulsar of 33.5 ms, on no star", "pulsar", {}, (0.4, 30.0)),
    ("Flickering", "flickering", {}, (0.0, 60.0)),
    ("Quasi-periodic oscillation", "qpo", {}, (0.0, 60.0)),
)
N_POINTS = 250  # at most, in a panel


def event_sheet(rng: np.random.Generator) -> Figure:
    """Every class of event, on a star of r = 10.0 if it needs one, and one that the file's first row cuts."""
    figure, panels = sheet(3, 4, (9.0, 9.0))
    for title, kind, shape, scales_s in EVENT_PANELS:
        show_event(next(panels), rng, title, draw_example(rng, kind, shape, scales_s))
    show_partial(next(panels), rng)
    return figure


def draw_example(
    rng: np.random.Generator, kind: str, shape: dict[str, object], scales_s: tuple[float, float]
) -> EventExample:
    """Draw examples of one kind until one has the given shape and scale."""
    while True:
        example = example_event(rng, kind, star_flux_e_row=STAR_E_ROW, row_rate_hz=ROW_RATE_HZ)
        drawn, scale_s = dict(example.event.shape), example.event.scale_rows / ROW_RATE_HZ
        if scales_s[0] <= scale_s <= scales_s[1] and all(drawn[name] == value for name, value in shape.items()):
            return example


def show_event(ax: Axes, rng: np.random.Generator, title: str, example: EventExample) -> None:
    """Light of the star with its event, or of the event alone, with optimal weights over columns."""
    on_star = example.event.star_id >= 0
    mean = (STAR_E_ROW * on_star + example.curve_e) / STAR_E_ROW
    measured = weighted_flux(example.exposed_e - SKY_E, example.event) / STAR_E_ROW
    label = "Flux / star's before" if on_star else f"Flux ({STAR_E_ROW:,.0f} e⁻ per row)"
    seconds = np.arange(len(mean)) / ROW_RATE_HZ
    plot_event(seconds, mean, ax, measured=measured, rows_per_point=-(-len(mean) // N_POINTS), unit=label)
    ax.set_title(title)


def weighted_flux(light_e: np.ndarray, event: Event) -> np.ndarray:
    """Electrons per row of a star at the event's column, by its profile over the noise of sky and star."""
    profile = pixel_profile(np.arange(light_e.shape[1]) - event.x, SIGMA_PX)
    weight = profile / (SKY_E + READ_NOISE_E**2 + STAR_E_ROW * profile)
    return light_e @ weight / (profile @ weight)


def show_partial(ax: Axes, rng: np.random.Generator) -> None:
    """A flare of which the file contains only the decay."""
    event = draw_event(rng, "flare", row_rate_hz=ROW_RATE_HZ, n_rows=1200, x=12.0, cut="first")
    while not (60 < event.scale_rows < 300 and -0.5 < event.row_peak / event.scale_rows < -0.1):
        event = draw_event(rng, "flare", row_rate_hz=ROW_RATE_HZ, n_rows=1200, x=12.0, cut="first")
    mean_e = STAR_E_ROW * (1 + 2 * event.light_curve(1200, SIGMA_PX))
    profile = pixel_profile(np.arange(24) - event.x, SIGMA_PX)
    exposed = expose(rng, np.outer(mean_e, profile)) - SKY_E
    seconds = np.arange(1200) / ROW_RATE_HZ
    measured = weighted_flux(exposed, event) / STAR_E_ROW
    plot_event(seconds, mean_e / STAR_E_ROW, ax, measured=measured, rows_per_point=5, unit="Flux / star's before")
    ax.set_title("Partial flare: peak before row 0")

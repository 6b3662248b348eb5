"""Draw the figures of docs/simulator.md: simulated frames, and their residuals after calibration.

    python benchmarks/gallery.py --out docs/figures

The figures show a frame with everything on; every artefact; every class of event; the atmosphere and its effect on two
streaks; a piece of an amplifier before and after calibration; the noise around streaks after each step. The table of
the last is printed as well.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from calibration import Columns, artefact_mask, simulate, steps
from contact_sheets import binned, camera_sheet, electrons, event_sheet, narrow, sky_sheet
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from simulator import ROW_RATE_HZ, quiet

from shutterless.pipeline.events.kinds import EVENT_KINDS
from shutterless.pipeline.plots.frames import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION
from shutterless.pipeline.plots.sky import plot_noise_by_magnitude, plot_pixels, plot_series
from shutterless.pipeline.reading.frames import Frame
from shutterless.pipeline.simulation.content import AmplifierContent, draw_air, draw_content
from shutterless.pipeline.simulation.rendering import render
from shutterless.pipeline.simulation.scene import PIXELS, Scene, draw_scene
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.sky.atmosphere import AirRun, AirSeries

STYLE = {"font.size": 8, "axes.titlesize": 9, "figure.dpi": 100, "savefig.dpi": 100}
N_GREYS = 64
LINE_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE)
BLENDS = (-0.7, -0.4, 0.0, 0.25, 0.5, 0.75)  # towards black and white, for the edges of lines


def palette() -> np.ndarray:
    """Greys, and the colours of lines with their edges, shape (c, 3), 0 to 255."""
    greys = np.repeat(np.linspace(0, 255, N_GREYS)[:, None], 3, axis=1)
    lines = [255 * np.array(to_rgb(colour)) for colour in LINE_COLOURS]
    blends = [line + (255 - line) * blend if blend > 0 else line * (1 + blend) for line in lines for blend in BLENDS]
    return np.rint(np.concatenate([greys, blends])).astype(int)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG with a palette: a fifth of the size of one with three colours in every pixel."""
    buffer = io.BytesIO()
    figure.savefig(buffer)
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    found, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    nearest = np.argmin(((found[:, None].astype(int) - palette()) ** 2).sum(axis=2), axis=1).astype(np.uint8)
    image = Image.fromarray(nearest[index].reshape(pixels.shape[:2]), mode="P")
    image.putpalette(palette().astype(np.uint8).tobytes())
    image.save(path, optimize=True)
    print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)", flush=True)


# --- a whole frame ----------------------------------------------------------------------------------------------------

FRAME_BINS = (12, 6)
PIECE_ROWS, PIECE_COLUMNS = 240, 160


def busy(rows: int = 9000, close_row: int = 5700) -> SceneSettings:
    """Everything on, from the opening of the shutter to the end of the drain; many moving sources."""
    return SceneSettings(
        rows=rows, first_row=0, shutter_close_row=close_row, events=8, kinds=EVENT_KINDS, atmosphere=True,
        detector=True, sky_lights=True, geosynchronous_per_hour=200.0, low_orbit_per_hour=400.0,
        meteors_per_hour=2000.0, dropped_runs_per_hour=500.0, seed=12,
    )  # fmt: skip


def frame_figure(_: np.random.Generator) -> Figure:
    """A frame from sequence row 0: ramp, onsets, streaks, drain."""
    settings = busy()
    content = draw_content(settings, 1, 1, 0)
    pixels = electrons(*render(settings, content, settings.generator(PIXELS, 1, 1, 0)))
    figure = Figure(figsize=(9.0, 7.6), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1.5, 1.0))
    whole = figure.add_subplot(grid[:, 0])
    plot_pixels(binned(pixels, FRAME_BINS), whole, limits=(0, 3000), softening=300.0, bins=FRAME_BINS)
    whole.set_title(f"An amplifier of ZTF, everything on; mean of {FRAME_BINS[0]} × {FRAME_BINS[1]} px")
    whole.axhline(content.scene.n_transit, color=ORANGE, lw=0.8, ls=":")
    whole.axhline(settings.shutter_close_row, color=ORANGE, lw=0.8, ls=":")
    for line, (name, row, column) in enumerate(pieces(content)):
        top, left = int(row) - PIECE_ROWS // 2, int(column) - PIECE_COLUMNS // 2
        ax = figure.add_subplot(grid[line, 1])
        piece = pixels[top : top + PIECE_ROWS, left : left + PIECE_COLUMNS]
        plot_pixels(piece, ax, limits=(0, 3000), softening=300.0, first_row=top, first_column=left).set_title(name)
        whole.add_patch(Rectangle((left, top), PIECE_COLUMNS, PIECE_ROWS, fill=False, ec=ORANGE, lw=1.2))
    return figure


def pieces(content: AmplifierContent) -> list[tuple[str, float, float]]:
    """Title, file row and column of each detail to show."""
    scene = content.scene
    middle = (scene.x > PIECE_COLUMNS) & (scene.x < scene.n_columns - PIECE_COLUMNS)
    bright = np.flatnonzero(middle & (scene.mag < 10.5))
    first, last = bright[np.argmin(np.abs(scene.y0[bright] - 1200))], bright[np.argmax(scene.y0[bright])]
    assert content.sky_lights is not None
    assert scene.close_row is not None
    trail = max(
        (trail for trail in content.sky_lights.trails if trail.kind == "satellite"),
        key=lambda trail: trail.brightness.flux_e_s,
    )
    row = (trail.row_enter + trail.row_leave) / 2
    column = (trail.x_enter + trail.x_leave) / 2
    return [
        ("Ramp: a streak begins at its star's own row", scene.y0[first], scene.x[first]),
        ("Steady sky, crossed by a satellite", row, column),
        ("Drain: a streak ends", scene.close_row + scene.y0[last], scene.x[last]),
    ]


# --- the air ----------------------------------------------------------------------------------------------------------

STAR_ROWS, STAR_COLUMNS = (200.0, 380.0), (17.3, 46.6)
SHOWN_ROWS = 900


def air_figure(_: np.random.Generator) -> Figure:
    """Atmosphere above two stars, against file row and against the star's own time (row - y0), and their streaks."""
    settings = replace(narrow(), atmosphere=True, detector=False, rows=SHOWN_ROWS + 400, seed=4)
    scene = two_stars(draw_scene(settings, 1, 1), flux_e_row=5000.0)
    rows = settings.sequence_rows(0)
    content = AmplifierContent(scene, rows, air=draw_air(settings, scene, 1, 1))
    pixels = electrons(*render(settings, content, settings.generator(PIXELS, 1, 1, 0)))
    figure = Figure(figsize=(9.0, 9.0), layout="constrained")
    panels = figure.subplots(6, 2, sharex="col", sharey="row")
    lags = [0, int(STAR_ROWS[1] - STAR_ROWS[0])]
    air = AirRun(content.air, scene.n_transit)  # type: ignore[arg-type]
    series, factors = air.series(rows[0], len(rows)), air.factors(rows[0], len(rows))
    for column, (name, starts) in enumerate((("Row time", [0, 0]), ("Star time", lags))):
        draw_air_panels(panels[:, column], rows[0], series, factors, pixels, starts)
        panels[0, column].set_title(f"{name}: seconds since the first row shown" + (" of each star" * column))
        panels[-1, column].set_xlabel("Time (s)")
    for ax in panels[:, 1]:
        ax.set_ylabel("")
    return figure


def two_stars(scene: Scene, flux_e_row: float) -> Scene:
    """The same sky with two equal stars."""
    flux = np.full(2, flux_e_row)
    mag = 24.49 - 2.5 * np.log10(flux * ROW_RATE_HZ)
    return replace(scene, x=np.array(STAR_COLUMNS), y0=np.array(STAR_ROWS), mag=mag, flux_e_row=flux)


def draw_air_panels(  # one column of the figure
    panels: np.ndarray, first_row: int, series: AirSeries, factors: np.ndarray, pixels: np.ndarray, starts: list[int]
) -> None:
    """Draw series and streaks of both stars, each from its own first row."""
    seconds = np.arange(SHOWN_ROWS) / ROW_RATE_HZ
    shared = {"Motion (px)": series.shift_px, "Width / mean": series.width, "Flux / mean,\nshared part": series.light}
    lines = [{}, {}, {}, {}]
    for star, start in enumerate(starts):
        label = f"star at y0 = {STAR_ROWS[star]:.0f}"
        in_series = int(first_row + start - STAR_ROWS[star]) - series.first
        for line, values in zip(lines, shared.values(), strict=False):
            line[label] = values[in_series : in_series + SHOWN_ROWS]
        lines[3][label] = factors[start : start + SHOWN_ROWS, star]
    for ax, line, name in zip(panels, lines, [*shared, "Scintillation"], strict=False):
        plot_series(seconds, line, ax, xlabel="", ylabel=name)
        ax.legend_.set_visible(ax is panels[0])
    for star, (ax, start) in enumerate(zip(panels[4:], starts, strict=True)):
        column = round(STAR_COLUMNS[star])
        piece = pixels[start : start + SHOWN_ROWS, column - 7 : column + 8].T
        extent = (0, SHOWN_ROWS / ROW_RATE_HZ, column - 7.5, column + 7.5)
        ax.imshow(
            piece, cmap="gray", vmin=0, vmax=3000, extent=extent, aspect="auto", interpolation="nearest", origin="lower"
        )
        ax.set_ylabel(f"Streak of y0 = {STAR_ROWS[star]:.0f}:\ncolumn (px)")


# --- before and after the calibration ---------------------------------------------------------------------------------

CALIBRATED = ("+ shared rows", "+ own motion")
SHOWN_STEPS = ("constant bias and level", "+ shared rows", "+ shared motion", "+ own motion")
LIMIT_SIGMA = 6.0
CROWDED, SPARSE = 300.0, 60.0  # stars brighter than r = 14.5: one scene for bright streaks, one for faint isolated ones


def calibration_figures(_: np.random.Generator) -> tuple[Figure, Figure]:
    """A piece around a star of r = 9 to 10, raw and calibrated; the noise around streaks after each step."""
    frame, content = simulate(nuisances(CROWDED), 1)
    star = isolated_star(content.scene)
    window = (slice(round(content.scene.x[star]) - 60, round(content.scene.x[star]) + 60), slice(4000, 4360))
    numbers, counts, shown = follow_steps(frame, content, window)
    pieces_figure = before_after(frame, shown, window, float(content.scene.mag[star]))
    more_numbers, more_counts, _ = follow_steps(*simulate(nuisances(SPARSE), 2), window)
    numbers = pd.concat([numbers, more_numbers]).groupby(level=0, sort=False).mean()
    print("isolated streaks:", {name: counts[name] + more_counts[name] for name in counts})
    print(numbers.to_string(float_format="{:.3f}".format))
    return pieces_figure, noise_figure(numbers)


def nuisances(n_bright_stars: float) -> SceneSettings:
    """Steady state without events, everything else on."""
    return quiet(
        rows=12_288, first_row=5000, artefacts=True, atmosphere=True, detector=True, sky_lights=True,
        n_bright_stars=n_bright_stars, seed=21,
    )  # fmt: skip


def follow_steps(
    frame: Frame, content: AmplifierContent, window: tuple[slice, slice]
) -> tuple[pd.DataFrame, dict[str, int], dict[str, np.ndarray]]:
    """Numbers after each step of the calibration, the number of streaks, and residuals (x, t) in a window."""
    columns, mask = Columns(content), artefact_mask(content)
    faulty = mask.all(axis=1)
    for bounds, middles in columns.streaks.items():
        columns.streaks[bounds] = [middle for middle in middles if not faulty[middle - 3 : middle + 4].any()]
    table, shown = {}, {}
    for name, residual in steps(frame):
        if name in CALIBRATED:
            shown[name] = residual[window].astype(np.float64)
        residual[mask] = np.nan
        table[name] = columns.row(residual)
    return pd.DataFrame(table).T, columns.counts(), shown


def isolated_star(scene: Scene) -> int:
    """A star of r = 9 to 10 without another of a tenth of its flux within 25 px."""
    for star in np.flatnonzero((scene.mag > 9) & (scene.mag < 10) & (scene.x > 70) & (scene.x < scene.n_columns - 70)):
        near = (np.abs(scene.x - scene.x[star]) < 25) & (scene.flux_e_row > 0.1 * scene.flux_e_row[star])
        if near.sum() == 1:
            return int(star)
    raise SystemExit("no isolated star of r = 9 to 10 on this amplifier: try another seed")


def before_after(frame: Frame, shown: dict[str, np.ndarray], window: tuple[slice, slice], mag: float) -> Figure:
    """Raw pixels, and residuals without and with the cleaning of streaks, on the same grey scale."""
    columns, rows = window
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    panels = figure.subplots(1, 3)
    corner = {"first_row": rows.start, "first_column": columns.start}
    raw = frame.pixels_adu[rows, columns].astype(float)
    plot_pixels(raw, panels[0], limits=(100, float(raw.max())), unit="ADU", **corner)
    panels[0].set_title(f"Raw, around a star of r = {mag:.1f}")
    titles = ("Residual, streaks not cleaned", "Residual, motion and focus taken out")
    for ax, name, title in zip(panels[1:], CALIBRATED, titles, strict=True):
        plot_pixels(shown[name].T, ax, limits=(-LIMIT_SIGMA, LIMIT_SIGMA), unit="σ", **corner).set_title(title)
    return figure


def noise_figure(numbers: pd.DataFrame) -> Figure:
    """Noise around streaks against magnitude, and in the sky, after each step."""
    by_magnitude = numbers.loc[list(SHOWN_STEPS), [name for name in numbers if name.startswith("r ")]]
    by_magnitude.columns = [np.mean([float(edge) for edge in name[2:].split("-")]) for name in by_magnitude]
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    streaks, sky = figure.subplots(1, 2, width_ratios=(1.6, 1.0))
    plot_noise_by_magnitude(by_magnitude, streaks).set_title("Noisiest of the seven columns around isolated streaks")
    streaks.set_yticks([1, 1.3, 2, 3, 5, 10, 20], labels=["1", "1.3", "2", "3", "5", "10", "20"], minor=False)
    streaks.minorticks_off()
    place = np.arange(len(numbers))
    curves = {
        "σ found / expected − 1": numbers["sky"] - 1,
        "correlation of neighbouring rows": numbers["rows"],
        "correlation of neighbouring columns": numbers["columns"],
    }
    plot_series(place, curves, sky, xlabel="", ylabel="")
    for limit in (-0.03, 0.0, 0.03):
        sky.axhline(limit, color="0.6", lw=0.8, ls=":" if limit else "-")
    sky.set_xticks(place, labels=numbers.index, rotation=30, ha="right")
    sky.set(title="Sky columns", ylim=(-0.05, 0.13))
    return figure


FIGURES: dict[str, Callable[[np.random.Generator], Figure]] = {
    "frame": frame_figure,
    "artefacts_sky": sky_sheet,
    "artefacts_camera": camera_sheet,
    "events": event_sheet,
    "atmosphere": air_figure,
}


def main() -> None:
    """Make the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--only", nargs="*", choices=[*FIGURES, "calibration"], help="these figures alone")
    parser.add_argument("--seed", type=int, default=5, help="of the artefacts and events that are drawn as examples")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = arguments.only or [*FIGURES, "calibration"]
    with mpl.rc_context(STYLE):
        for name in chosen:
            started, rng = time.perf_counter(), np.random.default_rng(arguments.seed)
            if name == "calibration":
                for part, figure in zip(("calibration", "noise"), calibration_figures(rng), strict=True):
                    save(figure, arguments.out / f"{part}.png")
            else:
                save(FIGURES[name](rng), arguments.out / f"{name}.png")
            print(f"  {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()

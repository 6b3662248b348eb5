"""Picture a candidate in an image cube: images before, at and after its peak, and light curves."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import SubFigure

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.plots.cubes import (
    LINEAR_SIGMA,
    duration_unit,
    plot_pixel_light,
    plot_residual_image,
    plot_summed_light,
)
from shutterless.workflows.pages.drawings import new_figure, picture, window
from shutterless.workflows.pages.formats import number
from shutterless.workflows.pages.parts import Paragraph, Part, Picture
from shutterless.workflows.pages.run_folder import RunFolder
from shutterless.workflows.report.candidate_cards import bin_time
from shutterless.workflows.report.cube_entry import (
    CubeEntry,
    archive_text,
    duration_text,
    median_light,
    relative_light,
    scale_text,
    sum_light,
)
from shutterless.workflows.report.cube_sections import MAX_PIXELS

_MARGIN_ROWS, _MARGIN_LENGTHS = 24, 3  # of a cube, shown on either side of an event; the longer one counts
_IMAGES_PER_EVENT = 8  # an image of a long event sums this fraction of its cadences
_MIN_LIMIT_SIGMA = 6.0


@lru_cache(maxsize=4)  # candidates of one cube follow each other; its light is summed once for all
def _open_cube(folder: Path) -> CubeEntry:
    return CubeEntry(folder)


def cube_of(run: RunFolder, candidate: pd.Series) -> CubeEntry | None:
    """Entry of a candidate in an image cube; None if it is not in the store."""
    folder = run.entry_of(candidate)
    return _open_cube(folder) if folder is not None and folder.is_dir() else None


def relative_amplitude(candidate: pd.Series, cube: CubeEntry | None) -> tuple[float, str]:
    """Amplitude in per cent of the light in a cadence, and whose light that is: of the star, or of all pixels."""
    if cube is None:
        return np.nan, ""
    stars = cube.amplifier.streaks.set_index("streak_id")["flux_e_row"]
    star = candidate["streak_id"]
    of_star = pd.notna(star) and int(star) in stars.index
    light = float(stars.loc[int(star)]) if of_star else float(median_light(cube.total_e))
    if not light > 0:
        return np.nan, ""
    return 100 * candidate["amplitude_e"] / light, "star" if of_star else "all"


def cube_numbers(run: RunFolder, candidate: pd.Series) -> list[tuple[str, str]]:
    """Numbers of a candidate in an image cube."""
    cube = cube_of(run, candidate)
    rows = [number(candidate[name], "{:.0f}") for name in ("row_start", "row_stop", "row_peak")]
    share, whose = relative_amplitude(candidate, cube)
    relative = f" ({number(share)} % of {whose})" if whose else ""
    pairs = [
        ("Duration", duration_text(candidate["duration_s"])),
        ("Amplitude", f"{number(candidate['amplitude_e'], '{:,.0f}')} e⁻ per cadence{relative}"),
        ("Cadences", f"{rows[0]}–{rows[1]}, peak {rows[2]}"),
        ("Place", f"x = {number(candidate['x'], '{:.2f}')}, y = {number(candidate['y'], '{:.0f}')}"),
        ("Star", number(candidate["streak_id"], "{:.0f}")),
    ]
    if cube is None:
        return pairs
    time = f"{archive_text(candidate['time_archive'], cube.amplifier)} {scale_text(cube.amplifier.readout.time_scale)}"
    return [("Archive time", time.strip()), *pairs]


def cube_picture(run: RunFolder, candidate: pd.Series) -> Part:
    """Picture of a candidate in an image cube, or the reason why there is none."""
    cube = cube_of(run, candidate)
    if cube is None:
        return Paragraph("No picture: no entry of this cube in the store.", "left-out")
    return image_picture(cube, candidate)


def image_picture(cube: CubeEntry, candidate: pd.Series) -> Picture:
    """Draw three images and the light curve around an event."""
    drawing = new_figure(9.6, 6.4)
    grid = drawing.add_gridspec(2, 2, height_ratios=(1, 1.25), width_ratios=(1.35, 1))
    shown = _draw_images(cube, candidate, drawing.add_subfigure(grid[0, :]))
    _draw_event_light(cube, candidate, drawing.add_subfigure(grid[1, 0]))
    _draw_neighbours(cube, candidate, drawing.add_subfigure(grid[1, 1]))
    return picture(drawing, shown, alt=f"Images and light of candidate {candidate['candidate_id']}", image=True)


def shown_rows(candidate: pd.Series, n_rows: int) -> slice:
    """Cadences shown: the event and three times its length, at least 24 cadences, on either side."""
    first, last = int(candidate["row_start"]), int(candidate["row_stop"])
    margin = max(_MARGIN_ROWS, _MARGIN_LENGTHS * (last - first + 1))
    return slice(max(0, first - margin), min(n_rows, last + 1 + margin))


def image_rows(candidate: pd.Series, live: np.ndarray) -> dict[str, np.ndarray]:
    """Cadences of the images: live ones next to the event on either side, and those at its peak.

    Parameters
    ----------
    candidate : Series
    live : ndarray of bool, shape (t,)

    Returns
    -------
    dict of str to ndarray of int
        ``before``, ``peak`` and ``after``: an eighth of the event's cadences, at least one; fewer or none if too few
        are live.
    """
    start, stop, peak = (int(candidate[name]) for name in ("row_start", "row_stop", "row_peak"))
    n_joined = max(1, (stop - start + 1) // _IMAGES_PER_EVENT)
    first = int(np.clip(peak - n_joined // 2, start, max(stop + 1 - n_joined, start)))
    return {
        "before": np.flatnonzero(live[:start])[-n_joined:],
        "peak": np.arange(first, first + n_joined),
        "after": stop + 1 + np.flatnonzero(live[stop + 1 :])[:n_joined],
    }


def pixels_around(cube: CubeEntry, candidate: pd.Series, length: int) -> tuple[slice, slice]:
    """Rows and columns around a candidate, moved to lie inside the image."""
    place = round(float(candidate["y"])), round(float(candidate["x"]))
    y, x = (window(middle, length, size) for middle, size in zip(place, cube.shape, strict=True))
    return y, x


def _draw_images(cube: CubeEntry, candidate: pd.Series, drawing: SubFigure) -> str:
    y, x = round(float(candidate["y"])), float(candidate["x"])
    rows, columns = pixels_around(cube, candidate, MAX_PIXELS)
    shown = image_rows(candidate, np.isfinite(cube.total_e))
    images = {title: _join_cadences(cube.amplifier, rows, columns, at) for title, at in shown.items() if at.size}
    limit = _colour_limit(images["peak"], y - rows.start, round(x) - columns.start)
    last = list(images)[-1]
    for ax, (title, at) in zip(drawing.subplots(1, 3, sharey=True), shown.items(), strict=True):
        if title not in images:
            ax.set_title(f"no live cadence {title}", fontsize=10)
            ax.set_axis_off()
            continue
        corner = rows.start, columns.start
        plot_residual_image(images[title], ax, limit_sigma=limit, place=(x, y), first_pixel=corner, bar=title == last)
        ax.set_title(_title(title, at, candidate, cube.amplifier), fontsize=10)
        ax.label_outer()
    joined = f"Each image joins up to {len(shown['peak'])} cadences. " if len(shown["peak"]) > 1 else ""
    return f"{joined}Colours are linear to ± {LINEAR_SIGMA:g} σ, logarithmic beyond, and end at ± {limit:.3g} σ."


def _join_cadences(amplifier: Amplifier, y: slice, columns: slice, cadences: np.ndarray) -> np.ndarray:
    """Sum of the residuals of several cadences in units of its σ, shape (y, x)."""
    residual = np.asarray(amplifier.residual[y, columns][..., cadences], dtype=np.float32)
    return bin_time(residual, len(cadences)).reshape(residual.shape[:2])


def _colour_limit(peak: np.ndarray, y: int, x: int) -> float:
    """Limit of the colour scale: the largest residual at the place of an event. It keeps images comparable."""
    near = peak[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    live = np.abs(near[np.isfinite(near)])
    return max(_MIN_LIMIT_SIGMA, float(live.max())) if live.size else _MIN_LIMIT_SIGMA


def _title(title: str, cadences: np.ndarray, candidate: pd.Series, amplifier: Amplifier) -> str:
    """Title of an image: its cadences, and the time from the peak to their middle."""
    middle_s = float(np.mean(amplifier.readout.seconds(cadences)))
    apart_s = middle_s - float(amplifier.readout.seconds(int(candidate["row_peak"])))
    first, last = cadences[0], cadences[-1]
    words = f"{title}: {first:,}–{last:,}" if last > first else f"{title}: cadence {first:,}"
    return words if title == "peak" else f"{words} ({'+' if apart_s > 0 else '−'}{duration_text(abs(apart_s))})"


def _event_clock(cube: CubeEntry, candidate: pd.Series) -> tuple[slice, np.ndarray, tuple[float, float], str]:
    """Cadences shown, their times after the peak, beginning and end of the event, and the unit."""
    readout = cube.amplifier.readout
    rows = shown_rows(candidate, cube.amplifier.n_rows)
    zero_s = float(readout.seconds(int(candidate["row_peak"])))
    seconds = readout.seconds(np.arange(rows.start, rows.stop)) - zero_s
    edges_s = readout.seconds(np.array([candidate["row_start"] - 0.5, candidate["row_stop"] + 0.5])) - zero_s
    unit, unit_s = duration_unit(float(np.abs(seconds).max()))
    return rows, seconds / unit_s, (float(edges_s[0] / unit_s), float(edges_s[1] / unit_s)), unit


def _draw_event_light(cube: CubeEntry, candidate: pd.Series, drawing: SubFigure) -> None:
    rows, time, edges, unit = _event_clock(cube, candidate)
    shown = np.zeros(cube.shape, dtype=bool)
    shown[pixels_around(cube, candidate, MAX_PIXELS)] = True
    light, ylabel = relative_light(cube.total_e if shown.all() else sum_light(cube.amplifier, shown))
    plot_summed_light(
        time,
        light[rows],
        drawing.subplots(),
        shaded=edges,
        xlabel=f"Time after the peak cadence ({unit})",
        ylabel=ylabel,
    )


def _draw_neighbours(cube: CubeEntry, candidate: pd.Series, drawing: SubFigure) -> None:
    rows, time, edges, unit = _event_clock(cube, candidate)
    y, columns = pixels_around(cube, candidate, 3)
    amplifier = cube.amplifier
    residual = np.asarray(amplifier.residual[y, columns, rows], dtype=np.float32)
    light = residual * amplifier.sigma_rows(y, columns, rows.start, rows.stop)
    ax = plot_pixel_light(
        time, light, drawing.subplots(), first_pixel=(y.start, columns.start), common=True, shaded=edges
    )
    if np.isfinite(light).any():
        span = number(np.nanmax(light) - np.nanmin(light), "{:,.0f}")
        ax.set_title(
            f"Light − baseline; each pixel {span} e⁻ high, {number(time[-1] - time[0], '{:.3g}')} {unit} wide",
            fontsize=9,
        )

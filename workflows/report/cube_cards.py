"""Report the candidates in image cubes: a table, and cards with images and light curves of the first ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import SubFigure

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.detection.vetoes import describe_veto
from shutterless.pipeline.plots.cubes import (
    LINEAR_SIGMA,
    duration_unit,
    plot_pixel_light,
    plot_residual_image,
    plot_summed_light,
)
from shutterless.workflows.pages.drawings import new_figure, picture, window
from shutterless.workflows.pages.formats import Columns, number, tabulate
from shutterless.workflows.pages.parts import Card, Definitions, Paragraph, Part, Picture, Table
from shutterless.workflows.pages.run_folder import RunFolder, best_of_groups, required
from shutterless.workflows.report.candidate_cards import (
    N_CARDS,
    bin_time,
    describe_match,
    or_unknown,
    strip_picture,
)
from shutterless.workflows.report.cube_entry import (
    CubeEntry,
    archive_text,
    duration_text,
    median_light,
    relative_light,
    scale_text,
    sum_light,
)
from shutterless.workflows.report.cube_sections import MAX_PIXELS, numbered_candidates

_MARGIN_ROWS, _MARGIN_LENGTHS = 24, 3  # of a cube, shown on either side of an event; the longer one counts
_IMAGES_PER_EVENT = 8  # an image of a long event sums this fraction of its cadences
_MIN_LIMIT_SIGMA = 6.0
_SLOW_S = 10.0


def write_cube_candidates(run: RunFolder) -> list[Part]:
    """List and draw the candidates of image cubes."""
    found = required(run.candidates, "search/candidates.parquet or candidates.parquet")
    if found.empty:
        return [Paragraph("The search found no candidates.")]
    listed = numbered_candidates(run)
    n_groups, n_vetoed = len(best_of_groups(found)[0]), int((found["veto"] != "").sum())
    which = "each group" if n_groups == len(listed) else f"each of the first {len(listed)} groups"
    words = (
        f"Candidates: {len(found)}, groups of one cause: {n_groups}, vetoed candidates (listed last): {n_vetoed}. "
        f"The table lists the best of {which}, the surest first, by the numbers in the pictures above; cards follow of "
        f"the first {min(N_CARDS, len(listed))}."
    )
    note = (
        "Times are those of the middle of the peak cadence. Relative amplitudes are of the star's light where the "
        "candidate is one of the stars found, else of the median light of all pixels, in one cadence. In each card, "
        "above: light minus baseline in σ before, at the peak and after, on one scale; the cross is the place, masked "
        "pixels are hatched. Below: light of all pixels of these images, the event's cadences shaded, masked ones "
        "marked by grey ticks; and light minus baseline in the pixels around the place, in electrons on one scale."
    )
    cubes = _open_entries(run, listed)
    matches = run.table("search/matches.parquet", "matches.parquet")
    cards = [_cube_card(row, cubes[int(n)], int(n), matches) for n, row in listed.head(N_CARDS).iterrows()]
    return [Paragraph(words), _cube_list(listed, cubes, matches), Paragraph(note, "note"), *cards]


def _open_entries(run: RunFolder, listed: pd.DataFrame) -> dict[int, CubeEntry | None]:
    """Entry of each listed candidate, opened once each; None if it is gone."""
    opened: dict[Path, CubeEntry] = {}
    entries: dict[int, CubeEntry | None] = {}
    for n, candidate in listed.iterrows():
        folder = run.entry_of(candidate)
        if folder is not None and folder.is_dir():
            entries[int(n)] = opened.setdefault(folder, opened.get(folder) or CubeEntry(folder))
        else:
            entries[int(n)] = None
    return entries


def relative_amplitude(candidate: pd.Series, cube: CubeEntry | None) -> str:
    """Amplitude in per cent of the star's light in a cadence, or of the light of all pixels."""
    if cube is None:
        return "–"
    stars = cube.amplifier.streaks.set_index("streak_id")["flux_e_row"]
    star = candidate["streak_id"]
    of_star = pd.notna(star) and int(star) in stars.index
    light = float(stars.loc[int(star)]) if of_star else float(median_light(cube.total_e))
    if not light > 0:
        return "–"
    return f"{number(100 * candidate['amplitude_e'] / light, '{:.3g}')} % of {'star' if of_star else 'all'}"


def _cube_list(listed: pd.DataFrame, cubes: dict[int, CubeEntry | None], matches: pd.DataFrame | None) -> Table:
    """Table of candidates; columns without any value are left out."""
    scales = {cube.amplifier.readout.time_scale for cube in cubes.values() if cube is not None}
    scale = scale_text(scales.pop()) if len(scales) == 1 else "archive's time"
    columns: Columns = {
        "#": lambda row: str(row.name),
        scale: lambda row: _archive_cell(row, cubes[row.name]),
        "UTC": lambda row: _utc_cell(row, cubes[row.name]),
        "x": ("x", "{:.1f}"),
        "y": ("y", "{:.0f}"),
        "duration": lambda row: duration_text(row["duration_s"]),
        "S/N": ("snr", "{:.1f}"),
        "amplitude": lambda row: relative_amplitude(row, cubes[row.name]),
        "star": ("streak_id", "{:.0f}"),
        "probability": ("probability", "{:.3f}"),
        "kind": lambda row: str(row["kind"]).replace("unclassified", "–"),
        "veto": lambda row: row["veto"] or "–",
        "injected event": lambda row: "–" if matches is None else describe_match(row, matches),
        "same cause": lambda row: row["group"].partition(": this, ")[2] or "–",
        "file": "file",
    }
    if listed["file"].nunique() == 1:
        del columns["file"]
    return tabulate(listed, columns, drop_empty=True)


def _utc_cell(candidate: pd.Series, cube: CubeEntry | None) -> str:
    """UTC of the peak, to the second if cadences are much longer."""
    utc = or_unknown(candidate["time_read_utc"])
    slow = cube is not None and 1 / cube.amplifier.readout.row_rate_hz >= _SLOW_S
    return "–" if utc == "unknown" else utc[:19] if slow else utc


def _archive_cell(candidate: pd.Series, cube: CubeEntry | None) -> str:
    time = candidate["time_archive"]
    return number(time, "{:.6f}") if cube is None else archive_text(time, cube.amplifier)


def _cube_card(candidate: pd.Series, cube: CubeEntry | None, n: int, matches: pd.DataFrame | None) -> Card:
    shown: Part
    if cube is None:
        shown = Paragraph("No picture: no entry of this cube in the store.", "left-out")
    elif pd.isna(candidate["y"]):
        shown = strip_picture(cube.amplifier, candidate)  # of a frame that was searched together with cubes
    else:
        shown = image_picture(cube, candidate)
    numbers = Definitions(_cube_numbers(candidate, cube, matches))
    return Card(f"{n}: {candidate['candidate_id']}", [shown, numbers])


def _cube_numbers(candidate: pd.Series, cube: CubeEntry | None, matches: pd.DataFrame | None) -> list[tuple[str, str]]:
    rows = [number(candidate[name], "{:.0f}") for name in ("row_start", "row_stop", "row_peak")]
    scale = "" if cube is None else scale_text(cube.amplifier.readout.time_scale)
    relative = relative_amplitude(candidate, cube)
    star = "none" if pd.isna(candidate["streak_id"]) else number(candidate["streak_id"], "{:.0f}")
    mag = "" if pd.isna(candidate["star_mag"]) else f" (mag {candidate['star_mag']:.2f})"
    kind = str(candidate["kind"])
    kind += "" if pd.isna(candidate["kind_probability"]) else f" ({number(candidate['kind_probability'], '{:.3f}')})"
    pairs = [
        ("Peak", f"{_archive_cell(candidate, cube)} {scale}".strip()),
        ("Peak (UTC)", or_unknown(candidate["time_read_utc"])),
        ("S/N", number(candidate["snr"], "{:.2f}")),
        ("Duration", duration_text(candidate["duration_s"])),
        ("Amplitude", f"{number(candidate['amplitude_e'], '{:,.0f}')} e⁻ per cadence ({relative})"),
        ("Cadences", f"{rows[0]}–{rows[1]}, peak {rows[2]}"),
        ("Place", f"x = {number(candidate['x'], '{:.2f}')}, y = {number(candidate['y'], '{:.0f}')}"),
        ("Star", f"{star}{mag}"),
        ("Probability of an event", number(candidate["probability"], "{:.4f}")),
        ("Kind", kind),
        ("Veto", describe_veto(candidate["veto"])),
        ("Injected event", "–" if matches is None else describe_match(candidate, matches)),
        ("File", str(candidate["file"])),
        ("Model", str(candidate["model"])),
        ("Group", candidate["group"]),
    ]
    return [(name, words) for name, words in pairs if words not in ("–", "unclassified")]


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


def _pixels_around(cube: CubeEntry, candidate: pd.Series, length: int) -> tuple[slice, slice]:
    """Rows and columns around a candidate, moved to lie inside the image."""
    place = round(float(candidate["y"])), round(float(candidate["x"]))
    y, x = (window(middle, length, size) for middle, size in zip(place, cube.shape, strict=True))
    return y, x


def _draw_images(cube: CubeEntry, candidate: pd.Series, drawing: SubFigure) -> str:
    y, x = round(float(candidate["y"])), float(candidate["x"])
    rows, columns = _pixels_around(cube, candidate, MAX_PIXELS)
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
    shown[_pixels_around(cube, candidate, MAX_PIXELS)] = True
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
    y, columns = _pixels_around(cube, candidate, 3)
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

"""The candidates of a report: a table of all that lead the list, and a card with pictures for each of the first.

`candidates_html` shows those of continuous readout as strips, `write_cube_candidates` those of image cubes as images.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

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
from shutterless.pipeline.plots.frames import plot_light_curve, plot_strip
from shutterless.pipeline.psf import pixel_profile
from shutterless.workflows.pages.page import definitions, figure, new_figure, number, paragraph, table
from shutterless.workflows.pages.run_folder import N_LISTED, RunFolder, best_of_groups, required
from shutterless.workflows.report.cube_sections import (
    MAX_PIXELS,
    CubeEntry,
    archive_text,
    duration_text,
    median_light,
    numbered_candidates,
    relative_light,
    scale_text,
    sum_light,
    window,
)

N_CARDS = 12
_N_COLUMNS = 16
_MARGIN_ROWS, _MARGIN_LENGTHS = 24, 3  # of a cube, shown on either side of an event, whichever is longer
_IMAGES_PER_EVENT = 8  # an image of a long event joins as many cadences as make this part of it
_MIN_LIMIT_SIGMA = 6.0
_SLOW_S = 10.0
_MAX_BINS = 384  # one bin is then at least two pixels of the picture wide


def candidates_html(run: RunFolder, found: pd.DataFrame) -> str:
    """Return the list and the cards of the candidates; of each group the best stands for all."""
    if found.empty:
        return paragraph("The search found no candidates.")
    matches = run.table("search/matches.parquet", "matches.parquet")
    best, n_in_group = best_of_groups(found)
    n_vetoed = int((found["veto"] != "").sum())
    words = (
        f"{len(found)} candidates in {len(best)} groups of one cause each, {n_vetoed} of them vetoed (listed last). "
        f"The table lists the first {min(N_LISTED, len(best))} groups by their best candidate, most probable first; "
        f"pictures follow of the first {min(N_CARDS, len(best))}. Rows and columns are in read order, counted from 0."
    )
    cards = "\n".join(
        _card(run, row, n, matches) for (_, row), n in zip(best.head(N_CARDS).iterrows(), n_in_group, strict=False)
    )
    pictures = (
        "In each picture, above: residual in σ, columns upward and time rightward, the event's rows between the dotted "
        "lines, masked pixels grey. Below: PSF-weighted light curve in σ on the same axis, the event's rows shaded."
    )
    return paragraph(words) + _list(best.head(N_LISTED), matches) + paragraph(pictures, "note") + cards


def describe_match(candidate: pd.Series, matches: pd.DataFrame | None) -> str:
    """Which injected event a candidate is, in words."""
    if matches is None:
        return "no truth known"
    hits = matches[matches["candidate_id"] == candidate["candidate_id"]].dropna(subset=["event_id"]).convert_dtypes()
    if hits.empty:
        return "none"
    hit = hits.iloc[0]
    return f"{hit['kind']}, event {hit['event_id']}, ρ = {number(hit['rho'], '{:.1f}')}"


def _place(candidate: pd.Series) -> str:
    parts = [f"ccd {number(candidate['ccd'], '{:.0f}')}", f"quadrant {number(candidate['quadrant'], '{:.0f}')}"]
    return ", ".join(parts) if pd.notna(candidate["ccd"]) or pd.notna(candidate["quadrant"]) else "image cube"


def _list(best: pd.DataFrame, matches: pd.DataFrame | None) -> str:
    header = [
        "id",
        "kind",
        "probability",
        "S/N",
        "file",
        "ccd / quadrant",
        "x",
        "peak row",
        "read (UTC)",
        "injected event",
    ]
    rows = [
        [
            str(row["candidate_id"]),
            str(row["kind"]) + (f" (vetoed: {row['veto']})" if row["veto"] else ""),
            number(row["probability"], "{:.3f}"),
            number(row["snr"], "{:.1f}"),
            str(row["file"]),
            f"{number(row['ccd'], '{:.0f}')} / {number(row['quadrant'], '{:.0f}')}",
            number(row["x"], "{:.1f}"),
            number(row["row_peak"], "{:.0f}"),
            _text(row["time_read_utc"]),
            describe_match(row, matches),
        ]
        for _, row in best.iterrows()
    ]
    return table(header, rows)


def _card(run: RunFolder, candidate: pd.Series, n_in_group: int, matches: pd.DataFrame | None) -> str:
    heading = f"Candidate {candidate['candidate_id']}: {candidate['kind']}"
    folder = run.entry_of(candidate)
    if folder is None or not folder.is_dir():
        where = "in the store" if folder is None else f"at {folder}"
        picture = paragraph(f"No picture: no entry of this amplifier {where}.", "left-out")
    else:
        picture = strip_picture(run.open_entry(folder), candidate)
    numbers = definitions(_numbers(candidate, n_in_group, matches))
    return f'<div class="card"><h3>{escape(heading)}</h3>{picture}{numbers}</div>'


def _numbers(candidate: pd.Series, n_in_group: int, matches: pd.DataFrame | None) -> list[tuple[str, str]]:
    rows = [number(candidate[name], "{:.0f}") for name in ("row_start", "row_stop", "row_peak")]
    earliest, latest = _text(candidate["time_event_min_utc"]), _text(candidate["time_event_max_utc"])
    probability = number(candidate["probability"], "{:.4f}")
    kind = f"{candidate['kind']} (probability {number(candidate['kind_probability'], '{:.3f}')})"
    streak = "none" if pd.isna(candidate["streak_id"]) else number(candidate["streak_id"], "{:.0f}")
    pairs = [
        ("Peak row read (UTC)", _text(candidate["time_read_utc"])),
        ("S/N", number(candidate["snr"], "{:.2f}")),
        ("Event (UTC), earliest", earliest),
        ("Probability of an event", probability),
        ("Event (UTC), latest", latest),
        ("Kind", kind),
        ("File", str(candidate["file"])),
        ("Amplifier", _place(candidate)),
        ("Column x", number(candidate["x"], "{:.2f}")),
        ("Rows", f"{rows[0]}–{rows[1]}, peak {rows[2]}"),
        ("Duration", f"{number(candidate['duration_s'])} s"),
        ("Amplitude", f"{number(candidate['amplitude_e'], '{:.0f}')} e⁻/row"),
        ("Streak", f"{streak} (mag {number(candidate['star_mag'], '{:.2f}')})"),
        ("Veto", candidate["veto"] or "none"),
        ("Injected event", describe_match(candidate, matches)),
        ("Model", str(candidate["model"])),
        ("Group", f"{n_in_group} candidate{'s' if n_in_group > 1 else ''}"),
    ]
    if _text(candidate["time_archive"]) != "unknown":
        pairs.append(("Archive time", _text(candidate["time_archive"])))
    return pairs


def _text(value: Any) -> str:
    return "unknown" if value is None or pd.isna(value) or value == "" else str(value)


def strip_picture(amplifier: Amplifier, candidate: pd.Series) -> str:
    """Return the strip and light curve of a candidate, one above the other on one time axis."""
    start, stop = window_rows(candidate, amplifier.n_rows)
    rows_per_bin = max(1, -(-(stop - start) // _MAX_BINS))
    stop = start + max(1, (stop - start) // rows_per_bin) * rows_per_bin
    strip, noise_e, first_column = cut_window(amplifier, candidate, start, stop)
    weight = pixel_profile(np.arange(len(strip)) + first_column - float(candidate["x"]), amplifier.psf_sigma_px)
    curve = matched_light_curve(strip, weight / noise_e)
    centre_rows = start + (np.arange(len(curve) // rows_per_bin) + 0.5) * rows_per_bin - 0.5
    zero_s = float(amplifier.readout.seconds(candidate["row_peak"]))
    marked_rows = (float(candidate["row_start"]), float(candidate["row_stop"]))
    edges_s = amplifier.readout.seconds(np.array([marked_rows[0] - 0.5, marked_rows[1] + 0.5])) - zero_s
    drawing = new_figure(9, 4.2)
    above, below = drawing.subplots(2, 1, height_ratios=(3, 2))
    plot_strip(
        bin_time(strip, rows_per_bin),
        above,
        first_row=start,
        first_column=first_column,
        rows_per_bin=rows_per_bin,
        marked_rows=marked_rows,
    )
    seconds = amplifier.readout.seconds(centre_rows) - zero_s
    plot_light_curve(seconds, bin_time(curve, rows_per_bin), below, marked_s=(edges_s[0], edges_s[1]))
    below.set_xlim(*(amplifier.readout.seconds(np.array([start - 0.5, stop - 0.5])) - zero_s))
    below.set_xlabel("Time after the read of the peak row (s)")
    caption = f"Each bin joins {rows_per_bin} rows." if rows_per_bin > 1 else "Each bin is one row."
    return figure(drawing, caption, alt=f"Strip and light curve of candidate {candidate['candidate_id']}", image=True)


def window_rows(candidate: pd.Series, n_rows: int) -> tuple[int, int]:
    """Half-open range of rows shown: the event and twice its length, at least 96 rows, on either side."""
    first, last = int(candidate["row_start"]), int(candidate["row_stop"])
    margin = max(96, 2 * (last - first + 1))
    return max(0, first - margin), min(n_rows, last + 1 + margin)


def cut_window(amplifier: Amplifier, candidate: pd.Series, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Residual (x, t) and noise (x,) of the columns around a candidate, and the first of them."""
    n_columns = amplifier.residual.shape[1]
    y = 0 if pd.isna(candidate["y"]) else int(candidate["y"])
    first = int(np.clip(round(float(candidate["x"])) - _N_COLUMNS // 2, 0, max(0, n_columns - _N_COLUMNS)))
    last = min(n_columns, first + _N_COLUMNS)
    n_blocks = amplifier.sigma_e.shape[2]
    block = min(int(candidate["row_peak"]) * n_blocks // amplifier.n_rows, n_blocks - 1)
    strip = np.asarray(amplifier.residual[y, first:last, start:stop], dtype=np.float32)
    return strip, np.asarray(amplifier.sigma_e[y, first:last, block], dtype=np.float64), first


def matched_light_curve(residual: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Matched filter across columns, in units of its own noise.

    Parameters
    ----------
    residual : ndarray, shape (x, t)
        In units of σ; NaN where masked.
    signal : ndarray, shape (x,)
        What a source adds to each column, in units of that column's σ, to any scale.

    Returns
    -------
    ndarray, shape (t,)
        ``Σ r s / √Σ s²`` over the valid columns: unit variance without a source; NaN where no column is valid.
    """
    signal = np.nan_to_num(signal)[:, None]
    valid = np.isfinite(residual)
    weight = np.sqrt((valid * signal**2).sum(axis=0))
    total = (np.where(valid, residual, 0.0) * signal).sum(axis=0)
    return np.divide(total, weight, out=np.full(weight.shape, np.nan), where=weight > 0)


def bin_time(values: np.ndarray, rows_per_bin: int) -> np.ndarray:
    """Join rows along the last axis so that unit noise stays unit noise: sum of the valid values / √(their number)."""
    if rows_per_bin == 1:
        return values
    n_bins = values.shape[-1] // rows_per_bin
    cut = values[..., : n_bins * rows_per_bin].reshape(*values.shape[:-1], n_bins, rows_per_bin)
    valid = np.isfinite(cut)
    count = valid.sum(axis=-1)
    total = np.where(valid, cut, 0.0).sum(axis=-1)
    return np.divide(total, np.sqrt(count), out=np.full(total.shape, np.nan), where=count > 0)


def write_cube_candidates(run: RunFolder) -> str:
    """List and picture the candidates of image cubes."""
    found = required(run.candidates, "search/candidates.parquet or candidates.parquet")
    if found.empty:
        return paragraph("The search found no candidates.")
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
    return paragraph(words) + _cube_list(listed, cubes, matches) + paragraph(note, "note") + "\n".join(cards)


def _open_entries(run: RunFolder, listed: pd.DataFrame) -> dict[int, CubeEntry | None]:
    """Entry of each listed candidate, each opened once; None where it is gone."""
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
    """Amplitude in per cent of the star's light in a cadence, or of that of all pixels."""
    if cube is None:
        return "–"
    stars = cube.amplifier.streaks.set_index("streak_id")["flux_e_row"]
    star = candidate["streak_id"]
    of_star = pd.notna(star) and int(star) in stars.index
    light = float(stars.loc[int(star)]) if of_star else float(median_light(cube.total_e))
    if not light > 0:
        return "–"
    return f"{number(100 * candidate['amplitude_e'] / light, '{:.3g}')} % of {'star' if of_star else 'all'}"


def _cube_list(listed: pd.DataFrame, cubes: dict[int, CubeEntry | None], matches: pd.DataFrame | None) -> str:
    """Table of candidates; columns that say nothing of any of them are left out."""
    scales = {cube.amplifier.readout.time_scale for cube in cubes.values() if cube is not None}
    scale = scale_text(scales.pop()) if len(scales) == 1 else "archive's time"
    columns: dict[str, Callable[[int, pd.Series], str]] = {
        "#": lambda n, row: str(n),
        scale: lambda n, row: _archive_cell(row, cubes[n]),
        "UTC": lambda n, row: _utc_cell(row, cubes[n]),
        "x": lambda n, row: number(row["x"], "{:.1f}"),
        "y": lambda n, row: number(row["y"], "{:.0f}"),
        "duration": lambda n, row: duration_text(row["duration_s"]),
        "S/N": lambda n, row: number(row["snr"], "{:.1f}"),
        "amplitude": lambda n, row: relative_amplitude(row, cubes[n]),
        "star": lambda n, row: number(row["streak_id"], "{:.0f}"),
        "probability": lambda n, row: number(row["probability"], "{:.3f}"),
        "kind": lambda n, row: str(row["kind"]).replace("unclassified", "–"),
        "veto": lambda n, row: row["veto"] or "–",
        "injected event": lambda n, row: "–" if matches is None else describe_match(row, matches),
        "file": lambda n, row: str(row["file"]),
    }
    cells = {name: [write(int(n), row) for n, row in listed.iterrows()] for name, write in columns.items()}
    if listed["file"].nunique() == 1:
        del cells["file"]
    kept = [name for name, column in cells.items() if set(column) != {"–"}]
    return table(kept, zip(*(cells[name] for name in kept), strict=True))


def _utc_cell(candidate: pd.Series, cube: CubeEntry | None) -> str:
    """UTC of the peak, to the second where cadences are much longer."""
    utc = _text(candidate["time_read_utc"])
    slow = cube is not None and 1 / cube.amplifier.readout.row_rate_hz >= _SLOW_S
    return "–" if utc == "unknown" else utc[:19] if slow else utc


def _archive_cell(candidate: pd.Series, cube: CubeEntry | None) -> str:
    time = candidate["time_archive"]
    return number(time, "{:.6f}") if cube is None else archive_text(time, cube.amplifier)


def _cube_card(candidate: pd.Series, cube: CubeEntry | None, n: int, matches: pd.DataFrame | None) -> str:
    heading = f"<h3>{n}: {escape(str(candidate['candidate_id']))}</h3>"
    if cube is None:
        picture = paragraph("No picture: no entry of this cube in the store.", "left-out")
    elif pd.isna(candidate["y"]):
        picture = strip_picture(cube.amplifier, candidate)  # of a frame that was searched together with cubes
    else:
        picture = image_picture(cube, candidate)
    return f'<div class="card">{heading}{picture}{definitions(_cube_numbers(candidate, cube, matches))}</div>'


def _cube_numbers(candidate: pd.Series, cube: CubeEntry | None, matches: pd.DataFrame | None) -> list[tuple[str, str]]:
    rows = [number(candidate[name], "{:.0f}") for name in ("row_start", "row_stop", "row_peak")]
    scale = "" if cube is None else scale_text(cube.amplifier.readout.time_scale)
    relative = relative_amplitude(candidate, cube)
    star = "none" if pd.isna(candidate["streak_id"]) else number(candidate["streak_id"], "{:.0f}")
    mag = "" if pd.isna(candidate["star_mag"]) else f" (mag {candidate['star_mag']:.2f})"
    kind = str(candidate["kind"])
    kind += "" if pd.isna(candidate["kind_probability"]) else f" ({number(candidate['kind_probability'], '{:.3f}')})"
    n_in_group = int(candidate["n_in_group"])
    pairs = [
        ("Peak", f"{_archive_cell(candidate, cube)} {scale}".strip()),
        ("Peak (UTC)", _text(candidate["time_read_utc"])),
        ("S/N", number(candidate["snr"], "{:.2f}")),
        ("Duration", duration_text(candidate["duration_s"])),
        ("Amplitude", f"{number(candidate['amplitude_e'], '{:,.0f}')} e⁻ per cadence ({relative})"),
        ("Cadences", f"{rows[0]}–{rows[1]}, peak {rows[2]}"),
        ("Place", f"x = {number(candidate['x'], '{:.2f}')}, y = {number(candidate['y'], '{:.0f}')}"),
        ("Star", f"{star}{mag}"),
        ("Probability of an event", number(candidate["probability"], "{:.4f}")),
        ("Kind", kind),
        ("Veto", candidate["veto"] or "none"),
        ("Injected event", "–" if matches is None else describe_match(candidate, matches)),
        ("File", str(candidate["file"])),
        ("Model", str(candidate["model"])),
        ("Group", f"{n_in_group} candidate{'s' if n_in_group > 1 else ''}"),
    ]
    return [(name, words) for name, words in pairs if words not in ("–", "unclassified")]


def image_picture(cube: CubeEntry, candidate: pd.Series) -> str:
    """Three images and the light around an event."""
    drawing = new_figure(9.6, 6.4)
    grid = drawing.add_gridspec(2, 2, height_ratios=(1, 1.25), width_ratios=(1.35, 1))
    shown = _draw_images(cube, candidate, drawing.add_subfigure(grid[0, :]))
    _draw_event_light(cube, candidate, drawing.add_subfigure(grid[1, 0]))
    _draw_neighbours(cube, candidate, drawing.add_subfigure(grid[1, 1]))
    return figure(drawing, shown, alt=f"Images and light of candidate {candidate['candidate_id']}", image=True)


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
        ``before``, ``peak`` and ``after``: an eighth of the event's cadences, at least one; fewer, or none, where no
        more are live.
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
    """Rows and columns around a candidate, moved to lie inside."""
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
    """Residual of several cadences together in units of its σ, shape (y, x)."""
    residual = np.asarray(amplifier.residual[y, columns][..., cadences], dtype=np.float32)
    return bin_time(residual, len(cadences)).reshape(residual.shape[:2])


def _colour_limit(peak: np.ndarray, y: int, x: int) -> float:
    """The largest residual at the place of an event, so that its colours are not lost and its neighbours compare."""
    near = peak[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    live = np.abs(near[np.isfinite(near)])
    return max(_MIN_LIMIT_SIGMA, float(live.max())) if live.size else _MIN_LIMIT_SIGMA


def _title(title: str, cadences: np.ndarray, candidate: pd.Series, amplifier: Amplifier) -> str:
    """Which cadences an image is of, and how long before or after the peak their middle is."""
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

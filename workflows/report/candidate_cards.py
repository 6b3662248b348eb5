"""Report the candidates of continuous readout: a table of the first, and cards with a strip for the leading ones.

Candidates in image cubes have other cards, see `shutterless.workflows.report.cube_cards`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.detection.vetoes import describe_veto
from shutterless.pipeline.plots.frames import plot_light_curve, plot_strip
from shutterless.pipeline.psf import pixel_profile
from shutterless.workflows.pages.drawings import new_figure, picture, window
from shutterless.workflows.pages.formats import Columns, number, tabulate
from shutterless.workflows.pages.parts import Card, Definitions, Paragraph, Part, Picture, Table
from shutterless.workflows.pages.run_folder import N_LISTED, RunFolder, describe_group, in_groups, required

N_CARDS = 12
_N_COLUMNS = 16
_MAX_BINS = 384  # so that one bin is at least two pixels of the picture wide


def write_frame_candidates(run: RunFolder) -> list[Part]:
    """List and draw the candidates of continuous readout."""
    found = required(run.candidates, "search/candidates.parquet or candidates.parquet")
    if found.empty:
        return [Paragraph("The search found no candidates.")]
    matches = run.table("search/matches.parquet", "matches.parquet")
    listed = in_groups(found)
    n_groups = int(listed["leads"].sum())
    listed = listed[listed["leads"].cumsum() <= N_LISTED]
    n_vetoed = int((found["veto"] != "").sum())
    words = (
        f"{len(found)} candidates in {n_groups} groups of one cause each, {n_vetoed} of them vetoed (listed last). "
        f"The table lists the first {min(N_LISTED, n_groups)} groups, most probable first, and under the best of each "
        f"group its other members; pictures follow of the best of the first {min(N_CARDS, n_groups)}. Rows and columns "
        "are in read order, counted from 0."
    )
    note = (
        "In each picture, above: residual in σ, columns upward and time rightward, the event's rows between the dotted "
        "lines, masked pixels grey. Below: PSF-weighted light curve in σ on the same axis, the event's rows shaded."
    )
    cards = [
        _card(run, candidate, listed, matches) for _, candidate in listed[listed["leads"]].head(N_CARDS).iterrows()
    ]
    return [Paragraph(words), _list(listed, matches), Paragraph(note, "note"), *cards]


def describe_match(candidate: pd.Series, matches: pd.DataFrame | None) -> str:
    """Name the injected event of a candidate in words."""
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


def _list(listed: pd.DataFrame, matches: pd.DataFrame | None) -> Table:
    columns: Columns = {
        "id": lambda row: f"{'' if row['leads'] else '↳ '}{row['candidate_id']}",
        "kind": lambda row: str(row["kind"]) + (f" (vetoed: {row['veto']})" if row["veto"] else ""),
        "probability": ("probability", "{:.3f}"),
        "S/N": ("snr", "{:.1f}"),
        "false alarms/h": lambda row: number(row.get("false_alarm_rate"), "{:.2g}"),
        "file": "file",
        "ccd / quadrant": lambda row: f"{number(row['ccd'], '{:.0f}')} / {number(row['quadrant'], '{:.0f}')}",
        "x": ("x", "{:.1f}"),
        "peak row": ("row_peak", "{:.0f}"),
        "read (UTC)": lambda row: or_unknown(row["time_read_utc"]),
        "injected event": lambda row: describe_match(row, matches),
    }
    return tabulate(listed, columns)


def _card(run: RunFolder, candidate: pd.Series, candidates: pd.DataFrame, matches: pd.DataFrame | None) -> Card:
    folder = run.entry_of(candidate)
    shown: Part
    if folder is None or not folder.is_dir():
        where = "in the store" if folder is None else f"at {folder}"
        shown = Paragraph(f"No picture: no entry of this amplifier {where}.", "left-out")
    else:
        shown = strip_picture(run.open_entry(folder), candidate)
    heading = f"Candidate {candidate['candidate_id']}: {candidate['kind']}"
    return Card(heading, [shown, Definitions(_numbers(candidate, candidates, matches))])


def _numbers(candidate: pd.Series, candidates: pd.DataFrame, matches: pd.DataFrame | None) -> list[tuple[str, str]]:
    rows = [number(candidate[name], "{:.0f}") for name in ("row_start", "row_stop", "row_peak")]
    earliest, latest = or_unknown(candidate["time_event_min_utc"]), or_unknown(candidate["time_event_max_utc"])
    probability = number(candidate["probability"], "{:.4f}")
    kind = f"{candidate['kind']} (probability {number(candidate['kind_probability'], '{:.3f}')})"
    streak = "none" if pd.isna(candidate["streak_id"]) else number(candidate["streak_id"], "{:.0f}")
    if pd.notna(candidate.get("star_name")):  # absent in tables of older versions
        streak += f", {candidate['star_name']}"
    pairs = [
        ("Peak row read (UTC)", or_unknown(candidate["time_read_utc"])),
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
        ("Veto", describe_veto(candidate["veto"])),
        ("Injected event", describe_match(candidate, matches)),
        ("False alarms as high, per hour", number(candidate.get("false_alarm_rate"), "{:.2g}")),
        ("Model", str(candidate["model"])),
        ("Group", describe_group(candidate, candidates)),
    ]
    if or_unknown(candidate["time_archive"]) != "unknown":
        pairs.append(("Archive time", or_unknown(candidate["time_archive"])))
    return pairs


def or_unknown(value: Any) -> str:
    """Text of a value that may be missing."""
    return "unknown" if value is None or pd.isna(value) or value == "" else str(value)


def strip_picture(amplifier: Amplifier, candidate: pd.Series) -> Picture:
    """Draw the strip and light curve of a candidate above each other on one time axis."""
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
    return picture(drawing, caption, alt=f"Strip and light curve of candidate {candidate['candidate_id']}", image=True)


def window_rows(candidate: pd.Series, n_rows: int) -> tuple[int, int]:
    """Half-open range of drawn rows: the event and twice its length, at least 96 rows, on either side."""
    first, last = int(candidate["row_start"]), int(candidate["row_stop"])
    margin = max(96, 2 * (last - first + 1))
    return max(0, first - margin), min(n_rows, last + 1 + margin)


def cut_window(amplifier: Amplifier, candidate: pd.Series, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Residual (x, t) and noise (x,) of the columns around a candidate, and the first of these columns."""
    n_columns = amplifier.residual.shape[1]
    y = 0 if pd.isna(candidate["y"]) else int(candidate["y"])
    columns = window(round(float(candidate["x"])), _N_COLUMNS, n_columns)
    n_blocks = amplifier.sigma_e.shape[2]
    block = min(int(candidate["row_peak"]) * n_blocks // amplifier.n_rows, n_blocks - 1)
    strip = np.asarray(amplifier.residual[y, columns, start:stop], dtype=np.float32)
    return strip, np.asarray(amplifier.sigma_e[y, columns, block], dtype=np.float64), columns.start


def matched_light_curve(residual: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Matched filter across columns, in units of its own noise.

    Parameters
    ----------
    residual : ndarray, shape (x, t)
        In units of σ; NaN where masked.
    signal : ndarray, shape (x,)
        Signal of a source in each column, in units of that column's σ, with any scale.

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
    """Bin the last axis so that unit noise stays unit noise: sum of the valid values / √(their number)."""
    if rows_per_bin == 1:
        return values
    n_bins = values.shape[-1] // rows_per_bin
    cut = values[..., : n_bins * rows_per_bin].reshape(*values.shape[:-1], n_bins, rows_per_bin)
    valid = np.isfinite(cut)
    count = valid.sum(axis=-1)
    total = np.where(valid, cut, 0.0).sum(axis=-1)
    return np.divide(total, np.sqrt(count), out=np.full(total.shape, np.nan), where=count > 0)

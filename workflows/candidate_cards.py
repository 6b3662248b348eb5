"""The candidates of a report: a table of all that lead the list, and a card with pictures for each of the first."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.plots import plot_light_curve, plot_strip
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.store import Amplifier
from shutterless.workflows.page import definitions, figure, new_figure, number, paragraph, table
from shutterless.workflows.run_folder import RunFolder

N_CARDS = 12
N_LISTED = 50
_N_COLUMNS = 16
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


def best_of_groups(candidates: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """First candidate of each group, in the order given, and how many candidates each group has."""
    groups = candidates["group_id"].astype(object).where(candidates["group_id"].notna(), candidates["candidate_id"])
    sizes = groups.map(groups.value_counts())
    first = ~groups.duplicated()
    return candidates[first].reset_index(drop=True), sizes[first].astype(int).tolist()


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
        picture = _picture(run.open_entry(folder), candidate)
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


def _picture(amplifier: Amplifier, candidate: pd.Series) -> str:
    """Strip and light curve of a candidate, one above the other on one time axis."""
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


def amplifier_shown(run: RunFolder) -> Path | None:
    """Entry of the first candidate's amplifier, or else the first entry of the store."""
    if run.candidates is not None and len(run.candidates):
        folder = run.entry_of(run.candidates.iloc[0])
        if folder is not None and folder.is_dir():
            return folder
    if run.manifest is None or run.manifest.empty:
        return None
    return Path(run.manifest["folder"].iloc[0])

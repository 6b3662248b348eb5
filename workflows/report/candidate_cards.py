"""Picture a candidate of continuous readout: its strip and its light curve.

Candidates in image cubes have other cards, see `shutterless.workflows.report.cube_cards`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.plots.frames import plot_light_curve, plot_strip
from shutterless.pipeline.psf import pixel_profile
from shutterless.workflows.pages.drawings import new_figure, picture, window
from shutterless.workflows.pages.formats import number
from shutterless.workflows.pages.parts import Paragraph, Part, Picture
from shutterless.workflows.pages.run_folder import RunFolder

_N_COLUMNS = 16
_MAX_BINS = 384  # so that one bin is at least two pixels of the picture wide


def describe_match(candidate: pd.Series, matches: pd.DataFrame, *, brief: bool = False) -> str:
    """Name the injected event of a candidate in words; if brief, without the name of the event."""
    hits = matches[matches["candidate_id"] == candidate["candidate_id"]].dropna(subset=["event_id"]).convert_dtypes()
    if hits.empty:
        return "none"
    hit = hits.iloc[0]
    name = "" if brief else f" event {hit['event_id']},"
    return f"{hit['kind']},{name} ρ = {number(hit['rho'], '{:.1f}')}"


def frame_numbers(candidate: pd.Series) -> list[tuple[str, str]]:
    """Numbers of a candidate in continuous readout."""
    rows = [number(candidate[name], "{:.0f}") for name in ("row_start", "row_stop", "row_peak")]
    amplifier = f"CCD {number(candidate['ccd'], '{:.0f}')}, quadrant {number(candidate['quadrant'], '{:.0f}')}"
    return [
        ("Event, earliest", or_unknown(candidate["time_event_min_utc"])),
        ("Event, latest", or_unknown(candidate["time_event_max_utc"])),
        ("Duration", f"{number(candidate['duration_s'])} s"),
        ("Amplitude", f"{number(candidate['amplitude_e'], '{:.0f}')} e⁻/row"),
        ("Amplifier", amplifier),
        ("Column x", number(candidate["x"], "{:.2f}")),
        ("Rows", f"{rows[0]}–{rows[1]}, peak {rows[2]}"),
        ("Streak", number(candidate["streak_id"], "{:.0f}")),
    ]


def frame_picture(run: RunFolder, candidate: pd.Series) -> Part:
    """Picture of a candidate in continuous readout, or the reason why there is none."""
    folder = run.entry_of(candidate)
    if folder is None or not folder.is_dir():
        where = "in the store" if folder is None else f"at {folder}"
        return Paragraph(f"No picture: no entry of this amplifier {where}.", "left-out")
    return strip_picture(run.open_entry(folder), candidate)


def or_unknown(value: Any) -> str:
    """Text of a value that may be missing."""
    return "unknown" if value is None or pd.isna(value) or value == "" else str(value)


def strip_picture(amplifier: Amplifier, candidate: pd.Series) -> Picture:
    """Draw the strip and light curve of a candidate above each other on one time axis."""
    start, stop = window_rows(candidate, amplifier.n_rows)
    rows_per_bin = max(1, -(-(stop - start) // _MAX_BINS))
    stop = start + max(1, (stop - start) // rows_per_bin) * rows_per_bin
    strip, noise_e, first_column = cut_window(amplifier, candidate, start, stop)
    curve = matched_light_curve(strip, profile_of(amplifier, candidate, first_column, len(strip)) / noise_e)
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


def profile_of(amplifier: Amplifier, candidate: pd.Series, first_column: int, n_columns: int) -> np.ndarray:
    """Share of a candidate's light on each of some columns, shape (x,)."""
    return pixel_profile(np.arange(n_columns) + first_column - float(candidate["x"]), amplifier.psf_sigma_px)


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
    light, error = fit_light(residual, signal)
    return light / error


def fit_light(residual: np.ndarray, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light of a source in units of ``signal``, fitted to the columns of each row, and its error.

    Parameters are those of `matched_light_curve`.

    Returns
    -------
    light, error : ndarray, shape (t,)
        ``Σ r s / Σ s²`` and ``1 / √Σ s²`` over the valid columns; NaN where no column is valid.
    """
    signal = np.nan_to_num(signal)[:, None]
    valid = np.isfinite(residual)
    weight = (valid * signal**2).sum(axis=0)
    error = np.divide(1.0, np.sqrt(weight), out=np.full(weight.shape, np.nan), where=weight > 0)
    return (np.where(valid, residual, 0.0) * signal).sum(axis=0) * error**2, error


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

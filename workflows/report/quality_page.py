"""Write the quality page of a store: a table of all its amplifiers, and drawings of each one or of the worst.

``shutterless report STORE`` writes it to ``STORE/report.html``. All numbers were recorded by the ingest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import poisson

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.quality import (
    SPECTRUM_ROWS,
    TAIL_SIGMA,
    masked_fractions,
    noise_over_time,
    pickup_peaks,
    pickup_spectrum,
)
from shutterless.pipeline.plots.frames import (
    plot_column_noise,
    plot_frame,
    plot_masked,
    plot_noise_over_time,
    plot_pickup,
)
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.instruments import ProfileError, load_profile
from shutterless.pipeline.store.quality_record import SKY_SHARE, AmplifierQuality, read_quality
from shutterless.pipeline.store.store import open_amplifier
from shutterless.workflows.pages.drawings import new_figure, picture, window
from shutterless.workflows.pages.formats import number
from shutterless.workflows.pages.parts import Card, Folded, Paragraph, Part, Picture, Section, Table
from shutterless.workflows.pages.run_folder import manifest_with

NOISE_OFF, MAX_CORRELATION, MAX_MASKED = 0.02, 0.03, 0.05
TAIL_FACTOR, MIN_COUNT, CHANCE = 1.5, 10.0, 1e-3
MAX_AMPLIFIER_SECTIONS = 16
_PIECE_ROWS, _PIECE_COLUMNS = 200, 400
_ONLY = slice(0, 1)  # the one row of a stack in continuous readout
_STREAK_REACH = 4  # columns on either side
_STREAK_NOISE_OFF = 0.05  # tolerance for columns of faint stars
_SKY, _FAINT = "sky", "other stars"
_MAGNITUDES = range(8, 16)
_OLD = "the entry was written by an older version; ingest its file again"
_CALM = "nothing is out of the ordinary"
_TAIL_WORDS = {"below": 0, "above": 1}


def quality_sections(store: Path, entries: Sequence[str] = ()) -> list[Section]:
    """Write the sections of a store's quality page.

    Parameters
    ----------
    store : Path
    entries : sequence of str
        Amplifiers to draw; when left out, all or the `MAX_AMPLIFIER_SECTIONS` that stand out most.

    Raises
    ------
    StoreError
        If there is no finished store, or it has no such entry.
    """
    qualities = [read_quality(store, entry) for entry in manifest_with(store, entries)["entry"]]
    if not qualities:
        empty = Paragraph("The store is empty: no amplifier was ingested.", "left-out")
        return [Section("amplifiers", "Amplifiers", [empty])]
    shown, words = _choose(qualities, entries, store)
    summary = [*summarise_amplifiers(qualities, [q.entry for q in shown]), Paragraph(words)]
    return [Section("amplifiers", "Amplifiers", summary), picture_amplifiers(store, shown)]


def picture_amplifiers(store: Path, shown: Iterable[AmplifierQuality]) -> Section:
    """Section with a card for each of some amplifiers, to which the table links."""
    cards = [Card(_heading(q), describe_amplifier(store, q), f"entry-{q.entry}", wide=True) for q in shown]
    return Section("pictures", "Pictures", cards)


def _choose(
    qualities: list[AmplifierQuality], entries: Sequence[str], store: Path
) -> tuple[list[AmplifierQuality], str]:
    """Amplifiers to draw, and a sentence about the choice."""
    if entries:
        return [q for q in qualities if q.entry in entries], f"Pictures follow of {', '.join(entries)}, as asked."
    if len(qualities) <= MAX_AMPLIFIER_SECTIONS:
        return qualities, "Pictures of each follow."
    worst = sorted(qualities, key=lambda q: (-len(find_unusual(q)), -abs(np.nan_to_num(q.sky_noise, nan=9.0) - 1)))
    words = (
        f"Pictures follow of the {MAX_AMPLIFIER_SECTIONS} of {len(qualities)} amplifiers that stand out most, those "
        f"with most marks first; `shutterless report {store.name} --entry ENTRY` shows any other."
    )
    return worst[:MAX_AMPLIFIER_SECTIONS], words


def find_unusual(quality: AmplifierQuality) -> dict[str, str]:
    """Unusual numbers of an amplifier: column of the table, and a sentence with the number."""
    numbers, unusual = quality.numbers, {}
    if abs(quality.sky_noise - 1) > NOISE_OFF:
        unusual["sky_noise"] = f"the noise of sky columns is {quality.sky_noise:.3f} of theory"
    for axis in ("row", "column"):
        correlation = numbers.get(f"{axis}_correlation", np.nan)
        if abs(correlation) > MAX_CORRELATION:
            unusual[f"{axis}_correlation"] = f"neighbouring {axis}s are correlated by {number(correlation, '{:.3f}')}"
    if numbers.get("masked_fraction", np.nan) > MAX_MASKED:
        unusual["masked_fraction"] = f"{100 * numbers['masked_fraction']:.1f} % of the pixels are masked"
    found, expected = quality.sky_tails, quality.expected_tails
    for side, i in _TAIL_WORDS.items():
        if _tail_is_unusual(found[i], expected[i]):
            unusual[side] = (
                f"{found[i]:.0f} isolated sky pixels are {side} {TAIL_SIGMA:g} σ where noise has {expected[i]:.1f}"
            )
    return unusual


def _tail_is_unusual(found: float, expected: float) -> bool:
    """Whether a count differs from its expectation by `TAIL_FACTOR` and by more than chance."""
    if not max(found, expected) > MIN_COUNT or 1 / TAIL_FACTOR <= found / expected <= TAIL_FACTOR:
        return False
    return bool(min(poisson.cdf(found, expected), poisson.sf(found - 1, expected)) < CHANCE)


@dataclass(frozen=True)
class _Column:
    """A column of the table: its name, its heading, and the format of its cells."""

    name: str
    heading: str
    write: Callable[[AmplifierQuality], str]


def _noted(name: str, heading: str, pattern: str, factor: float = 1.0) -> _Column:
    return _Column(name, heading, lambda q: number(factor * q.numbers.get(name, np.nan), pattern))


def _tail(side: str) -> _Column:
    def write(quality: AmplifierQuality) -> str:
        found, expected = (part[_TAIL_WORDS[side]] for part in (quality.sky_tails, quality.expected_tails))
        return "–" if np.isnan(found) else f"{found:.0f} / {expected:.1f}"

    return _Column(side, f"{side} {TAIL_SIGMA:g}\u00a0σ", write)


def serial_trap_strength(quality: AmplifierQuality) -> str:
    """Measured serial trap as a fraction of the instrument profile's, or in electrons if that is unknown."""
    capacity_e = quality.numbers.get("serial_trap_capacity_e", np.nan)
    try:
        serial_trap = load_profile(str(quality.numbers.get("instrument"))).serial_trap
    except ProfileError:
        serial_trap = None
    if serial_trap is not None:
        return number(capacity_e / serial_trap.capacity_e, "{:.2f}")
    return number(capacity_e, "{:.0f} e⁻") if capacity_e else "0"


def _streaks(quality: AmplifierQuality) -> str:
    counts = [quality.numbers.get(name, np.nan) for name in ("n_streaks", "n_moving_streaks")]
    return " / ".join(number(count, "{:.0f}") for count in counts)


_COLUMNS = (
    _Column("entry", "entry", lambda q: q.entry),
    _Column("place", "CCD / q", lambda q: f"{number(q.readout.ccd, '{:d}')} / {number(q.readout.quadrant, '{:d}')}"),
    _Column("rows", "rows", lambda q: f"{q.n_rows:,}"),
    _Column("live_hours", "live (h)", lambda q: number(q.live_hours, "{:.4f}")),
    _noted("masked_fraction", "masked (%)", "{:.1f}", 100.0),
    _noted("bad_columns", "bad col.", "{:.0f}"),
    _Column("sky_noise", "noise, sky", lambda q: number(q.sky_noise, "{:.3f}")),
    _noted("noise", "noise, all", "{:.3f}"),
    _noted("row_correlation", "row corr.", "{:.3f}"),
    _noted("column_correlation", "col. corr.", "{:.3f}"),
    _tail("above"),
    _tail("below"),
    _Column("streaks", "streaks / moving", _streaks),
    _Column("serial_trap", "serial trap", serial_trap_strength),
)


def summarise_amplifiers(qualities: Iterable[AmplifierQuality], pictured: Sequence[str] = ()) -> list[Part]:
    """Table of amplifiers with unusual numbers marked, and a note that explains the marks.

    Parameters
    ----------
    qualities : iterable of AmplifierQuality
    pictured : sequence of str
        Entries with a card on the page, to which their rows link.
    """
    qualities = list(qualities)
    rows = [[column.write(quality) for column in _COLUMNS] for quality in qualities]
    unusual = [find_unusual(quality) for quality in qualities]
    names = [column.name for column in _COLUMNS]
    marked = {(i, names.index(name)) for i, found in enumerate(unusual) for name in found}
    n_hours = sum(quality.live_hours for quality in qualities)
    n_unusual = sum(1 for found in unusual if found)
    words = (
        f"{len(qualities)} amplifiers, {number(n_hours, '{:.4g}')} amplifier-hours live; "
        f"{f'something is out of the ordinary in {n_unusual} of them' if n_unusual else _CALM}."
    )
    links = {(i, 0): f"#entry-{q.entry}" for i, q in enumerate(qualities) if q.entry in pictured}
    table = Table([c.heading for c in _COLUMNS], rows, marked, links, sortable=True, hint=_HINT)
    return [Paragraph(words), table, Folded("What the columns mean, and what is marked", [Paragraph(_NOTE, "note")])]


_HINT = "Filter: words, sky > 1.02, rows < 5000"
_NOTE = (
    "Noise is the standard deviation over what photons, read noise and digitisation make, of pixels within "
    f"{TAIL_SIGMA:g} σ; sky columns are those whose level is within {100 * SKY_SHARE:g} % of the sky's. Correlations "
    "(corr.) are those of successive rows and of neighbouring columns, medians over the columns. Bad columns are "
    "those masked because they vary alone. Tails count sky pixels "
    "with nothing beside them (rays, trails and events have company) / how many Poisson and read noise "
    "predict among as many. Moving streaks are those from which image motion or focus was taken off. The serial trap "
    "is given as measured, as a fraction of the instrument profile's. "
    f"Marked: noise of the sky outside 1.00 ± {NOISE_OFF:.2f}; correlation beyond ± {MAX_CORRELATION:.2f}; more than "
    f"{100 * MAX_MASKED:g} % masked; tails off by more than a factor of {TAIL_FACTOR:g} where more than "
    f"{MIN_COUNT:g} are found or expected, unless chance does so once in {1 / CHANCE:,.0f} times or oftener."
)


def _heading(quality: AmplifierQuality) -> str:
    place = [f"CCD {quality.readout.ccd}"] if quality.readout.ccd is not None else []
    place += [f"quadrant {quality.readout.quadrant}"] if quality.readout.quadrant is not None else []
    return ", ".join([str(quality.numbers.get("file", quality.entry)), *place])


def describe_amplifier(store: Path, quality: AmplifierQuality) -> list[Part]:
    """Text and drawings of one amplifier."""
    amplifier = open_amplifier(store, quality.entry)
    unusual = find_unusual(quality)
    verdict = f"Out of the ordinary: {'; '.join(unusual.values())}." if unusual else f"{_CALM.capitalize()}."
    return [
        Paragraph(f"{verdict} {describe_live_time(quality)}"),
        _draw_noise(quality, amplifier),
        _draw_pickup(quality),
        _draw_masked(amplifier),
        _draw_piece(amplifier),
    ]


def describe_live_time(quality: AmplifierQuality) -> str:
    """Live time in words, with the numbers behind it."""
    n_live, rate_hz = quality.numbers["live_pixel_rows"], quality.readout.row_rate_hz
    return (
        f"Live time: {number(quality.live_hours, '{:.5f}')} amplifier-hours, that is {n_live:,} unmasked pixel-rows / "
        f"({quality.n_columns:,} columns × {rate_hz:g} rows/s × 3,600 s), of "
        f"{number(quality.n_rows / rate_hz / 3600, '{:.5f}')} h that {quality.n_rows:,} rows last."
    )


def _left_out(what: str) -> Paragraph:
    return Paragraph(f"No picture of {what}: {_OLD}.", "left-out")


def _draw_noise(quality: AmplifierQuality, amplifier: Amplifier) -> Part:
    if quality.column_noise is None:
        return _left_out("the noise of the columns")
    level, sky = quality.level_e, quality.sky
    drawing = new_figure(9.6, 5.6)
    above, below = drawing.subplots(2, 1, height_ratios=(5, 2))
    magnitudes = _levels_of_magnitudes(amplifier, float(np.median(level[sky])) if sky.any() else 0.0)
    groups = _group_columns(amplifier, sky)
    plot_column_noise(level, quality.column_noise, groups, above, magnitudes=magnitudes)
    plot_noise_over_time(*noise_over_time(amplifier.residual[0, sky]), below)
    caption = (
        "Above: measured noise of each column over theory, against the column's level. The sky columns together have "
        f"{number(quality.sky_noise, '{:.3f}')}, all columns {number(quality.numbers.get('noise'), '{:.3f}')}; "
        f"{_describe_faint(quality.column_noise[groups[_FAINT]])}Near bright stars are the columns within "
        f"{_STREAK_REACH} of one that is brighter in its middle than half the sky; what stands above theory there is "
        "mostly starlight that moves: image motion, focus and scintillation that could not be taken off. Elsewhere it "
        "is hot columns, traps, trails, and segments of rows. Below: noise of the sky columns against the row."
    )
    return picture(drawing, caption, alt="Noise of each column over theory against its level", image=True)


def _group_columns(amplifier: Amplifier, sky: np.ndarray) -> dict[str, np.ndarray]:
    """Groups of columns: near bright stars, of other stars, and of the sky."""
    near = np.zeros(amplifier.n_columns, dtype=bool)
    if "flux_e_row" in amplifier.streaks:
        peak_e = amplifier.streaks["flux_e_row"].to_numpy() * pixel_profile(0, amplifier.psf_sigma_px)
        columns = np.arange(amplifier.n_columns)
        for x in amplifier.streaks["x"].to_numpy()[peak_e > amplifier.sky_e / 2]:
            near |= np.abs(columns - x) <= _STREAK_REACH
    return {_SKY: sky & ~near, _FAINT: ~sky & ~near, "near bright stars": near}


def _describe_faint(noise: np.ndarray) -> str:
    noise = noise[np.isfinite(noise)]
    if noise.size == 0:
        return ""
    share = np.mean(np.abs(noise - 1) <= _STREAK_NOISE_OFF)
    return f"{100 * share:.1f} % of the columns of other stars are within 1.00 ± {_STREAK_NOISE_OFF:.2f}. "


def _levels_of_magnitudes(amplifier: Amplifier, sky_e: float) -> dict[str, float]:
    """Level of the middle column of a star (electrons), for whole magnitudes."""
    zero_point = amplifier.readout.zero_point_mag
    if zero_point is None:
        return {}
    peak = float(pixel_profile(0, amplifier.psf_sigma_px)) / amplifier.readout.row_rate_hz
    return {f"{mag}": sky_e + 10 ** (-0.4 * (mag - zero_point)) * peak for mag in _MAGNITUDES}


def _draw_pickup(quality: AmplifierQuality) -> Part:
    if quality.row_offset_e is None:
        return _left_out("the pickup")
    frequency, amplitude = pickup_spectrum(quality.row_offset_e, quality.readout)
    peaks = pickup_peaks(frequency, amplitude, quality.n_rows)
    rate_hz = quality.readout.row_rate_hz
    drawing = new_figure(9.6, 3.6)
    plot_pickup(frequency, amplitude, peaks, drawing.subplots(), row_rate_hz=rate_hz)
    rms = float(np.nanstd(quality.row_offset_e)) if np.isfinite(quality.row_offset_e).any() else np.nan
    caption = (
        "Amplitude spectrum of what all columns of a row share (bias and pickup, "
        f"{number(rms, '{:.1f}')} e⁻ rms), in segments of {min(SPECTRUM_ROWS, quality.n_rows):,} rows; all of it was "
        f"taken off. {_describe_peaks(peaks, rate_hz)} A line above {rate_hz / 2:g} Hz shows at "
        f"{rate_hz:g} Hz minus its frequency."
    )
    return picture(drawing, caption, alt="Spectrum of the pickup")


def _describe_peaks(peaks: pd.DataFrame, rate_hz: float, n_named: int = 6) -> str:
    if peaks.empty:
        return "No line stands above the noise."
    named = [
        f"{f:.1f} Hz ({rate_hz / f:.2f} rows) {a:.2f} e⁻"
        for f, a in peaks[["frequency_hz", "amplitude_e"]].head(n_named).to_numpy()
    ]
    more = f", and {len(peaks) - n_named} weaker ones" if len(peaks) > n_named else ""
    return f"Lines above what surrounds them, the clearest first: {'; '.join(named)}{more}."


def _draw_masked(amplifier: Amplifier) -> Picture:
    by_column, by_row = masked_fractions(amplifier.residual[0])
    bad = np.flatnonzero(by_column == 1)
    drawing = new_figure(9.6, 3.8)
    above, below = drawing.subplots(2, 1)
    plot_masked(by_column, above, marked=bad, along="Column x")
    plot_masked(by_row, below, along="File row")
    caption = (
        f"Masked fraction against column and, of the columns that are not masked from end to end, against row. "
        f"{len(bad)} columns are masked from end to end (red ticks on the axis)."
    )
    return picture(drawing, caption, alt="Masked fraction against column and row")


def _draw_piece(amplifier: Amplifier) -> Picture:
    """Draw the pixels around the brightest streak before and after calibration."""
    rows, columns, streak = _piece(amplifier)
    residual = np.asarray(amplifier.residual[0, columns, rows], dtype=np.float32).T
    level, sigma = (
        part(_ONLY, columns, rows.start, rows.stop)[0].T for part in (amplifier.level_rows, amplifier.sigma_rows)
    )
    light = level + np.nan_to_num(residual) * sigma
    drawing = new_figure(9.6, 6.4)
    above, below = drawing.subplots(2, 1, sharex=True)
    place: dict[str, Any] = {"first_row": rows.start, "first_column": columns.start}
    plot_frame(light, above, unit="e⁻", **place)
    above.set_xlabel("")
    plot_frame(residual, below, limit_sigma=TAIL_SIGMA, **place)
    caption = (
        f"{residual.shape[0]} rows and {residual.shape[1]} columns{_describe_streak(amplifier, rows, streak)}. Above: "
        "electrons without bias and what the rows share. Below: without the level of each column and the motion of the "
        f"streaks, too, in σ; masked pixels are grey. The standard deviation within {TAIL_SIGMA:g} σ is "
        f"{number(_quiet_spread(residual), '{:.3f}')} in the piece."
    )
    return picture(drawing, caption, alt="Piece of the calibrated amplifier around its brightest streak", image=True)


def _piece(amplifier: Amplifier) -> tuple[slice, slice, pd.Series | None]:
    """Rows in the middle, columns around the brightest streak, and that streak."""
    streaks = amplifier.streaks
    lit = len(streaks) > 0 and "flux_e_row" in streaks
    streak = streaks.loc[streaks["flux_e_row"].idxmax()] if lit else None
    middle = round(float(streak["x"])) if streak is not None else amplifier.n_columns // 2
    rows = window(amplifier.n_rows // 2, _PIECE_ROWS, amplifier.n_rows)
    return rows, window(middle, _PIECE_COLUMNS, amplifier.n_columns), streak


def _describe_streak(amplifier: Amplifier, rows: slice, streak: pd.Series | None) -> str:
    if streak is None:
        return "; no streak was found"
    x = round(float(streak["x"]))
    near = slice(max(x - _STREAK_REACH, 0), min(x + _STREAK_REACH + 1, amplifier.n_columns))
    spread = _quiet_spread(np.asarray(amplifier.residual[0, near, rows], dtype=np.float32))
    mag = "" if pd.isna(streak["mag"]) else f", magnitude {streak['mag']:.1f}"
    columns = f"{near.stop - near.start} columns"
    return f" around the brightest streak (x = {streak['x']:.1f}{mag}; {number(spread, '{:.2f}')} σ in its {columns})"


def _quiet_spread(residual: np.ndarray) -> float:
    quiet = residual[np.abs(residual) < TAIL_SIGMA]
    return float(np.sqrt(np.mean(quiet.astype(np.float64) ** 2))) if quiet.size else np.nan

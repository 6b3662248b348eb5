"""The report of a run, a search or a store: one self-contained HTML file, one small function per section.

``shutterless report DIR`` writes ``DIR/report.html``. What a folder lacks is left out, with one line that says so. Of a
store it is the quality page of `shutterless.workflows.report.quality_page`, or of image cubes that of
`shutterless.workflows.report.cube_sections`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.plots.frames import plot_frame, plot_streaks
from shutterless.pipeline.reading.frames import FrameError, read_amplifier
from shutterless.pipeline.reading.instruments import ProfileError
from shutterless.pipeline.store.quality_record import read_quality
from shutterless.pipeline.store.store import MANIFEST, StoreError, read_manifest
from shutterless.workflows.pages.page import figure, new_figure, number, page, paragraph, preformatted, table
from shutterless.workflows.pages.run_folder import LeftOutError, RunFolder, is_cube, required
from shutterless.workflows.report.candidate_cards import candidates_html, write_cube_candidates
from shutterless.workflows.report.cube_sections import (
    cube_store_sections,
    write_cosmic_rays,
    write_cubes,
    write_every_pixel,
    write_light,
    write_pixels,
)
from shutterless.workflows.report.detector_sections import (
    write_comparison,
    write_completeness,
    write_kinds,
    write_learning,
    write_reliability,
)
from shutterless.workflows.report.pictures import calibrate_pictured
from shutterless.workflows.report.quality_page import (
    MAX_AMPLIFIER_SECTIONS,
    amplifier_html,
    quality_sections,
    summary_html,
)
from shutterless.workflows.searching.search import AMPLIFIERS

_PIECE_ROWS, _PIECE_COLUMNS = 400, 800
_MIDDLE_COLUMN = 1536  # of an amplifier of 3072 columns; moved to lie inside a narrower one


class ReportError(ValueError):
    """A folder from which no report can be made."""


@dataclass(frozen=True)
class Section:
    """Anchor and heading of a section, and the function that writes its HTML or raises `LeftOutError`.

    Sections ``of_run`` have no place in the report of a search.
    """

    anchor: str
    heading: str
    write: Callable[[RunFolder], str]
    of_run: bool = False


def write_report(folder: Path, entries: Sequence[str] = ()) -> Path:
    """Write ``report.html`` into the output folder of ``shutterless run`` or ``search``, or into a store.

    Parameters
    ----------
    folder : Path
    entries : sequence of str
        Amplifiers of a store of which pictures are wanted; left out, all or the worst.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    ReportError
        If the folder does not exist or holds nothing to report, or ``entries`` are named of what is no store.
    StoreError
        If the store has no such entry.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(
            f"no folder {folder}; give the folder named as --out to `shutterless run`, `shutterless search` or "
            "`shutterless ingest`"
        )
    run = RunFolder(folder)
    if (folder / MANIFEST).is_file():
        skipped, _ = _write_sections((_FAILURES,), run)
        return _write_page(folder, [*store_sections(folder, entries), *skipped])
    if entries:
        raise ReportError(f"{folder} is not a store (it has no {MANIFEST}), so it has no entry {entries[0]!r}")
    calibrate_pictured(run)
    sections, n_found = _write_sections([s for s in choose_sections(run) if not (s.of_run and run.is_search)], run)
    if not n_found:
        raise ReportError(
            f"{folder} holds nothing to report: no settings.toml, frames/, store/, models/, evaluation/, "
            f"candidates.parquet or {MANIFEST}; give the folder named as --out to `shutterless run`, `shutterless "
            "search` or `shutterless ingest`"
        )
    return _write_page(folder, sections)


def choose_sections(run: RunFolder) -> tuple[Section, ...]:
    """Sections of the amplifier or image cube that the report shows: that of the first candidate, or the first one."""
    if run.manifest is None or run.shown_entry is None:
        return SECTIONS
    entry = run.manifest[run.manifest["folder"] == str(run.shown_entry)]
    return CUBE_SECTIONS if is_cube(entry).any() else SECTIONS


def store_sections(store: Path, entries: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Anchor, heading and HTML of the parts of a store's page: its image cubes, then its amplifiers.

    Parameters and errors are those of `shutterless.workflows.report.quality_page.quality_sections`.
    """
    manifest = read_manifest(store)
    cubes = is_cube(manifest)
    if not cubes.any():
        return quality_sections(store, entries)
    return [*cube_store_sections(store, entries), *_amplifiers_beside_cubes(store, manifest[~cubes]["entry"], entries)]


def _amplifiers_beside_cubes(store: Path, known: Iterable[str], entries: Sequence[str]) -> list[tuple[str, str, str]]:
    """Quality of the amplifiers of a store that holds cubes, too; without ``entries`` the first are pictured."""
    qualities = [read_quality(store, entry) for entry in known]
    if not qualities:
        return []
    shown = [quality for quality in qualities if quality.entry in entries or not entries][:MAX_AMPLIFIER_SECTIONS]
    pictures = [(quality.entry, quality.entry, amplifier_html(store, quality)) for quality in shown]
    return [("amplifiers", "Amplifiers", summary_html(qualities)), *pictures]


def _write_sections(sections: Iterable[Section], run: RunFolder) -> tuple[list[tuple[str, str, str]], int]:
    """Anchor, heading and HTML of each section, and how many have data; those without say why they are left out."""
    written, n_found = [], 0
    for section in sections:
        try:
            body = section.write(run)
            n_found += 1
        except LeftOutError as reason:
            body = paragraph(f"Left out: {reason}.", "left-out")
        written.append((section.anchor, section.heading, body))
    return written, n_found


def _write_page(folder: Path, sections: list[tuple[str, str, str]]) -> Path:
    title = f"shutterless report: {folder.resolve().name}"
    report = folder / "report.html"
    report.write_text(page(title, f"Written by shutterless {version('shutterless')}.", sections), encoding="utf-8")
    return report


def write_run(run: RunFolder) -> str:
    """Settings, seed, files and live time."""
    searched = run.table(AMPLIFIERS)
    if searched is not None:
        return _searched_table(searched)
    settings = run.text("settings.toml")
    if settings is None and run.manifest is None:
        raise LeftOutError("no settings.toml and no store/ in this folder")
    parts = []
    if settings is not None:
        seeds = _find_seeds(tomllib.loads(settings))
        words = ", ".join(f"{name} = {value}" for name, value in seeds) or "none set"
        parts += [paragraph(f"Random seed: {words}.")]
    parts += [_files_table(run.manifest)] if run.manifest is not None else []
    parts += ["<h3>Settings</h3>", preformatted(settings)] if settings is not None else []
    return "".join(parts)


def _searched_table(searched: pd.DataFrame) -> str:
    """Files, segments, live time and quality of all that was searched."""
    if searched.empty:
        return paragraph("Nothing could be searched.", "left-out")
    files = {file for files in searched["files"] for file in files.split(", ")}
    hours = (searched["live_pixel_rows"] / searched["pixel_rows_per_hour"]).sum()
    amplifiers = searched[["ccd", "quadrant"]].drop_duplicates()
    header = ["files", "amplifiers", "segments", "rows", "live amplifier-hours", "triggers", "masked (%)"]
    masked = 100 * searched["masked_fraction"].mean() if "masked_fraction" in searched else np.nan
    row = [
        str(len(files)), str(len(amplifiers)), str(len(searched)), f"{int(searched['n_rows'].sum()):,}",
        number(hours, "{:.4g}"), f"{int(searched['n_triggers'].sum()):,}", number(masked, "{:.2f}"),
    ]  # fmt: skip
    note = (
        "A segment is what is calibrated and searched at once: rows of one amplifier, from one or several files of a "
        f"sequence, overlapping by the margins. {AMPLIFIERS} has the numbers of each. The pictures below are of "
        "amplifiers that were calibrated again for this report."
    )
    return table(header, [row]) + paragraph(note, "note")


def _find_seeds(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every setting called ``seed``, by its dotted name."""
    found = []
    for key, value in settings.items():
        if isinstance(value, dict):
            found += _find_seeds(value, f"{prefix}{key}.")
        elif key == "seed":
            found.append((prefix + key, value))
    return found


def _files_table(manifest: pd.DataFrame) -> str:
    """Files, amplifiers and live time of each scene."""
    per_hour = manifest.get("pixel_rows_per_hour", np.nan)  # a store of an older version does not say
    header = ["scene", "files", "amplifiers", "rows", "live amplifier-hours"]
    rows = []
    for scene, part in manifest.assign(hours=manifest["live_pixel_rows"] / per_hour).groupby("scene", sort=False):
        n_files, n_rows = part["file"].nunique(), int(part["n_rows"].sum())
        hours = number(part["hours"].sum(min_count=1), "{:.4g}")
        rows.append([str(scene) or "all", str(n_files), str(len(part)), f"{n_rows:,}", hours])
    note = (
        "Live time is unmasked pixel-rows / (columns × row rate × 3600): one amplifier-hour is all columns of an "
        "amplifier for one hour."
    )
    return table(header, rows) + paragraph(note, "note")


def write_frame(run: RunFolder) -> str:
    """Draw a piece of one amplifier as it was read."""
    frames = run.frames
    if not frames:
        raise LeftOutError("no frames/ in this folder, and no frames where the store was made from")
    path, quadrant, row, column, candidate = _piece(run)
    try:
        frame = read_amplifier(path, quadrant)
    except (FrameError, ProfileError) as error:
        raise LeftOutError(f"the frame could not be read: {error}") from error
    n_rows, n_columns = frame.pixels_adu.shape
    first_row = int(np.clip(row - _PIECE_ROWS // 2, 0, max(0, n_rows - _PIECE_ROWS)))
    first_column = int(np.clip(column - _PIECE_COLUMNS // 2, 0, max(0, n_columns - _PIECE_COLUMNS)))
    piece = frame.pixels_adu[first_row : first_row + _PIECE_ROWS, first_column : first_column + _PIECE_COLUMNS]
    drawing = new_figure(9.6, 5.2)
    marked = (column, row) if candidate else None
    plot_frame(piece, drawing.subplots(), first_row=first_row, first_column=first_column, marked=marked)
    caption = (
        f"{path.name}, quadrant {quadrant}: {piece.shape[0]} of {n_rows:,} rows and {piece.shape[1]} of "
        f"{n_columns:,} columns, in read order. Time runs downward, one row every "
        f"{1e3 / frame.readout.row_rate_hz:.3g} ms; every star draws a vertical streak."
    )
    if candidate:
        caption += f" The circle is around candidate {candidate}."
    return figure(drawing, caption, alt="Piece of a continuous-readout frame", image=True)


def _piece(run: RunFolder) -> tuple[Path, int, int, int, str]:
    """File, quadrant, row, column and name of the first candidate whose file is here, or of the first file."""
    by_name = {file.name: file for file in run.frames}
    found = run.candidates if run.candidates is not None else pd.DataFrame({"file": [], "quadrant": []})
    here = found[found["file"].isin(by_name) & found["quadrant"].notna()]
    if len(here):
        first = here.iloc[0]
        place = int(first["quadrant"]), int(first["row_peak"]), round(first["x"])
        return by_name[first["file"]], *place, str(first["candidate_id"])
    return run.frames[0], 1, _PIECE_ROWS // 2, _MIDDLE_COLUMN, ""


def write_streaks(run: RunFolder) -> str:
    """Draw the time-collapsed profile of one amplifier with its streaks."""
    entry = required(run.shown_entry, "store/")
    amplifier = run.open_entry(entry)
    baseline = np.asarray(amplifier.baseline_e, dtype=np.float64)
    n_valid = np.isfinite(baseline).sum(axis=(0, 2))
    total = np.nansum(baseline, axis=(0, 2))
    profile = np.divide(total, n_valid, out=np.full(total.shape, np.nan), where=n_valid > 0)
    drawing = new_figure(9.6, 3.6)
    plot_streaks(profile, amplifier.streaks, drawing.subplots())
    n_mag = int(amplifier.streaks["mag"].notna().sum())
    caption = (
        f"{amplifier.file}, entry {entry.name}: mean baseline of each column over {amplifier.n_rows:,} rows and its "
        f"{len(amplifier.streaks)} streaks ({n_mag} with a magnitude; the brightest are labelled with it)."
    )
    return figure(drawing, caption, alt="Time-collapsed profile with streaks")


def candidates_section(run: RunFolder) -> str:
    """List and picture the candidates."""
    return candidates_html(run, required(run.candidates, "search/candidates.parquet or candidates.parquet"))


def write_quality(run: RunFolder) -> str:
    """Table of the quality of all amplifiers."""
    manifest = required(run.manifest, "store/")
    folders = [Path(folder) for folder in manifest[~is_cube(manifest)]["folder"]]
    if not folders:
        raise LeftOutError("no amplifier in store/")
    try:
        summary = summary_html([read_quality(folder.parent, folder.name) for folder in folders])
    except StoreError as error:
        raise LeftOutError(str(error)) from error
    stores = ", ".join(f"`shutterless report {store}`" for store in dict.fromkeys(str(f.parent) for f in folders))
    return summary + paragraph(f"Pictures of each amplifier: {stores}.", "note")


def failures_section(run: RunFolder) -> str:
    """List files and amplifiers that were skipped, and why."""
    failures = required(run.table("failures.parquet"), "failures.parquet")
    if failures.empty:
        return paragraph("No file or amplifier was skipped.")
    rows = [[str(r["file"]), number(r["quadrant"], "{:.0f}"), str(r["reason"])] for _, r in failures.iterrows()]
    return paragraph(f"{len(rows)} skipped:") + table(["file", "quadrant", "reason"], rows)


_PLACES = {
    "settings.toml": "settings as resolved",
    "frames": "frames, truth.parquet and stars.parquet of each scene",
    "store": "calibrated amplifiers and their manifest",
    "amplifiers.parquet": "what was searched, and how good it is",
    "search.json": "what was asked for",
    "parts": "triggers and stars of every segment, by which a search is resumed",
    "models": "trained models (config.json, model.safetensors) and history.parquet",
    "evaluation": "false alarms, completeness, calibration, verdict",
    "search": "candidates.parquet, candidates.ecsv, matches.parquet",
    "candidates.parquet": "candidates, all columns",
    "candidates.ecsv": "candidates with units, as text",
    "failures.parquet": "files and amplifiers skipped",
}


def write_places(run: RunFolder) -> str:
    """Say where everything lies."""
    rows = [[name, what] for name, what in _PLACES.items() if (run.path / name).exists()]
    if not rows:
        raise LeftOutError("none of the known files is in this folder")
    return paragraph(f"In {run.path.resolve()}:") + table(["path", "holds"], rows)


_FAILURES = Section("failures", "Skipped files", failures_section)
SECTIONS = (
    Section("run", "What was run", write_run),
    Section("frame", "The frame", write_frame),
    Section("streaks", "Its streaks", write_streaks),
    Section("quality", "How well it is calibrated", write_quality),
    Section("comparison", "Detectors compared", write_comparison, of_run=True),
    Section("completeness", "Completeness", write_completeness, of_run=True),
    Section("kinds", "Completeness by kind of event", write_kinds, of_run=True),
    Section("learning", "Learning curves", write_learning, of_run=True),
    Section("reliability", "Are the probabilities right?", write_reliability, of_run=True),
    Section("candidates", "Candidates", candidates_section),
    _FAILURES,
    Section("places", "Where everything lies", write_places),
)
CUBE_SECTIONS = (
    Section("cubes", "Image cubes", write_cubes),
    Section("pixels", "The pixels", write_pixels),
    Section("light", "Light curve", write_light),
    Section("every-pixel", "Every pixel", write_every_pixel),
    Section("cosmic-rays", "Cosmic rays", write_cosmic_rays),
    Section("candidates", "Candidates", write_cube_candidates),
    _FAILURES,
    Section("places", "Where everything lies", write_places),
)

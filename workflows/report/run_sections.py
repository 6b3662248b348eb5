"""Report on a run: settings and files, the frame, its streaks and quality, skipped files."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord

from shutterless.pipeline.astrometry.pointing import read_sky
from shutterless.pipeline.plots.frames import plot_frame, plot_streaks
from shutterless.pipeline.plots.sky_field import plot_sky_field
from shutterless.pipeline.reading.frames import FrameError, read_amplifier
from shutterless.pipeline.reading.instruments import ProfileError
from shutterless.pipeline.store.quality_record import read_quality
from shutterless.pipeline.store.store import StoreError, live_hours
from shutterless.workflows.execution.cluster import EXPECTED_ERRORS
from shutterless.workflows.pages.drawings import new_figure, picture, window
from shutterless.workflows.pages.formats import Columns, number, tabulate
from shutterless.workflows.pages.parts import Definitions, Folded, Paragraph, Part, Preformatted, Table
from shutterless.workflows.pages.places import has_point, point_of, segment_ends
from shutterless.workflows.pages.run_folder import LeftOutError, RunFolder, is_cube, required
from shutterless.workflows.report.quality_page import summarise_amplifiers
from shutterless.workflows.searching.search import AMPLIFIERS

_PIECE_ROWS, _PIECE_COLUMNS = 400, 800
_NEAR_ROWS, _NEAR_COLUMNS = 120, 32
_MIDDLE_COLUMN = 1536  # of an amplifier of 3072 columns; moved to lie inside a narrower one
_PAUSE = pd.Timedelta(hours=6)  # between two nights
_LEAST_HALF_WIDTH_DEG = 0.05  # of the map
_LIVE_TIME = (
    "Live time is unmasked pixel-rows / (columns × row rate × 3600): one amplifier-hour is all columns of an amplifier "
    "for one hour."
)


def write_run(run: RunFolder) -> list[Part]:
    """What was searched and how; settings, seed, files and live time of a run."""
    settings, searched = run.text("settings.toml"), run.table(AMPLIFIERS, f"search/{AMPLIFIERS}")
    if settings is None and run.manifest is None and searched is None:
        raise LeftOutError("no settings.toml and no store/ in this folder")
    parts: list[Part] = []
    if settings is not None:
        seeds = _find_seeds(tomllib.loads(settings))
        words = ", ".join(f"{name} = {value}" for name, value in seeds) or "none set"
        parts += [Paragraph(f"Random seed: {words}.")]
    if searched is not None:
        parts += _describe_search(run, searched)
    if run.manifest is not None and not run.is_search:
        parts += [_files_table(run.manifest), Paragraph(_LIVE_TIME, "note")]
    if settings is not None:
        parts += [Folded("Settings", [Preformatted(settings)])]
    return parts


def _describe_search(run: RunFolder, searched: pd.DataFrame) -> list[Part]:
    """When, by which command and with which detector, what is expected; the rows that were searched."""
    if searched.empty:
        return [Paragraph("Nothing could be searched.", "left-out")]
    files = {file for files in searched["files"] for file in files.split(", ")}
    hours = (searched["live_hours"] if "live_hours" in searched else live_hours(searched)).sum()
    masked = 100 * searched["masked_fraction"].mean() if "masked_fraction" in searched else np.nan
    row = {
        "files": str(len(files)),
        "amplifiers": str(len(searched[["ccd", "quadrant"]].drop_duplicates())),
        "segments": str(len(searched)),
        "rows": f"{int(searched['n_rows'].sum()):,}",
        "live amplifier-hours": number(hours, "{:.4g}"),
        "triggers": f"{int(searched['n_triggers'].sum()):,}",
        "masked (%)": number(masked, "{:.2f}"),
    }
    note = (
        "A segment is what is calibrated and searched at once: rows of one amplifier, from one or several files of a "
        f"sequence, overlapping by the margins. {AMPLIFIERS} has the numbers of each."
    )
    if run.is_search:
        note += " The pictures below are of amplifiers that were calibrated again for this report."
    return [Definitions(_facts(run, searched)), Table(list(row), [list(row.values())]), Paragraph(note, "note")]


def _facts(run: RunFolder, searched: pd.DataFrame) -> list[tuple[str, str]]:
    """Facts of a search that are known; those of an older version recorded fewer."""
    made, rates = run.record.get("made", {}), run.record.get("rates", {})
    spans = find_nights(searched)
    models = [] if run.candidates is None else list(run.candidates["model"].dropna().unique())
    thresholds = searched["threshold"].dropna() if "threshold" in searched else pd.Series(dtype=float)
    facts = {
        "Date (UTC)": made.get("date_utc", "").removesuffix("+00:00"),
        "Command": made.get("command", ""),
        "Model": ", ".join(models) or run.record.get("model", ""),
        "Instrument": run.record.get("instrument") or "",
        "Given by --set": ", ".join(f"{key} = {value}" for key, value in run.record.get("supplied", {}).items()),
        "Read (UTC)": f"{spans[0][0][:19]} to {spans[-1][1][:19]}" if spans else "",
        "Threshold": _span_text(thresholds),
    }
    if rates:
        facts["Asked"] = f"{rates['asked_per_hour']:g} false alarms per amplifier-hour"
        facts["Expected false alarms"] = (
            f"{rates['expected_false_alarms']:.3g} among the {rates['candidates']} candidates, in "
            f"{rates['live_hours']:.3g} amplifier-hours"
        )
    return [(name, words) for name, words in facts.items() if words]


def _span_text(values: pd.Series) -> str:
    ends = [number(value) for value in (values.min(), values.max())] if len(values) else []
    return " to ".join(dict.fromkeys(ends))


def placed_candidates(run: RunFolder) -> pd.DataFrame:
    """Listed candidates with a position on the sky."""
    found = run.listed
    if "segment_ra_1" not in found:
        return found.iloc[:0]
    return found[has_point(found) | found["segment_ra_1"].notna()]


def write_map(run: RunFolder) -> list[Part]:
    """Draw the candidates on the sky, in the outlines of the amplifiers that hold any."""
    placed = placed_candidates(run)
    at_point = placed[has_point(placed)]
    elsewhere = placed[~has_point(placed)]
    ends, outlines = segment_ends(elsewhere), list(_outlines(run, placed))
    known = point_of(at_point), *ends, *outlines
    everything = SkyCoord(
        *(np.concatenate([getattr(one, axis).deg for one in known]) for axis in ("ra", "dec")), unit="deg"
    )
    centre = SkyCoord(everything.cartesian.mean(), frame="icrs")
    half_width = max(1.03 * everything.separation(centre).deg.max(), _LEAST_HALF_WIDTH_DEG)
    drawing = new_figure(8, 8)
    pictured = set(run.pictured["anchor"])
    numbers = [
        [str(number) if row["anchor"] in pictured else "" for number, row in part.iterrows()]
        for part in (at_point, elsewhere)
    ]
    plot_sky_field(
        centre, half_width, drawing.subplots(), points=point_of(at_point), segments=ends, outlines=outlines,
        point_names=numbers[0], segment_names=numbers[1],
    )  # fmt: skip
    words = (
        f"{len(at_point)} candidates at a point (circles), {len(elsewhere)} on a segment (lines); numbers are those of "
        "the pictures. Grey: the amplifiers, where their headers say they are. North is up, east is left. Centre "
        f"{centre.to_string('hmsdms', sep=':', precision=0)}."
    )
    return [picture(drawing, words, alt="Candidates on the sky")]


def _outlines(run: RunFolder, candidates: pd.DataFrame) -> Iterator[SkyCoord]:
    """Corners of the amplifiers of some candidates, as far as their files still are there."""
    for _, row in candidates.dropna(subset=["quadrant"]).drop_duplicates(["ccd", "quadrant"]).iterrows():
        with suppress(*EXPECTED_ERRORS):
            yield read_sky(
                row["path"], int(row["quadrant"]), run.record.get("instrument"), run.record.get("supplied")
            ).corners()


def find_nights(searched: pd.DataFrame | None) -> list[tuple[str, str]]:
    """Times (UTC) of the first and the last row of each night: what was read without a pause of `_PAUSE`.

    Parameters
    ----------
    searched : DataFrame or None
        ``amplifiers.parquet`` of a search; rows without UTC belong to no night.
    """
    if searched is None or "first_read_utc" not in searched:
        return []
    dated = searched[searched["first_read_utc"].ne("")].sort_values("first_read_utc")
    nights: list[tuple[str, str]] = []
    for first, last in dated[["first_read_utc", "last_read_utc"]].itertuples(index=False):
        if nights and pd.Timestamp(first) - pd.Timestamp(nights[-1][1]) < _PAUSE:
            nights[-1] = nights[-1][0], max(nights[-1][1], last)
        else:
            nights.append((first, last))
    return nights


def _find_seeds(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every setting called ``seed``, by its dotted name."""
    found = []
    for key, value in settings.items():
        if isinstance(value, dict):
            found += _find_seeds(value, f"{prefix}{key}.")
        elif key == "seed":
            found.append((prefix + key, value))
    return found


def _files_table(manifest: pd.DataFrame) -> Table:
    """Files, amplifiers and live time of each scene."""
    per_hour = manifest.get("pixel_rows_per_hour", np.nan)  # absent in a store of an older version
    columns: Columns = {
        "scene": lambda scene: scene[0] or "all",
        "files": lambda scene: str(scene[1]["file"].nunique()),
        "amplifiers": lambda scene: str(len(scene[1])),
        "rows": lambda scene: f"{int(scene[1]['n_rows'].sum()):,}",
        "live amplifier-hours": lambda scene: number(scene[1]["hours"].sum(min_count=1), "{:.4g}"),
    }
    return tabulate(manifest.assign(hours=manifest["live_pixel_rows"] / per_hour).groupby("scene", sort=False), columns)


def write_frame(run: RunFolder) -> list[Part]:
    """Draw a piece of one raw amplifier."""
    frames = run.frames
    if not frames:
        raise LeftOutError("no frames/ in this folder, and no frames where the store was made from")
    path, quadrant, row, column, candidate = _piece(run)
    try:
        frame = read_amplifier(path, quadrant, run.record.get("instrument"), run.record.get("supplied"))
    except (FrameError, ProfileError) as error:
        raise LeftOutError(f"the frame could not be read: {error}") from error
    n_rows, n_columns = frame.pixels_adu.shape
    rows, columns = window(row, _PIECE_ROWS, n_rows), window(column, _PIECE_COLUMNS, n_columns)
    piece = frame.pixels_adu[rows, columns]
    drawing = new_figure(11, 5.2)
    marked = (column, row) if candidate else None
    left, right = drawing.subplots(1, 2, width_ratios=(3, 1))
    plot_frame(piece, left, first_row=rows.start, first_column=columns.start, marked=marked)
    near, beside = window(row, _NEAR_ROWS, n_rows), window(column, _NEAR_COLUMNS, n_columns)
    plot_frame(frame.pixels_adu[near, beside], right, first_row=near.start, first_column=beside.start)
    right.set(title="its surroundings" if candidate else "a part of it", ylabel="")
    caption = (
        f"{path.name}, quadrant {quadrant}: {piece.shape[0]} of {n_rows:,} rows and {piece.shape[1]} of "
        f"{n_columns:,} columns, in read order. Time runs downward, one row every "
        f"{1e3 / frame.readout.row_rate_hz:.3g} ms; every star draws a vertical streak."
    )
    if candidate:
        caption += f" The circle is around candidate {candidate}, which the second picture shows from nearby."
    return [picture(drawing, caption, alt="Piece of a continuous-readout frame", image=True)]


def _piece(run: RunFolder) -> tuple[Path, int, int, int, str]:
    """File, quadrant, row, column and name of the first candidate whose file exists, or of the first file."""
    by_name = {file.name: file for file in run.frames}
    found = run.candidates if run.candidates is not None else pd.DataFrame({"file": [], "quadrant": []})
    here = found[found["file"].isin(by_name) & found["quadrant"].notna()]
    if len(here):
        first = here.iloc[0]
        place = int(first["quadrant"]), int(first["row_peak"]), round(first["x"])
        return by_name[first["file"]], *place, str(first["candidate_id"])
    return run.frames[0], 1, _PIECE_ROWS // 2, _MIDDLE_COLUMN, ""


def write_streaks(run: RunFolder) -> list[Part]:
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
    return [picture(drawing, caption, alt="Time-collapsed profile with streaks")]


def write_quality(run: RunFolder) -> list[Part]:
    """Table of the quality of all amplifiers."""
    manifest = required(run.manifest, "store/")
    folders = [Path(folder) for folder in manifest[~is_cube(manifest)]["folder"]]
    if not folders:
        raise LeftOutError("no amplifier in store/")
    try:
        summary = summarise_amplifiers([read_quality(folder.parent, folder.name) for folder in folders])
    except StoreError as error:
        raise LeftOutError(str(error)) from error
    stores = ", ".join(f"`shutterless report {store}`" for store in dict.fromkeys(str(f.parent) for f in folders))
    return [*summary, Paragraph(f"Pictures of each amplifier: {stores}.", "note")]


def write_skipped(run: RunFolder) -> list[Part]:
    """List files and amplifiers that were skipped, and why."""
    failures = required(run.table("failures.parquet"), "failures.parquet")
    if failures.empty:
        return [Paragraph("No file or amplifier was skipped.")]
    columns: Columns = {
        "file": "file",
        "quadrant": ("quadrant", "{:.0f}"),
        "reason": "reason",
    }
    return [Paragraph(f"{len(failures)} skipped:"), tabulate(failures, columns)]


_PLACES = {
    "settings.toml": "settings as resolved",
    "frames": "frames, truth.parquet and stars.parquet of each scene",
    "store": "calibrated amplifiers and their manifest",
    "amplifiers.parquet": "what was searched, and how good it is",
    "search.json": "what was asked for",
    "parts": "triggers and stars of every segment, by which a search is resumed",
    "models": "trained models (config.json, model.safetensors) and history.parquet",
    "controls": "the same, trained with shuffled labels; no detectors",
    "evaluation": "false alarms, completeness, calibration, verdict",
    "search": "candidates.parquet, candidates.ecsv, matches.parquet",
    "summary.parquet": "a row for each detector",
    "tune.parquet": "all trials",
    "candidates.parquet": "candidates, all columns",
    "candidates.ecsv": "candidates with units, as text",
    "vetoed.parquet": "the strongest triggers that a veto kept from being candidates",
    "failures.parquet": "files and amplifiers skipped",
    "report": "pixels (FITS) and light curves (ECSV) of the pictured candidates",
}


def write_places(run: RunFolder) -> list[Part]:
    """List the files of the run."""
    rows = [[name, what] for name, what in _PLACES.items() if (run.path / name).exists()]
    nights = [night.name for night in sorted(run.path.glob("night-*.html"))]
    rows += [[name, "all groups of candidates of that night, pictured"] for name in nights]
    if not rows:
        raise LeftOutError("none of the known files is in this folder")
    links = {(place, 0): name for place, (name, _) in enumerate(rows) if name in nights}
    return [Paragraph(f"In {run.path.resolve()}:"), Table(["path", "holds"], rows, links=links)]

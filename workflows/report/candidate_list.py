"""List the candidates of a search: a table to sort and filter, and cards of those that are pictured."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from shutterless.pipeline.detection.vetoes import describe_veto
from shutterless.pipeline.plots.cubes import duration_unit
from shutterless.workflows.pages.formats import Columns, number, tabulate
from shutterless.workflows.pages.parts import Card, Definitions, Folded, Links, Paragraph, Part, Preformatted, Table
from shutterless.workflows.pages.places import describe_elsewhere, describe_mjd, describe_position
from shutterless.workflows.pages.run_folder import RunFolder, describe_group, required
from shutterless.workflows.report.candidate_cards import describe_match, frame_numbers, frame_picture, or_unknown
from shutterless.workflows.report.candidate_files import write_candidate_files
from shutterless.workflows.report.cube_cards import cube_numbers, cube_of, cube_picture, relative_amplitude
from shutterless.workflows.report.cube_entry import scale_text

_SECOND, _MILLISECOND = 19, 23  # characters of a UTC
_SLOW_S = 10.0  # times of events that all last longer are given to the second
_HINT = "Filter: words, S/N > 20, mag < 14"
_FRAMES = (
    "In each picture of a frame, above: residual in σ, columns upward and time rightward, the event's rows between the "
    "dotted lines, masked pixels grey. Below: PSF-weighted light curve in σ on the same axis, the event's rows shaded. "
    "Rows and columns are in read order, counted from 0."
)
_CUBES = (
    "In each picture of an image cube, above: light minus baseline in σ before, at the peak and after, on one scale; "
    "the cross is the place, masked pixels are hatched. Below: light of all pixels of these images, the event's "
    "cadences shaded, masked ones marked by grey ticks; and light minus baseline in the pixels around the place, in "
    "electrons on one scale. Amplitudes in % are of the star's light where the candidate is one of the stars found, "
    "else of the median light of all pixels, in one cadence."
)


def list_candidates(run: RunFolder) -> list[Part]:
    """List all candidates, and draw those that are chosen."""
    found = required(run.candidates, "search/candidates.parquet or candidates.parquet")
    if found.empty:
        return [Paragraph("The search found no candidates.")]
    listed = run.listed
    pictured = run.pictured[run.pictured["anchor"].isin(listed["anchor"])]
    n_groups, n_vetoed = found["group_id"].fillna(found["candidate_id"]).nunique(), int((found["veto"] != "").sum())
    words = f"{len(found)} candidates in {n_groups} groups of one cause each"
    words += f", {n_vetoed} of them with a veto (listed last)." if n_vetoed else "."
    if len(listed) < len(found):
        words += f" The list holds the first {len(listed)}; candidates.parquet holds all."
    return [
        Paragraph(words),
        _candidate_table(run, listed),
        Paragraph(f"{_describe_pictured(run, len(pictured), len(listed))} {_describe_views(pictured)}", "note"),
        *_write_cards(run, listed, pictured),
    ]


def list_vetoed(run: RunFolder) -> list[Part]:
    """List the loud triggers that a veto kept from being candidates."""
    vetoed = required(run.vetoed, "vetoed.parquet")
    if vetoed.empty:
        return [Paragraph("No loud trigger was set aside.")]
    counts = run.record.get("vetoed", vetoed["veto"].value_counts().to_dict())
    reasons = [f"{count} {describe_veto(reason)}" for reason, count in counts.items()]
    words = (
        f"{sum(counts.values())} triggers above 10 σ have a veto and are no candidates, for these reasons: "
        f"{'; '.join(reasons)}. If an event of yours is among them, `shutterless report {run.path} --candidate ID` "
        "pictures it."
    )
    pictured = run.pictured[run.pictured["anchor"].isin(vetoed["anchor"])]
    return [Paragraph(words), _candidate_table(run, vetoed), *_write_cards(run, vetoed, pictured)]


def _describe_pictured(run: RunFolder, n_pictured: int, n_listed: int) -> str:
    if n_pictured == n_listed:
        return "All are pictured below."
    return (
        f"Numbers lead to what is known of each candidate; {n_pictured} are pictured. `shutterless report {run.path} "
        "--candidate ID` pictures any other, `--top 50` more of them, `--nights` all of each night."
    )


def _describe_views(pictured: pd.DataFrame) -> str:
    is_frame = pictured["quadrant"].notna()
    return " ".join(words for words, drawn in ((_FRAMES, is_frame.any()), (_CUBES, not is_frame.all())) if drawn)


def _candidate_table(run: RunFolder, listed: pd.DataFrame) -> Table:
    """Table of candidates or vetoed triggers; columns without any value are left out."""
    unit, unit_s = duration_unit(float(listed["duration_s"].median()))
    digits = _SECOND if listed["duration_s"].min() >= _SLOW_S else _MILLISECOND
    scales = set(run.record.get("time_archive", {}).values())
    columns: Columns = {
        "#": lambda row: str(row.name),
        "UTC": lambda row: "–" if pd.isna(row["time_read_utc"]) else str(row["time_read_utc"])[:digits] or "–",
        scale_text(scales.pop()) if len(scales) == 1 else "archive time": ("time_archive", "{:.5f}"),
        "S/N": ("snr", "{:.1f}"),
        f"duration ({unit})": lambda row: _plain_number(row["duration_s"] / unit_s),
        "mag": ("star_mag", "{:.1f}"),
        "star": lambda row: or_unknown(row.get("star_name")).replace("unknown", "–"),
        "kind": lambda row: str(row["kind"]).replace("unclassified", "–"),
        "probability": ("probability", "{:.3f}"),
        "posterior": lambda row: number(row.get("posterior"), "{:.3f}"),
        "alarms/h": lambda row: number(row.get("false_alarm_rate"), "{:.2g}"),
        "CCD / q": lambda row: _amplifier(row),
        "y": ("y", "{:.0f}"),
        "x": ("x", "{:.1f}"),
        "row" if listed["quadrant"].notna().any() else "cadence": ("row_peak", "{:.0f}"),
        "amplitude (%)": lambda row: _share(run, row),
        "veto": lambda row: row["veto"] or "–",
        "group": _describe_members,
        "injected event": lambda row: "–" if run.matches is None else describe_match(row, run.matches, brief=True),
        "object": lambda row: or_unknown(row.get("object")).replace("unknown", "–"),
        "candidate": "candidate_id",
    }
    if "object" not in listed or listed["object"].nunique() == 1:
        del columns["object"]
    links = {(k, 0): f"#{anchor}" for k, anchor in enumerate(listed["anchor"])}
    return replace(tabulate(listed, columns, drop_empty=True), links=links, sortable=True, hint=_HINT)


def _plain_number(value: float) -> str:
    """Three digits without an exponent, which would hide that a number is large."""
    return number(value, "{:.3g}" if abs(value) < 999.5 else "{:,.0f}")


def _amplifier(candidate: pd.Series) -> str:
    if pd.isna(candidate["quadrant"]):
        return "–"
    return f"{number(candidate['ccd'], '{:.0f}')} / {number(candidate['quadrant'], '{:.0f}')}"


def _share(run: RunFolder, candidate: pd.Series) -> str:
    """Amplitude of a candidate in an image cube relative to the light there, as far as the cube is in the store."""
    if pd.notna(candidate["quadrant"]):
        return "–"
    return number(relative_amplitude(candidate, cube_of(run, candidate))[0])


def _describe_members(candidate: pd.Series) -> str:
    """The size of a group at its first candidate, an arrow at the others."""
    n = candidate.get("n_in_group", 1)
    return "–" if n == 1 else f"of {n}" if candidate["leads"] else "↳"


def _write_cards(run: RunFolder, listed: pd.DataFrame, pictured: pd.DataFrame) -> list[Card]:
    """Cards with pictures, and after them those without, of which a page shows the one to which a link led."""
    others = listed[~listed["anchor"].isin(pictured["anchor"])]
    return [
        *(_write_card(run, number, candidate) for number, candidate in pictured.iterrows()),
        *(_write_card(run, number, candidate, drawn=False) for number, candidate in others.iterrows()),
    ]


def _write_card(run: RunFolder, place: int, candidate: pd.Series, *, drawn: bool = True) -> Card:
    """Numbers, places and, if drawn, picture and files of one candidate or vetoed trigger."""
    heading, anchor = f"{place}: {candidate['candidate_id']}", candidate["anchor"]
    elsewhere, links = Preformatted(describe_elsewhere(candidate, run.path)), [("back to the list", "#candidates")]
    if not drawn:
        parts = [_list_numbers(run, candidate), Links(links), elsewhere]
        return Card(heading, parts, anchor, wide=True, on_demand=True)
    links += write_candidate_files(run, candidate)
    folded = Folded("Open it in DS9, or draw it again", [elsewhere])
    return Card(heading, [*describe_candidate(run, candidate), Links(links), folded], anchor)


def describe_candidate(run: RunFolder, candidate: pd.Series, *, with_truth: bool = True) -> list[Part]:
    """Picture and numbers of one candidate or vetoed trigger; ``with_truth`` also the event that was put there."""
    shown = (frame_picture if pd.notna(candidate["quadrant"]) else cube_picture)(run, candidate)
    return [shown, _list_numbers(run, candidate, with_truth=with_truth)]


def _list_numbers(run: RunFolder, candidate: pd.Series, *, with_truth: bool = True) -> Definitions:
    """Names and values of what is known of a candidate."""
    kind = str(candidate["kind"])
    if pd.notna(candidate["kind_probability"]):
        kind += f" (probability {number(candidate['kind_probability'], '{:.3f}')})"
    injected = "–" if run.matches is None or not with_truth else describe_match(candidate, run.matches)
    pairs = [
        ("Read (UTC)", or_unknown(candidate["time_read_utc"])),
        ("Read (MJD)", describe_mjd(candidate)),
        ("S/N", number(candidate["snr"], "{:.2f}")),
        *(frame_numbers(candidate) if pd.notna(candidate["quadrant"]) else cube_numbers(run, candidate)),
        ("Magnitude", number(candidate["star_mag"], "{:.2f}")),
        ("Star's name", or_unknown(candidate.get("star_name"))),
        *describe_position(candidate),
        ("Probability", number(candidate["probability"], "{:.4f}")),
        ("Kind", kind if kind not in ("", "unclassified") else "–"),
        ("False alarms/h", number(candidate.get("false_alarm_rate"), "{:.2g}")),
        ("Veto", describe_veto(candidate["veto"]) if candidate["veto"] else "–"),
        ("Injected event", injected),
        ("Group", describe_group(candidate, run.listed) if "leads" in candidate else "–"),
        ("In the file", _file_place(candidate)),
        ("File", str(candidate["file"])),
        ("Model", str(candidate["model"])),
    ]
    return Definitions([(name, words) for name, words in pairs if words not in ("–", "unknown")])


def _file_place(candidate: pd.Series) -> str:
    """Where DS9 and other programs find it; a dash in tables of an older version."""
    places = {name: candidate.get(name) for name in ("hdu", "fits_x", "fits_y", "fits_z")}
    known = {name: value for name, value in places.items() if value is not None and pd.notna(value)}
    return ", ".join(f"{name.replace('hdu', 'HDU')} {value:g}" for name, value in known.items()) or "–"

"""Say what a search set aside: what it was told of its files, and the strongest triggers that it vetoed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.workflows.searching.segment_search import SearchedSegment

N_STRONGEST = 5
LOUD_SIGMA = 10.0  # vetoed triggers are listed from here on; weaker ones are many


def part_notes(parts: Sequence[SearchedSegment], infos: Iterable[FrameInfo]) -> list[tuple[Path, str]]:
    """Notes that came up when the pixels were read and calibrated, each with its file as the user named it."""
    infos = list(infos)
    paths = {info.path.absolute(): info.path for info in infos}
    known = {(info.path, note) for info in infos for note in info.notes}
    notes: dict[tuple[Path, str], None] = {}
    for part in parts:
        for exposure in part.exposures:
            path = paths.get(exposure.spans[0].path, exposure.spans[0].path)
            notes |= dict.fromkeys((path, note) for note in exposure.numbers.get("notes", ()))
    return [note for note in notes if note not in known]


def describe_vetoed(parts: Sequence[SearchedSegment], candidates: pd.DataFrame) -> list[str]:
    """Lines for the user: how many loud triggers with a veto are no candidates, and the strongest of them.

    A detector that judges by context may take a trigger for an event in spite of a veto; that one is not counted.
    """
    tables = [
        part.triggers.assign(file=part.segment.spans[0].path.name)
        for part in parts
        if {"veto", "snr"} <= set(part.triggers.columns)
    ]
    if not tables:
        return []
    triggers = pd.concat(tables, ignore_index=True)
    veto = triggers["veto"].fillna("").astype(str)
    place = ["x", "row_peak", "snr"]
    taken = pd.MultiIndex.from_frame(triggers[place]).isin(pd.MultiIndex.from_frame(candidates[place]))
    loud = triggers[(veto != "") & (triggers["snr"].abs() >= LOUD_SIGMA) & ~taken]
    if loud.empty:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in loud["veto"].astype(str).value_counts().items())
    strongest = loud.reindex(loud["snr"].abs().sort_values(ascending=False, kind="stable").index).head(N_STRONGEST)
    places = "; ".join(
        f"{row.snr:.0f} σ at row {row.row_peak:.0f}, x {row.x:.0f} of {row.file} ({row.veto})"
        for row in strongest.itertuples()
    )
    said = f"{len(loud)} triggers above {LOUD_SIGMA:g} σ are no candidates and have a veto ({reasons})"
    return [f"{said}; the strongest: {places}"]

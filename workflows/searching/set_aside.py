"""Say what a search set aside: what it was told of its files, and the strongest triggers that it vetoed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.workflows.searching.segment_search import SearchedSegment

VETOED = "vetoed.parquet"
N_STRONGEST = 5  # that are said
N_KEPT = 200  # that the table lists
ABSURD_NUMBER, ABSURD_SIGMA, ABSURD_LOUD = 200, 1000.0, 5  # candidates of one amplifier; S/N of so many
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


def describe_budget(parts: Sequence[SearchedSegment]) -> list[str]:
    """Lines for the user on what was not judged, since there was more of it than the settings allow."""
    numbers = [exposure.numbers for part in parts for exposure in part.exposures]
    lines = []
    for name, said, setting in (
        ("n_unmeasured", "places above the trigger threshold were not measured", "most_measured_per_second"),
        (
            "n_unasked",
            "triggers were judged by the forest alone, which ranks others higher",
            "most_asked_per_second",
        ),
    ):
        counts = [int(each.get(name, 0)) for each in numbers]
        if any(counts):
            lines.append(
                f"{sum(counts):,} {said}, in {sum(count > 0 for count in counts)} of {len(counts)} stretches of rows; "
                f"a larger search.{setting} takes them (column {name} of amplifiers.parquet)"
            )
    return lines


def describe_absurd(candidates: pd.DataFrame) -> list[str]:
    """Lines for the user on files whose candidates no sky has: hundreds in one amplifier, or several of 1,000 σ."""
    lines = []
    amplifiers = candidates.assign(quadrant=candidates["quadrant"].astype("Int64")).groupby(
        ["file", "quadrant"], dropna=False, sort=True
    )
    for (file, quadrant), found in amplifiers:
        loud = found["snr"].abs()
        if len(found) < ABSURD_NUMBER and (loud >= ABSURD_SIGMA).sum() < ABSURD_LOUD:
            continue
        where = file if pd.isna(quadrant) else f"{file}, quadrant {quadrant}"
        lines.append(
            f"{where}: {len(found):,} candidates of up to {loud.max():,.0f} σ are more than a sky has; "
            "see with `shutterless check` what the file is taken for, and its gain, HDUs and flags"
        )
    return lines


def loud_vetoed(triggers: pd.DataFrame, is_found: np.ndarray) -> pd.DataFrame:
    """Loud triggers with a veto that are no candidates, the strongest first.

    A detector that judges by context may take a trigger for an event in spite of a veto; that one is not among them.

    Parameters
    ----------
    triggers : DataFrame
        Of one segment.
    is_found : ndarray of bool
        Which of them are candidates.
    """
    if not {"veto", "snr"} <= set(triggers.columns):
        return triggers.iloc[:0]
    strength = triggers["snr"].abs().to_numpy(dtype=np.float64)
    loud = np.flatnonzero((strength >= LOUD_SIGMA) & ~is_found)
    if not loud.size:
        return triggers.iloc[:0]
    loud = loud[triggers["veto"].iloc[loud].fillna("").ne("").to_numpy(dtype=bool)]
    return triggers.iloc[loud[np.argsort(-strength[loud], kind="stable")]]


def rank_vetoed(vetoed: pd.DataFrame) -> pd.DataFrame:
    """The strongest of the triggers that are no candidates, with the columns of candidates."""
    order = vetoed.assign(strength=vetoed["snr"].abs()).sort_values(
        ["strength", "candidate_id"], ascending=[False, True], kind="stable"
    )
    return order.drop(columns="strength").head(N_KEPT).reset_index(drop=True)


def describe_vetoed(vetoed: pd.DataFrame, counts: Mapping[str, int]) -> list[str]:
    """Line for the user: how many loud triggers with a veto are no candidates, and the strongest of them.

    Parameters
    ----------
    vetoed : DataFrame
        From `rank_vetoed`.
    counts : mapping of str to int
        Number of loud triggers of each veto, also of those that were not kept.
    """
    if vetoed.empty:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    places = "; ".join(
        f"{row.snr:.0f} σ at row {row.row_peak:.0f}, x {row.x:.0f} of {row.file} ({row.veto})"
        for row in vetoed.head(N_STRONGEST).itertuples()
    )
    said = f"{sum(counts.values())} triggers above {LOUD_SIGMA:g} σ are no candidates and have a veto ({reasons})"
    return [f"{said}; the strongest: {places}"]

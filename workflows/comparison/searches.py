"""Compare two searches of the same frames: what both found, what only one found, and why the other did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.groups import NO_TRIGGER
from shutterless.models.evaluation.metrics import cluster_detections
from shutterless.pipeline.detection.matching import TRUTH_MATCH_PX
from shutterless.pipeline.files import write_parquet
from shutterless.workflows.searching.detect import detector_columns
from shutterless.workflows.searching.found import read_finished
from shutterless.workflows.searching.segment_search import ExposureRecord, by_span, in_file_rows, read_parts

BOTH, FIRST, SECOND = "both", "first", "second"
NOT_SEARCHED, NO_PARTS = "not searched", "unknown: its parts are gone"
TABLE = "searches.parquet"
_AMPLIFIER = ["file", "ccd", "quadrant"]
_SHOWN = ["candidate_id", "snr", "probability", "false_alarm_rate"]
_PLACE = ["x", "y", "row_start", "row_stop"]
_TRIGGER = [*_PLACE, "score", "veto"]


class SearchesError(ValueError):
    """Two folders that cannot be compared as searches."""


@dataclass(frozen=True)
class _Search:
    """Tables of a finished search.

    ``amplifiers`` (`_AMPLIFIER`) are those searched, ``triggers`` those of its parts, in file rows, with ``score``,
    ``veto`` and the ``threshold`` of the amplifier; None without parts.
    """

    folder: Path
    detector: str
    candidates: pd.DataFrame
    amplifiers: pd.DataFrame
    triggers: pd.DataFrame | None


@dataclass(frozen=True)
class SearchComparison:
    """Causes that two searches found.

    Parameters
    ----------
    causes : DataFrame
        A row for each place at which either has candidates, the strongest first: ``file``, ``ccd``, ``quadrant``,
        ``x``, ``y``, ``row_start`` and ``row_stop`` (of the stronger candidate), ``found_by`` (`BOTH`, `FIRST`,
        `SECOND`), ``candidate_id``, ``snr``, ``probability`` and ``false_alarm_rate`` of the best candidate of each,
        ending in ``_first`` and ``_second``, and ``why``: the reason why the other search has none.
    detectors : (str, str)
    """

    causes: pd.DataFrame
    detectors: tuple[str, str]

    def text(self) -> str:
        """Numbers of causes, with the reasons, for a terminal."""
        counts = self.causes["found_by"].value_counts()
        lines = [f"both found {counts.get(BOTH, 0)} causes"]
        for found_by, detector in zip((FIRST, SECOND), self.detectors, strict=True):
            own = self.causes[self.causes["found_by"] == found_by]
            reasons = own["why"].map(lambda why: why.partition(" (")[0]).value_counts()
            why = "; ".join(f"{reason}: {n}" for reason, n in reasons.items())
            lines.append(
                f"only the {found_by} ({detector}) found {len(own)}" + (f"; the other had {why}" if why else "")
            )
        return "\n".join(lines)


def compare_found(first: Path, second: Path, out: Path) -> SearchComparison:
    """Compare two searches and write `TABLE`.

    Parameters
    ----------
    first, second : Path
        Folders of `shutterless search`.
    out : Path

    Raises
    ------
    NoSearchError
        If a folder holds no finished search.
    SearchesError
        If they have no amplifier in common.

    Notes
    -----
    Candidates are of one cause if they are of one amplifier of one file, at most 3 px apart, and their rows overlap
    within their length: the same rule by which false alarms are counted.
    """
    searches = _read_search(first), _read_search(second)
    common = searches[0].amplifiers.merge(searches[1].amplifiers)
    if common.empty:
        raise SearchesError(
            f"{first} and {second} have no amplifier of a file in common ("
            + ", ".join(
                f"{s.folder}: {s.amplifiers['file'].iloc[0] if len(s.amplifiers) else 'none'}, …" for s in searches
            )
            + "); compare searches of the same frames"
        )
    causes = _join(searches)
    comparison = SearchComparison(causes, (searches[0].detector, searches[1].detector))
    write_parquet(causes, Path(out) / TABLE)
    return comparison


def _read_search(folder: Path) -> _Search:
    search = read_finished(folder)
    about, amplifiers = search.record, search.amplifiers
    names = search.by_file()[_AMPLIFIER].drop_duplicates()
    labels = {Path(path): label for label, path in about["files"].items()}
    thresholds = dict(zip(amplifiers["segment"], amplifiers["threshold"], strict=True))
    parts = list(read_parts(Path(folder)))
    tables = [
        own.assign(threshold=thresholds.get(name, np.nan))
        for name, detector, exposures, found in parts
        for own in _file_triggers(detector_columns(found, detector), exposures, labels)
    ]
    triggers = pd.concat(tables) if tables else pd.DataFrame(columns=[*_AMPLIFIER, *_TRIGGER, "threshold"])
    return _Search(Path(folder), about["detector"], search.candidates, names, triggers if parts else None)


def _file_triggers(
    triggers: pd.DataFrame, exposures: Sequence[ExposureRecord], labels: Mapping[Path, str]
) -> Iterator[pd.DataFrame]:
    """Triggers of a part that peak in each of its files, in rows of the file."""
    for k, span, here in by_span(exposures, triggers):
        readout = exposures[k].readout
        yield in_file_rows(here, span)[_TRIGGER].assign(
            file=labels.get(span.path, span.path.name), ccd=readout.ccd, quadrant=readout.quadrant
        )


def _join(searches: tuple[_Search, _Search]) -> pd.DataFrame:
    """Clusters of the candidates of both searches."""
    both = pd.concat([search.candidates.assign(search=k) for k, search in enumerate(searches)], ignore_index=True)
    entry = both[_AMPLIFIER].astype(str).agg("/".join, axis=1)
    width = both["row_stop"] - both["row_start"] + 1
    cause = cluster_detections(both.assign(entry=entry, width_rows=width, y=both["y"].fillna(0.0)))
    surest = both.assign(cause=cause, strength=-both["snr"].abs()).sort_values(
        ["false_alarm_rate", "strength", "candidate_id"], kind="stable"
    )
    rows = []
    for _, members in surest.groupby("cause", sort=False):
        best = [members[members["search"] == k].head(1) for k in (0, 1)]
        place = members.iloc[0]
        found_by = BOTH if all(map(len, best)) else (FIRST if len(best[0]) else SECOND)
        other = {FIRST: searches[1], SECOND: searches[0]}.get(found_by)
        row = {name: place[name] for name in (*_AMPLIFIER, *_PLACE)} | {"found_by": found_by}
        for side, one in zip((FIRST, SECOND), best, strict=True):
            row |= {f"{name}_{side}": one[name].iloc[0] if len(one) else None for name in _SHOWN}
        rows.append(row | {"why": "" if other is None else _why_not(other, place)})
    columns = [
        *_AMPLIFIER,
        *_PLACE,
        "found_by",
        *(f"{name}_{side}" for side in (FIRST, SECOND) for name in _SHOWN),
        "why",
    ]
    return pd.DataFrame(rows, columns=columns)


def _why_not(search: _Search, place: pd.Series) -> str:
    """Reason why a search has no candidate at the place of another's."""
    amplifiers = search.amplifiers
    if not _same_amplifier(amplifiers, place).any():
        return NOT_SEARCHED
    if search.triggers is None:
        return NO_PARTS
    here = search.triggers[_same_amplifier(search.triggers, place)]
    reach = np.maximum(here["row_stop"] - here["row_start"], place["row_stop"] - place["row_start"]) + 1
    near = (here["x"] - place["x"]).abs().le(TRUTH_MATCH_PX)
    if pd.notna(place["y"]):
        near &= (here["y"] - place["y"]).abs().le(TRUTH_MATCH_PX)
    near &= (here["row_start"] <= place["row_stop"] + reach) & (here["row_stop"] >= place["row_start"] - reach)
    if not near.any():
        return NO_TRIGGER
    best = here[near].sort_values("score", ascending=False, kind="stable").iloc[0]
    if np.isfinite(best["score"]):
        return f"below the threshold (score {best['score']:.2f}, threshold {best['threshold']:.2f})"
    vetoes = sorted(set(here.loc[near, "veto"].dropna().astype(str)) - {""})
    return f"vetoed ({', '.join(vetoes)})" if vetoes else "not scored (one of a trail)"


def _same_amplifier(table: pd.DataFrame, place: pd.Series) -> pd.Series:
    """Rows of the amplifier of a place; the images of a cube have no CCD and no quadrant."""
    same = table["file"] == place["file"]
    for name in ("ccd", "quadrant"):
        same &= (table[name].isna() if pd.isna(place[name]) else table[name].eq(place[name])).fillna(False).astype(bool)
    return same

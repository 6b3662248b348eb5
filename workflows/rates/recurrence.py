"""Find stars on which several searches have candidates: the same star in several nights, or twice in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from scipy.stats import poisson

from shutterless.pipeline.detection.matching import number_groups
from shutterless.pipeline.files import write_parquet
from shutterless.workflows.searching.found import FinishedSearch, check_apart, read_finished

RECURRENCES = "recurrences.parquet"
RECURRENCE_COLUMNS = (
    *("star", "n_events", "n_searches", "since_last_s", "search"),
    *("candidate_id", "file", "time_event_min", "time_event_max", "time_read_utc", "kind", "duration_s", "snr"),
    *("probability", "false_alarm_rate", "star_name", "star_mag", "star_flag", "ra", "dec", "position_error"),
)
_LEAST_ERROR_ARCSEC = 0.3  # of two positions of one star: proper motions and catalogues differ by as much
_FARTHEST_SIGMA = 3.0


@dataclass(frozen=True)
class Recurrences:
    """Events of stars that have several.

    Parameters
    ----------
    events : DataFrame
        `RECURRENCE_COLUMNS`, the star with most events first, each star in the order of time. ``since_last_s`` is the
        time since the event before on the same star.
    n_placed, n_stars : int
        Candidates with the position of a star, and the stars that they lie on.
    by_chance : float
        Stars with two false alarms or more that are expected if false alarms fall on all streaks alike.
    """

    events: pd.DataFrame
    n_placed: int
    n_stars: int
    by_chance: float

    def text(self) -> str:
        """Number of stars with several events, for a terminal."""
        stars = self.events.drop_duplicates("star")
        lines = [
            f"{self.n_placed} candidates on {self.n_stars} stars; {len(stars)} stars have several, "
            f"{(stars['n_searches'] > 1).sum()} of them in several searches; chance makes {self.by_chance:.2g} such "
            "stars"
        ]
        return "\n".join([*lines, *(f"{row.star}: {row.n_events} events" for row in stars.head(10).itertuples())])


def find_recurrences(folders: Sequence[Path], out: Path) -> Recurrences:
    """Join the candidates of one star over several searches and write `RECURRENCES`.

    Parameters
    ----------
    folders : sequence of Path
        Folders of `shutterless search`, of different frames, with a catalogue.
    out : Path

    Raises
    ------
    NoSearchError
        If a folder holds no finished search.
    SearchedTwiceError
        If a frame was searched twice.

    Notes
    -----
    Candidates are on one star if it has the same name in the catalogue, or if their positions agree within three
    standard errors. Of candidates of one cause (``group_id``) a star has one, the first in the table. A candidate
    without the position of a star is not joined.
    """
    searches = [read_finished(folder) for folder in folders]
    check_apart(searches)
    placed = pd.concat([_placed(search) for search in searches], ignore_index=True)
    star = _number_stars(placed)
    placed = placed.assign(number=star).drop_duplicates(["number", "search", "group_id"])
    name = placed["star_name"].mask(placed["star_name"].eq(""))
    where = placed["ra"].map("{:.5f}".format) + placed["dec"].map("{:+.5f}".format)
    placed = placed.assign(star=name.fillna(where).groupby(placed["number"]).transform("first"))
    by_star = placed.groupby("number")
    placed = placed.assign(
        n_events=by_star["candidate_id"].transform("size"), n_searches=by_star["search"].transform("nunique")
    )
    events = placed[placed["n_events"] > 1].sort_values(
        ["n_events", "star", "time_event_min", "candidate_id"], ascending=[False, True, True, True], kind="stable"
    )
    since = events.groupby("number")["time_event_min"].diff().dt.total_seconds()
    events = events.assign(since_last_s=since)[list(RECURRENCE_COLUMNS)].reset_index(drop=True)
    write_parquet(events, Path(out) / RECURRENCES)
    return Recurrences(events, len(placed), placed["number"].nunique(), _expected_by_chance(searches))


def _placed(search: FinishedSearch) -> pd.DataFrame:
    """Candidates on a star whose position is known."""
    candidates = search.candidates[search.candidates["ra"].notna()]
    return candidates.assign(search=str(search.folder))


def _number_stars(candidates: pd.DataFrame) -> np.ndarray:
    """Number of the star of each candidate: those of one name, or of one position, share it."""
    named = candidates["star_name"].fillna("")
    pairs = [pair for _, own in candidates[named != ""].groupby(named[named != ""]) for pair in pairwise(own.index)]
    if len(candidates):
        places = SkyCoord(candidates["ra"].to_numpy(), candidates["dec"].to_numpy(), unit="deg")
        error = candidates["position_error"].fillna(0.0).clip(lower=_LEAST_ERROR_ARCSEC).to_numpy()
        first, second, apart, _ = places.search_around_sky(places, 2 * _FARTHEST_SIGMA * error.max() * u.arcsec)
        near = apart.arcsec <= _FARTHEST_SIGMA * np.hypot(error[first], error[second])
        differ = (named.to_numpy()[first] != "") & (
            named.to_numpy()[second] != ""
        )  # neighbours that a catalogue tells apart
        pairs += list(zip(first[near & ~differ].tolist(), second[near & ~differ].tolist(), strict=True))
    return number_groups(pairs, len(candidates))


def _expected_by_chance(searches: Sequence[FinishedSearch]) -> float:
    """Stars with two or more of the false alarms that the searches expect, spread over all streaks alike."""
    streaks = (search.amplifiers.groupby(["ccd", "quadrant"])["n_streaks"].max().sum() for search in searches)
    n_streaks = max(map(float, streaks))
    expected = sum(float(search.record["rates"]["expected_false_alarms"]) for search in searches)
    return float(n_streaks * poisson.sf(1, expected / n_streaks)) if n_streaks else 0.0

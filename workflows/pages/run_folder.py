"""Read the output folder of a run or a search; absent parts are None."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.reading.fits_files import has_fits_name
from shutterless.pipeline.store.store import MANIFEST, StoreError, open_amplifier, read_manifest

CONTROLS = "controls"  # folder of the models trained with shuffled labels
N_LISTED = 1000  # groups of candidates that a report lists
N_PICTURED = 12  # groups of candidates whose best has a picture, unless more are asked for
_SAME_AMPLIFIER = ("file", "ccd", "quadrant")


class LeftOutError(Exception):
    """A topic for which the folder has no data; the message names the data."""


def required(part: Any, what: str) -> Any:
    """Return a part of a folder; raise `LeftOutError` if it is None."""
    if part is None:
        raise LeftOutError(f"no {what} in this folder")
    return part


def is_cube(manifest: pd.DataFrame) -> pd.Series:
    """Which entries of a manifest are image cubes: those of several rows of pixels, or of no quadrant."""
    if "n_y" not in manifest:
        return pd.Series(False, index=manifest.index)
    has_no_quadrant = manifest["n_y"].notna() & (manifest["quadrant"].isna() if "quadrant" in manifest else False)
    return (manifest["n_y"].fillna(1) > 1) | has_no_quadrant


def manifest_with(store: Path, entries: Sequence[str]) -> pd.DataFrame:
    """Read the manifest of a store and check that it has the given entries.

    Raises
    ------
    StoreError
        If there is no finished store, or it lacks an entry.
    """
    manifest = read_manifest(store)
    known = list(manifest["entry"])
    unknown = [entry for entry in entries if entry not in known]
    if unknown:
        raise StoreError(f"store {store} has no entry {unknown[0]!r}; it holds {', '.join(known) or 'none'}")
    return manifest


def surest_first(candidates: pd.DataFrame) -> pd.DataFrame:
    """Candidates, the most probable first, and those with a veto last."""
    order = candidates.assign(_vetoed=candidates["veto"] != "", _size=candidates["snr"].abs())
    order = order.sort_values(
        ["_vetoed", "probability", "_size"], ascending=[True, False, False], na_position="last", kind="stable"
    )
    return order.drop(columns=["_vetoed", "_size"]).reset_index(drop=True)


def in_groups(candidates: pd.DataFrame) -> pd.DataFrame:
    """All candidates, each group at the place of its first member.

    Returns
    -------
    DataFrame
        With ``n_in_group``, the number of members, and ``leads``, whether it is the first of them.
    """
    groups = candidates["group_id"].astype(object).where(candidates["group_id"].notna(), candidates["candidate_id"])
    place, _ = pd.factorize(groups)
    counted = candidates.assign(_place=place, n_in_group=groups.map(groups.value_counts()), leads=~groups.duplicated())
    return counted.sort_values("_place", kind="stable").drop(columns="_place").reset_index(drop=True)


def describe_group(candidate: pd.Series, candidates: pd.DataFrame) -> str:
    """How many candidates have the cause of this one, and the names of the others."""
    same = candidates["group_id"].eq(candidate["group_id"]).fillna(False).astype(bool)
    others = candidates[same & candidates["candidate_id"].ne(candidate["candidate_id"])]["candidate_id"]
    n = len(others) + 1
    return f"{n} candidate{'s: this, ' if n > 1 else ''}{', '.join(others)}"


@dataclass(frozen=True)
class Pictured:
    """Candidates that a report pictures: the best of the first ``top`` groups (of all if None), and those named."""

    top: int | None = N_PICTURED
    names: tuple[str, ...] = ()


FIRST_GROUPS = Pictured()


class RunFolder:
    """Read-only view of one output folder.

    Parameters
    ----------
    path : Path
        The folder given as ``--out`` to ``shutterless run`` or ``shutterless search``.
    choice : Pictured
    span : (str, str), optional
        UTC of the first and the last row of which candidates are shown; all if it is not given.
    """

    def __init__(self, path: Path, choice: Pictured = FIRST_GROUPS, span: tuple[str, str] | None = None) -> None:
        self.path, self.choice, self.span = Path(path), choice, span

    def table(self, *names: str) -> pd.DataFrame | None:
        """Return the first existing one of several Parquet files, by path within the folder."""
        for name in names:
            if (self.path / name).is_file():
                return pd.read_parquet(self.path / name)
        return None

    def text(self, *names: str) -> str | None:
        """Return the content of the first existing one of several text files."""
        for name in names:
            if (self.path / name).is_file():
                return (self.path / name).read_text(encoding="utf-8")
        return None

    @cached_property
    def frames(self) -> list[Path]:
        """Sorted paths of all frames of the run or the search that still exist."""
        found = list((self.path / "frames").rglob("*.fits*"))
        if not found and self.manifest is not None:
            found = [Path(source) for source in self.manifest["source"].dropna().unique() if Path(source).is_file()]
        return sorted(file for file in found if has_fits_name(file))

    @property
    def is_search(self) -> bool:
        """Whether the folder is that of a search, without training and evaluation."""
        return (self.path / "candidates.parquet").is_file()

    @property
    def is_evaluation(self) -> bool:
        """Whether the folder is that of ``evaluate``."""
        return (self.path / "summary.parquet").is_file() and (self.path / "eta.json").is_file()

    @property
    def is_sweep(self) -> bool:
        """Whether the folder is that of ``tune``."""
        return (self.path / "tune.parquet").is_file()

    @cached_property
    def manifest(self) -> pd.DataFrame | None:
        """Manifests of all stores joined, with the columns ``scene`` and ``folder`` (path of the entry)."""
        parts = []
        for file in sorted((self.path / "store").rglob(MANIFEST)):
            part = pd.read_parquet(file)
            scene = file.parent.relative_to(self.path / "store").as_posix()
            folders = [str(file.parent / entry) for entry in part["entry"]]
            parts.append(part.assign(scene="" if scene == "." else scene, folder=folders))
        return pd.concat(parts, ignore_index=True) if parts else None

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the search recorded of itself; empty without one."""
        text = self.text("search/search.json", "search.json")
        return {} if text is None else dict(json.loads(text))

    @cached_property
    def matches(self) -> pd.DataFrame | None:
        """True event of each candidate; None where no truth is known."""
        return self.table("search/matches.parquet", "matches.parquet")

    @cached_property
    def candidates(self) -> pd.DataFrame | None:
        """Candidates, the most probable first and vetoed ones last."""
        found = self.table("search/candidates.parquet", "candidates.parquet")
        if found is None:
            return None
        if self.span is not None:
            found = found[found["time_read_utc"].between(*self.span)]
        return surest_first(found.assign(veto=found["veto"].fillna(""), kind=found["kind"].fillna("unclassified")))

    @cached_property
    def listed(self) -> pd.DataFrame:
        """Candidates that a page lists, each group together, by their numbers from 1; without a search there are none.

        Returns
        -------
        DataFrame
            As `in_groups`, with ``anchor``, the place of the card on the page.
        """
        if self.candidates is None or self.candidates.empty:
            return pd.DataFrame(columns=["candidate_id", "leads", "veto", "anchor", "time_archive", "x", "y"])
        listed = in_groups(self.candidates)
        listed.index += 1
        listed = listed.assign(anchor=[f"candidate-{number}" for number in listed.index])
        return listed[(listed["leads"].cumsum() <= N_LISTED) | listed["candidate_id"].isin(self.choice.names)]

    @cached_property
    def vetoed(self) -> pd.DataFrame | None:
        """Loud triggers that a veto kept from being candidates, by their numbers from 1; None if none were recorded."""
        found = self.table("search/vetoed.parquet", "vetoed.parquet")
        if found is None:
            return None
        found.index = pd.RangeIndex(1, len(found) + 1)
        return found.assign(anchor=[f"vetoed-{number}" for number in found.index], kind=found["kind"].fillna(""))

    @cached_property
    def pictured(self) -> pd.DataFrame:
        """Candidates, and then vetoed triggers, that have a card, as `choice` says."""
        leaders = self.listed[self.listed["leads"].astype(bool)]
        chosen = leaders.index[: self.choice.top]
        parts = [self.listed[self.listed.index.isin(chosen) | self.listed["candidate_id"].isin(self.choice.names)]]
        if self.vetoed is not None and self.choice.names:
            parts.append(self.vetoed[self.vetoed["candidate_id"].isin(self.choice.names)])
        return pd.concat([part for part in parts if len(part)]) if any(map(len, parts)) else parts[0]

    @cached_property
    def shown_entry(self) -> Path | None:
        """Folder of the entry in pictures: that of the first candidate, or the first of the store."""
        if self.candidates is not None and len(self.candidates):
            folder = self.entry_of(self.candidates.iloc[0])
            if folder is not None and folder.is_dir():
                return folder
        if self.manifest is None or self.manifest.empty:
            return None
        return Path(self.manifest["folder"].iloc[0])

    def entry_of(self, candidate: pd.Series) -> Path | None:
        """Folder of a candidate's store entry."""
        if self.manifest is None:
            return None
        same = pd.Series(True, index=self.manifest.index)
        for column in _SAME_AMPLIFIER:
            wanted = candidate[column]
            same &= self.manifest[column].isna() if pd.isna(wanted) else self.manifest[column] == wanted
        folders = self.manifest.loc[same.fillna(False).astype(bool), "folder"]
        return Path(folders.iloc[0]) if len(folders) else None

    def open_entry(self, folder: Path) -> Amplifier:
        """Open the calibrated amplifier in an entry folder."""
        return open_amplifier(folder.parent, folder.name)

"""Line up the candidates that a person vets: one of each group, the surest first, injected events among them."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.pipeline.results.labels import PLACE_COLUMNS_OF_LABELS
from shutterless.workflows.pages.run_folder import RunFolder, in_groups, surest_first
from shutterless.workflows.searching.search import RECORD
from shutterless.workflows.vetting.blind import BlindTest, VetError


@dataclass(frozen=True)
class QueuedCandidate:
    """A candidate, the folder with its pixels, and what a label says of it beside the label."""

    candidate: pd.Series
    run: RunFolder
    place: dict[str, Any]

    @property
    def name(self) -> str:
        """Its ``candidate_id``."""
        return str(self.candidate["candidate_id"])


def line_up(search: Path, blind: BlindTest | None = None, only: Collection[str] | None = None) -> list[QueuedCandidate]:
    """Candidates of a search in the order in which they are vetted.

    Parameters
    ----------
    search : Path
    blind : BlindTest, optional
        Its events stand among the others, where their own numbers put them.
    only : collection of str, optional
        Names of the candidates or vetoed triggers to vet, as far as they are of this search; without them the first of
        every group.

    Raises
    ------
    VetError
        If the folder holds no search, or there is no candidate.
    """
    run = RunFolder(search)
    if not (Path(search) / RECORD).is_file() or run.candidates is None:
        raise VetError(f"{search} holds no finished search: {RECORD} is missing; name a folder of `shutterless search`")
    found = in_groups(run.candidates).assign(injected=False)
    if only is None:
        chosen = found[found["leads"].astype(bool)]
    else:
        vetoed = [] if run.vetoed is None else [run.vetoed.assign(injected=False)]
        known = pd.concat([found, *vetoed])
        chosen = known[known["candidate_id"].isin(list(only))]
    if blind is not None and only is None:
        assert blind.run.candidates is not None
        copies = in_groups(blind.run.candidates).assign(injected=True)
        chosen = pd.concat([chosen, copies[copies["candidate_id"].isin(blind.truth["candidate_id"])]])
    if chosen.empty:
        raise VetError(f"the search {search} has no candidate{'' if only is None else ' of those named'} to vet")
    # of equal numbers the name decides, not where a candidate comes from
    ordered = surest_first(chosen.sort_values("candidate_id", kind="stable"))
    files = run.record["files"]
    return [
        QueuedCandidate(
            row.drop("injected"),
            blind.run if blind is not None and row["injected"] else run,
            {name: row.get(name) for name in PLACE_COLUMNS_OF_LABELS} | {"path": files.get(row["file"], row["file"])},
        )
        for _, row in ordered.iterrows()
    ]


def read_names(path: Path) -> list[str]:
    """Names of candidates in the column ``candidate_id`` of a CSV file.

    Raises
    ------
    VetError
        If there is no such column, or nothing in it.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if "candidate_id" not in (reader.fieldnames or ()):
            raise VetError(f"{path} lacks the column candidate_id; its first line holds {reader.fieldnames}")
        names = list(dict.fromkeys(row["candidate_id"] for row in reader if row["candidate_id"]))
    if not names:
        raise VetError(f"{path} names no candidate")
    return names

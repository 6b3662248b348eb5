"""Read what a finished search found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.workflows.searching.search import AMPLIFIERS, RECORD


class NoSearchError(ValueError):
    """A folder that holds no finished search."""


class SearchedTwiceError(ValueError):
    """A frame of which two searches tell."""


@dataclass(frozen=True)
class FinishedSearch:
    """Folder of a search, its record (`RECORD`), its candidates, and the amplifiers that it searched."""

    folder: Path
    record: dict[str, Any]
    candidates: pd.DataFrame
    amplifiers: pd.DataFrame

    def by_file(self) -> pd.DataFrame:
        """Amplifiers with a row for each of their files, named in ``file``."""
        files = self.amplifiers["files"].str.split(", ")
        return self.amplifiers.assign(file=files).explode("file", ignore_index=True)


def read_finished(folder: Path) -> FinishedSearch:
    """Read the folder of a search.

    Raises
    ------
    NoSearchError
        If it holds no finished search.
    """
    folder = Path(folder)
    record, table = folder / RECORD, folder / "candidates.parquet"
    if not (record.is_file() and table.is_file()):
        raise NoSearchError(
            f"{folder} holds no finished search: {RECORD} is missing; name a folder of `shutterless search`"
        )
    about = json.loads(record.read_text(encoding="utf-8"))
    return FinishedSearch(folder, about, pd.read_parquet(table), pd.read_parquet(folder / AMPLIFIERS))


def check_apart(searches: Sequence[FinishedSearch]) -> None:
    """Refuse searches that share a frame: what it holds would count twice.

    Raises
    ------
    SearchedTwiceError
        With both folders and the file.
    """
    seen: dict[tuple[str, int], Path] = {}
    for search in searches:
        own = search.by_file()[["file", "quadrant"]].drop_duplicates()
        for file, quadrant in own.itertuples(index=False):
            key = search.record["files"].get(file, file), -1 if pd.isna(quadrant) else int(quadrant)
            if key in seen:
                raise SearchedTwiceError(
                    f"{seen[key]} and {search.folder} both searched {key[0]}: name each frame once"
                )
            seen[key] = search.folder

"""Read what a finished search found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.workflows.searching.search import AMPLIFIERS, RECORD


class NoSearchError(ValueError):
    """A folder that holds no finished search."""


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

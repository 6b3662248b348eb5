"""Write the candidates of a search for other programs and people: `shutterless export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from shutterless.pipeline.files import written_whole
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.export.alerts import write_alerts
from shutterless.workflows.export.cut_outs import cut_all
from shutterless.workflows.export.errors import ExportError
from shutterless.workflows.export.finder import write_finder
from shutterless.workflows.export.region_files import write_region_files
from shutterless.workflows.export.votable import write_votable
from shutterless.workflows.pages.run_folder import N_PICTURED
from shutterless.workflows.searching.found import FinishedSearch, read_finished

USUAL_FORMATS = ("votable", "regions", "csv")


@dataclass(frozen=True, eq=False)
class ExportRequest:
    """What is exported, and how.

    Parameters
    ----------
    search : FinishedSearch
    candidates : DataFrame
        Those of the search that are exported.
    out : Path
    executor : Executor
    catalogue : Path or None
        For the finder page; the one of the search if None.
    top : int
        Candidates on the finder page.
    """

    search: FinishedSearch
    candidates: pd.DataFrame
    out: Path
    executor: Executor
    catalogue: Path | None = None
    top: int = N_PICTURED


def export_search(
    folder: Path, out: Path, formats: Sequence[str], executor: Executor, *, names: Sequence[str] = (),
    catalogue: Path | None = None, top: int = N_PICTURED,
) -> list[str]:  # fmt: skip
    """Write the candidates of a search in some formats.

    Parameters
    ----------
    folder : Path
        Of `shutterless search` or `watch`.
    out : Path
    formats : sequence of str
        Of `EXPORT_FORMATS`.
    executor : Executor
        Cuts the strips of alerts.
    names : sequence of str
        Candidates; all if none are given.
    catalogue, top
        As `ExportRequest`.

    Returns
    -------
    list of str
        One line for each format: what was written, and where.

    Raises
    ------
    ExportError
        If a format or candidate is not known, a package is not installed, or what a format needs is not there.
    NoSearchError
        If the folder holds no finished search.
    """
    unknown = [name for name in formats if name not in EXPORT_FORMATS]
    if unknown:
        raise ExportError(f"--format {unknown[0]}: there are {', '.join(EXPORT_FORMATS)}")
    search = read_finished(folder)
    every = search.candidates
    missing = [name for name in names if name not in set(every["candidate_id"])]
    if missing:
        raise ExportError(f"{folder} has no candidate {missing[0]!r}; candidates.parquet lists the names")
    chosen = every[every["candidate_id"].isin(names)] if names else every
    out.mkdir(parents=True, exist_ok=True)
    request = ExportRequest(search, chosen, out, executor, catalogue, top)
    return [f"{name}: {EXPORT_FORMATS[name](request)}" for name in dict.fromkeys(formats)]


def _export_votable(request: ExportRequest) -> str:
    path = request.out / "candidates.vot"
    write_votable(request.candidates, path)
    return str(path)


def _export_csv(request: ExportRequest) -> str:
    path = request.out / "candidates.csv"
    with written_whole(path) as partial:
        request.candidates.to_csv(partial, index=False)
    return str(path)


def _export_regions(request: ExportRequest) -> str:
    folder = request.out / "regions"
    return f"{len(write_region_files(request.candidates, folder))} files in {folder}"


def _export_alerts(request: ExportRequest) -> str:
    folder, record = request.out / "alerts", request.search.record
    cut = cut_all(request.candidates, record["instrument"], record["supplied"], request.executor)
    return f"{len(write_alerts(cut, request.search.candidates, folder))} files in {folder}"


def _export_finder(request: ExportRequest) -> str:
    path = request.out / "finder.html"
    write_finder(request.candidates, path, request.catalogue or request.search.record["catalogue"], request.top)
    return str(path)


EXPORT_FORMATS: dict[str, Callable[[ExportRequest], str]] = {
    "votable": _export_votable,
    "regions": _export_regions,
    "csv": _export_csv,
    "finder": _export_finder,
    "alerts": _export_alerts,
}

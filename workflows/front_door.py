"""The functions of ``import shutterless``: what the commands do, with few arguments and results in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shutterless.workflows.execution.cluster import open_executor

if TYPE_CHECKING:
    from shutterless.models.inputs import DetectorModel
    from shutterless.pipeline.reading.cubes import Cube
    from shutterless.pipeline.reading.frames import Frame
    from shutterless.workflows.frames.lightcurve import LightCurveResult
    from shutterless.workflows.searching.search import SearchResult


def read_frame(
    path: str | Path,
    quadrant: int | None = 1,
    *,
    instrument: str | None = None,
    header: Mapping[str, str] | None = None,
) -> Frame | Cube:
    """Read one amplifier of a frame in read order, or an image cube.

    Parameters
    ----------
    path : path
        ``.fits``, ``.fits.gz`` or ``.fits.fz``.
    quadrant : int or None
        From 1; None for a cube.
    instrument : str, optional
        Profile name or TOML file; recognised from the header when left out.
    header : mapping, optional
        Header values that replace or complete those of the file.

    Returns
    -------
    Frame or Cube
        A frame has ``pixels_adu`` (t, x), ``overscan_adu`` and ``readout``, which turns rows into UTC.

    Raises
    ------
    FrameError, ProfileError
        As `shutterless.pipeline.reading.exposures.read_exposure`.
    """
    from shutterless.pipeline.reading.exposures import read_exposure

    return read_exposure(path, quadrant, instrument, header)


def search(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    false_alarms_per_hour: float | None = None,
    catalogue: str | Path | None = None,
    instrument: str | None = None,
    header: Mapping[str, str] | None = None,
    workers: int | None = None,
    resume: bool = False,
) -> SearchResult:
    """Search frames or image cubes, as ``shutterless search`` does.

    Parameters
    ----------
    files : sequence of path
    out : path
        Folder for the tables.
    model : str or path, optional
        A folder, ``models:/NAME@ALIAS``, ``bundled`` or ``template-bank``; the bundled one when left out.
    false_alarms_per_hour : float, optional
        Per amplifier-hour; that of the settings when left out.
    catalogue : path, optional
        Stars that make times exact.
    instrument, header
        As `read_frame`.
    workers : int, optional
        Processes of Dask; everything runs in this process when left out.
    resume : bool
        Keep what an interrupted search in this folder has finished.

    Returns
    -------
    SearchResult
        ``candidates`` is the table (`docs/reference/formats.md`), ``failures`` lists what could not be read.

    Raises
    ------
    CatalogueError, IngestError, SearchError
        As `shutterless.workflows.searching.search.search_files`.
    """
    from shutterless.workflows.searching.search import search_files
    from shutterless.workflows.settings.settings import load_settings

    wanted = [] if false_alarms_per_hour is None else [f"search.false_alarms_per_hour={false_alarms_per_hour}"]
    settings = load_settings(None, wanted).search
    with open_executor(workers, no_dask=workers is None) as executor:
        return search_files(
            files, reference=None if model is None else str(model), out=Path(out), settings=settings,
            catalogue=catalogue, instrument=instrument, supplied=header, executor=executor, resume=resume,
        )  # fmt: skip


def load_model(reference: str | Path = "bundled-transformer") -> DetectorModel:
    """Load a network that scores strips.

    Parameters
    ----------
    reference : str or path
        A folder, ``models:/NAME@ALIAS``, a run id or ``bundled-transformer``.

    Raises
    ------
    ModelError
        If it is no transformer, CNN or MLP, such as the forest in ``bundled``.
    TrackingError
        If nothing is found there.
    """
    from shutterless.models.families import ModelError
    from shutterless.models.families import load_model as load_folder
    from shutterless.workflows.tracking.tracking import resolve_model

    folder = resolve_model(reference)
    if folder is None:
        raise ModelError(f"{reference} has no weights to load; `search` takes it by its name")
    return load_folder(folder)


def light_curves(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    x: float | None = None,
    catalogue: str | Path | None = None,
    bin_rows: int = 1,
    instrument: str | None = None,
    header: Mapping[str, str] | None = None,
    workers: int | None = None,
) -> LightCurveResult:
    """Measure the light curves of all stars, or of the star at one column, as ``shutterless lightcurve`` does.

    Parameters
    ----------
    files : sequence of path
    out : path
        Folder for the tables.
    x : float, optional
        Column in read order.
    catalogue : path, optional
        Names and magnitudes of stars.
    bin_rows : int
        Rows averaged.
    instrument, header, workers
        As `search`.

    Returns
    -------
    LightCurveResult
        Its ``paths`` are Parquet files: ``pandas.read_parquet``.

    Raises
    ------
    CatalogueError, LightCurveError
        As `shutterless.workflows.frames.lightcurve.write_light_curves`.
    """
    from shutterless.workflows.frames.lightcurve import write_light_curves

    with open_executor(workers, no_dask=workers is None) as executor:
        return write_light_curves(
            files, out, x=x, catalogue=catalogue, bin_rows=bin_rows, instrument=instrument, supplied=header,
            executor=executor,
        )  # fmt: skip


def report(folder: str | Path) -> Path:
    """Write the HTML report of a run, a search or a store, and return its path.

    Raises
    ------
    ReportError
        If the folder holds nothing to report.
    """
    from shutterless.workflows.report.report import write_report

    return write_report(Path(folder))

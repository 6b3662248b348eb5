"""Cut strips and light curves of candidates from their files, as FITS in gzip: what an alert carries."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from astropy.io import fits
from astropy.table import QTable

from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.report.candidate_files import cut_candidate
from shutterless.workflows.report.cube_entry import CubeEntry


@dataclass(frozen=True)
class CutOuts:
    """FITS files in gzip: pixels around a candidate, and its light curve."""

    strip: bytes
    light_curve: bytes


@dataclass(frozen=True, eq=False)
class CutTask:
    """Candidates of one amplifier of one file, and how the file is read, as for a search."""

    path: Path
    candidates: pd.DataFrame
    instrument: str | None
    supplied: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class CutAmplifier:
    """Candidates of one amplifier with their cut-outs, or the reason why there are none."""

    candidates: pd.DataFrame
    cut_outs: Mapping[str, CutOuts]
    reason: str = ""


def cut_all(
    candidates: pd.DataFrame, instrument: str | None, supplied: Mapping[str, str], executor: Executor
) -> Iterator[CutAmplifier]:
    """Calibrate again the amplifiers of some candidates, since a search keeps no pixels, and cut their strips.

    Parameters
    ----------
    candidates : DataFrame
    instrument, supplied
        As the search was given them.
    executor : Executor

    Yields
    ------
    CutAmplifier
        One for each amplifier of each file. A file that can no longer be read is a reason, and no error.
    """
    groups = candidates.groupby(["path", "ccd", "quadrant"], sort=False, dropna=False)
    tasks = [CutTask(Path(path), here, instrument, supplied) for (path, *_), here in groups]
    for outcome in executor.map(cut_amplifier, tasks, describe="cutting strips"):
        yield CutAmplifier(outcome.item.candidates, outcome.value or {}, outcome.error or "")


def cut_amplifier(task: CutTask) -> dict[str, CutOuts]:
    """Cut-outs of the candidates of one amplifier by their names; nothing else is left behind."""
    quadrant = task.candidates["quadrant"].iloc[0]
    number = None if pd.isna(quadrant) else int(quadrant)
    with tempfile.TemporaryDirectory() as store:
        row = ingest_amplifier(task.path, number, store, instrument=task.instrument, supplied=task.supplied)
        entry = Path(store) / row["entry"]
        calibrated = CubeEntry(entry) if number is None else open_amplifier(entry.parent, entry.name)
        return {
            str(candidate["candidate_id"]): _pack(*cut_candidate(calibrated, candidate))
            for _, candidate in task.candidates.iterrows()
        }


def _pack(images: fits.HDUList, curve: QTable) -> CutOuts:
    table = QTable(curve, copy=False)
    table.meta.clear()  # names too long for a card; the alert has them
    for name in ("light", "light_error"):
        table[f"{name}_e"] = table[name].value  # FITS has no unit for electrons
        table.remove_column(name)
    return CutOuts(_zip(images), _zip(fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table)])))


def _zip(hdus: fits.HDUList) -> bytes:
    """FITS file in gzip, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    return gzip.compress(buffer.getvalue(), mtime=0)

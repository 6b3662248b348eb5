"""Ingest one amplifier of one file: read, calibrate, write to the store. Idempotent; an entry is whole or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shutterless.pipeline.calibration.exposure import calibrate_exposure, exposure_shape
from shutterless.pipeline.reading.exposures import read_exposure, read_info
from shutterless.pipeline.reading.fits_files import frame_stem
from shutterless.pipeline.reading.instruments import describe_instrument
from shutterless.pipeline.reading.segments import SegmentRows, cut_file
from shutterless.pipeline.store.long_entries import write_long_entry
from shutterless.pipeline.store.store import MANIFEST_COLUMNS, EntryWriter, entry_name, read_entry


def ingest_amplifier(
    path: str | Path,
    quadrant: int | None,
    store: str | Path,
    *,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Calibrate one amplifier of one file into a store.

    Parameters
    ----------
    path : path
        FITS file.
    quadrant : int or None
        Amplifier, from 1; None for an image cube.
    store : path
        Folder of the store; made if absent.
    instrument : str, optional
        Profile name or TOML path.
    supplied : mapping of str to str, optional
        Header values given by the user.
    resume : bool
        Keep a finished entry from the same file and settings.

    Returns
    -------
    dict
        The entry's row of the manifest.

    Raises
    ------
    FrameError
        If the file or amplifier cannot be read.
    """
    path, store = Path(path), Path(store)
    info = read_info(path, instrument, supplied)
    readout = info.readouts.get(quadrant)
    name = entry_name(frame_stem(path), readout.ccd if readout else None, quadrant)
    origin = _origin(path, quadrant, instrument, supplied)
    finished = read_entry(store, name) if resume else None
    if finished is not None and finished["origin"] == origin:
        return _manifest_row(name, finished)
    rows = None if quadrant is None or readout is None else SegmentRows.of(readout, info.n_columns)
    if quadrant is not None and rows is not None and info.n_rows > rows.longest:
        with EntryWriter(store, name, n_columns=info.n_columns, n_rows=info.n_rows) as writer:
            segments = cut_file(path, quadrant, info.n_rows, rows)
            return _manifest_row(name, write_long_entry(segments, writer, origin, instrument, supplied))
    exposure = read_exposure(path, quadrant, instrument, supplied)
    n_y, n_columns, n_rows = exposure_shape(exposure)
    with EntryWriter(store, name, n_y=n_y, n_columns=n_columns, n_rows=n_rows) as writer:
        calibrated = calibrate_exposure(exposure, writer.residual)
        description = {**calibrated.description, "origin": origin}
        return _manifest_row(name, writer.finish(calibrated.arrays, calibrated.streaks, description))


def _origin(path: Path, quadrant: int | None, instrument: str | None, supplied: Mapping[str, str] | None) -> str:
    """Fingerprint of an entry's source: the file's bytes at both ends, its size, settings and version."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(path.stat().st_size - (1 << 20), 0))
        digest.update(file.read())
    settings = [path.stat().st_size, path.stat().st_mtime_ns, quadrant, dict(supplied or {}), version("shutterless")]
    digest.update(json.dumps([*settings, describe_instrument(instrument)], sort_keys=True).encode())
    return digest.hexdigest()


def _manifest_row(name: str, description: Mapping[str, Any]) -> dict[str, Any]:
    readout = description["readout"]
    return {column: description.get(column, readout.get(column)) for column in MANIFEST_COLUMNS} | {"entry": name}

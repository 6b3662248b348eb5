"""Read and write calibrated amplifiers on disk, time-major, and the manifest that lists the finished ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import ROW_TIMES, Amplifier, build_amplifier
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.files import hash_file, partial_path, replace_folder, write_parquet
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.settings import Count, CountFrom0, Positive, settings_class
from shutterless.pipeline.stored_files import ColumnKind, map_array, read_array, read_json, read_parquet
from shutterless.pipeline.tokens import TokenGrid

STORE_VERSION = 2
MANIFEST = "manifest.parquet"
ENTRY = "entry.json"
MANIFEST_COLUMNS = (
    "entry",
    "file",
    "ccd",
    "quadrant",
    "n_rows",
    "n_y",
    "n_columns",
    "first_row",
    "row_rate_hz",
    "live_pixel_rows",
    "pixel_rows_per_hour",
    "sequence",
    "band",
    "instrument",
    "psf_sigma_px",
    "n_streaks",
    "noise",
    "source",
    "content_hash",
)


_TEXT_COLUMNS = ("entry", "file", "content_hash", "sequence", "band", "instrument", "source")
_COLUMN_KINDS: dict[str, ColumnKind] = {
    name: "text" if name in _TEXT_COLUMNS else "number" for name in MANIFEST_COLUMNS
}
_STAR_NUMBERS = ("y", "streak_id", "flux_e_row", "flux_e_s", "mag", "y0")
_STREAK_COLUMNS: dict[str, ColumnKind] = dict.fromkeys(("x", *_STAR_NUMBERS), "number")
_ARRAY_AXES = {"baseline_e": 3, "sigma_e": 3, "row_residual": 1, ROW_TIMES: 2}
_NEEDED_ARRAYS = ("baseline_e", "sigma_e", "row_residual")


class StoreError(ValueError):
    """A store that is missing, unfinished, damaged or of another version."""


@settings_class(StoreError)
class _EntryNumbers:
    """What an entry's description must hold, beside its readout."""

    file: str
    psf_sigma_px: Positive
    live_pixel_rows: CountFrom0
    block_rows: Count = BLOCK_ROWS
    smear_rows: Positive | None = None
    pixel_rows_per_hour: Positive | None = None


def entry_name(stem: str, ccd: int | None, quadrant: int | None) -> str:
    """Folder of an amplifier in a store."""
    return f"{stem}_c{ccd or 0:02d}_q{quadrant or 0}"


class EntryWriter:
    """Write one amplifier beside its final place, and move it there when it is complete.

    Use as a context manager; an exception removes the files written.

    Parameters
    ----------
    store : Path
    name : str
        Folder of the entry.
    n_columns, n_rows, n_y : int
    """

    def __init__(self, store: Path, name: str, *, n_columns: int, n_rows: int, n_y: int = 1) -> None:
        self.final = Path(store) / name
        self.folder = partial_path(self.final)
        self._shape = (n_y, n_columns, n_rows)

    def __enter__(self) -> EntryWriter:
        self.folder.mkdir(parents=True)
        path = self.folder / "residual.npy"
        self.residual = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=self._shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later, in the map, it would kill the process
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return self

    def write_rows(self, start: int, rows: np.ndarray) -> None:
        """Write some rows (y, x, t) of the residual by file operations; pages of the map would count as memory in use.

        Parameters
        ----------
        start : int
            Row of the entry at which they begin.
        rows : ndarray of float16
        """
        n_rows = self._shape[2]
        with (self.folder / "residual.npy").open("r+b", buffering=0) as file:
            for line, values in enumerate(rows.reshape(-1, rows.shape[2])):
                file.seek(self.residual.offset + (line * n_rows + start) * rows.itemsize)
                file.write(np.ascontiguousarray(values).data)

    def finish(
        self, arrays: Mapping[str, np.ndarray], streaks: pd.DataFrame, description: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the other files of the entry, hash all contents and move the entry into place.

        Returns
        -------
        dict
            The entry's description with its ``content_hash``.
        """
        self.residual.flush()
        offset = self.residual.offset
        del self.residual
        digest = hash_file(self.folder / "residual.npy", offset)
        for name, array in arrays.items():
            np.save(self.folder / f"{name}.npy", array)
            digest.update(np.ascontiguousarray(array).data)
        streaks.to_parquet(self.folder / "streaks.parquet")
        digest.update(streaks.to_json(double_precision=12).encode())
        whole = {**description, "store_version": STORE_VERSION, "content_hash": digest.hexdigest()}
        (self.folder / ENTRY).write_text(json.dumps(whole, indent=1))
        replace_folder(self.folder, self.final)
        return whole

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def read_entry(store: Path, name: str) -> dict[str, Any] | None:
    """Return the description of a finished entry, None if there is none of this version.

    Raises
    ------
    StoreError
        If the name leads out of the store.
    StoredFileError
        If the description is damaged.
    """
    path = Path(store) / _check_name(name) / ENTRY
    if not path.is_file():
        return None
    description = read_json(path)
    return description if description.get("store_version") == STORE_VERSION else None


def _check_name(name: str) -> str:
    """Name of an entry; a manifest is data, and must not lead to folders elsewhere."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise StoreError(f"{name!r} is not the name of an entry: it would lead out of the store")
    return name


def open_amplifier(store: str | Path, name: str) -> Amplifier:
    """Open a finished entry.

    Raises
    ------
    StoreError
        If the entry is absent, of another version, or its parts do not fit each other.
    StoredFileError
        If one of its files is damaged.
    """
    folder = Path(store) / _check_name(name)
    description = read_entry(Path(store), name)
    if description is None:
        raise StoreError(f"store {store} has no finished entry {name!r} of version {STORE_VERSION}; ingest it again")
    paths = {array: folder / f"{array}.npy" for array in _ARRAY_AXES}
    needed = [folder / "residual.npy", folder / "streaks.parquet", *(paths[array] for array in _NEEDED_ARRAYS)]
    if absent := [path for path in needed if not path.is_file()]:
        raise StoreError(f"{absent[0]} is missing; ingest the entry again")
    arrays = {array: read_array(path, "f", _ARRAY_AXES[array]) for array, path in paths.items() if path.is_file()}
    residual = map_array(folder / "residual.npy", "f", 3)
    streaks = read_parquet(folder / "streaks.parquet", _STREAK_COLUMNS, _STAR_NUMBERS)
    _check_entry(folder, description, residual, arrays)
    return build_amplifier(name, description, residual, arrays, streaks)


def _check_entry(
    folder: Path, description: Mapping[str, Any], residual: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> None:
    """Refuse an entry whose description or shapes contradict each other."""
    try:
        known = {field.name for field in fields(_EntryNumbers)}
        numbers = _EntryNumbers(**{key: value for key, value in description.items() if key in known})
        Readout.from_dict(dict(description["readout"]))
        TokenGrid(**description.get("token_grid", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder / ENTRY} is not that of an entry: {error}; ingest it again") from error
    n_y, n_columns, n_rows = residual.shape
    blocks = (n_y, n_columns, -(-n_rows // numbers.block_rows))
    wanted = {"baseline_e": blocks, "sigma_e": blocks, "row_residual": (n_rows,), ROW_TIMES: (2, n_rows)}
    for name, array in arrays.items():
        if array.shape != wanted[name] or not array.size:
            raise StoreError(
                f"{folder / name}.npy has shape {array.shape}, a residual of {residual.shape} needs {wanted[name]}; "
                "ingest the entry again"
            )


def write_manifest(store: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write the manifest of a store, atomically and last.

    Parameters
    ----------
    store : path
    rows : iterable of mapping
        Return values of `shutterless.pipeline.store.ingest.ingest_amplifier`, one per entry.
    """
    path = Path(store) / MANIFEST
    table = pd.DataFrame(list(rows), columns=list(MANIFEST_COLUMNS))
    table = table.astype({"ccd": "Int64", "quadrant": "Int64", "first_row": "Int64"})
    write_parquet(table.sort_values("entry", ignore_index=True), path)
    return path


def read_manifest(store: str | Path) -> pd.DataFrame:
    """Read the manifest of a finished store.

    Raises
    ------
    StoreError
        If there is none (the ingest has not finished), or an entry leads out of the store.
    StoredFileError
        If it is damaged or of another version.
    """
    path = Path(store) / MANIFEST
    if not path.is_file():
        raise StoreError(
            f"{store} is not a finished store: {MANIFEST} is missing; run `shutterless ingest --out {store} --resume`"
        )
    manifest = read_parquet(path, _COLUMN_KINDS)
    for name in manifest["entry"]:
        _check_name(str(name))
    return manifest


def live_hours(manifest: pd.DataFrame) -> pd.Series:
    """Amplifier-hours of the unmasked pixels of every row of a manifest, or of a table with its columns."""
    return manifest["live_pixel_rows"] / manifest["pixel_rows_per_hour"]


def manifest_hash(manifest: pd.DataFrame) -> str:
    """Hash of the names and contents of all entries of a store."""
    lines = sorted(f"{row.entry} {row.content_hash}" for row in manifest.itertuples())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

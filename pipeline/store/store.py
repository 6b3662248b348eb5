"""Read and write calibrated amplifiers on disk, time-major, and the manifest that lists the finished ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import ROW_TIMES, Amplifier, build_amplifier
from shutterless.pipeline.files import hash_file, partial_path, replace_folder, write_parquet

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


class StoreError(ValueError):
    """A store that is missing, unfinished or of another version."""


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
    """Return the description of a finished entry, None if there is none of this version."""
    path = Path(store) / name / ENTRY
    if not path.is_file():
        return None
    description = json.loads(path.read_text())
    return description if description.get("store_version") == STORE_VERSION else None


def open_amplifier(store: str | Path, name: str) -> Amplifier:
    """Open a finished entry.

    Raises
    ------
    StoreError
        If the entry is absent or of another version.
    """
    folder = Path(store) / name
    description = read_entry(Path(store), name)
    if description is None:
        raise StoreError(f"store {store} has no finished entry {name!r} of version {STORE_VERSION}; ingest it again")
    names = ("baseline_e", "sigma_e", "row_residual", ROW_TIMES)
    arrays = {name: np.load(folder / f"{name}.npy") for name in names if (folder / f"{name}.npy").is_file()}
    residual = np.load(folder / "residual.npy", mmap_mode="r")
    return build_amplifier(name, description, residual, arrays, pd.read_parquet(folder / "streaks.parquet"))


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
        If there is none: the ingest has not finished.
    """
    path = Path(store) / MANIFEST
    if not path.is_file():
        raise StoreError(
            f"{store} is not a finished store: {MANIFEST} is missing; run `shutterless ingest --out {store} --resume`"
        )
    return pd.read_parquet(path)


def live_hours(manifest: pd.DataFrame) -> pd.Series:
    """Amplifier-hours of the unmasked pixels of every row of a manifest, or of a table with its columns."""
    return manifest["live_pixel_rows"] / manifest["pixel_rows_per_hour"]


def manifest_hash(manifest: pd.DataFrame) -> str:
    """Hash of the names and contents of all entries of a store."""
    lines = sorted(f"{row.entry} {row.content_hash}" for row in manifest.itertuples())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

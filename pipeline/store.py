"""Calibrated amplifiers on disk, time-major, and the manifest that names the finished ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.levels import BLOCK_ROWS, interpolate_blocks
from shutterless.pipeline.readout import Readout

STORE_VERSION = 1
MANIFEST = "manifest.parquet"
ENTRY = "entry.json"
MANIFEST_COLUMNS = (
    "entry",
    "file",
    "ccd",
    "quadrant",
    "n_rows",
    "n_columns",
    "first_row",
    "row_rate_hz",
    "live_pixel_rows",
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


@dataclass(frozen=True)
class Amplifier:
    """One calibrated amplifier of one file, opened from a store.

    Parameters
    ----------
    residual : ndarray of float16, shape (y, x, t)
        Residual in units of σ, memory-mapped; NaN where masked. ``y`` is 1 for continuous readout.
    baseline_e, sigma_e : ndarray of float32, shape (y, x, b)
        Baseline and noise (electrons per pixel) at the centres of blocks of `BLOCK_ROWS` rows.
    row_residual : ndarray of float32, shape (t,)
        What all columns of a row shared, in units of the median σ; already taken off ``residual``.
    streaks : DataFrame
    readout : Readout
    file, entry : str
        Name of the FITS file, and of the folder in the store.
    psf_sigma_px : float
    live_pixel_rows : int
        Unmasked pixels.
    sky_e, sky_sigma_e : float
        Median baseline and noise of the whole amplifier (electrons per pixel).
    """

    residual: np.ndarray
    baseline_e: np.ndarray
    sigma_e: np.ndarray
    row_residual: np.ndarray
    streaks: pd.DataFrame
    readout: Readout
    file: str
    entry: str
    psf_sigma_px: float
    live_pixel_rows: int
    sky_e: float
    sky_sigma_e: float

    @property
    def n_rows(self) -> int:
        """Rows (length of the time axis)."""
        return self.residual.shape[2]

    @property
    def n_columns(self) -> int:
        """Columns."""
        return self.residual.shape[1]

    @cached_property
    def live_hours(self) -> float:
        """Amplifier-hours of unmasked pixels: pixel-rows / (columns × row rate × 3600)."""
        return self.live_pixel_rows / (self.n_columns * self.readout.row_rate_hz * 3600)

    def sigma_rows(self, columns: slice, start: int, stop: int) -> np.ndarray:
        """Noise of some columns in rows ``start..stop`` (electrons), shape (x, t)."""
        return interpolate_blocks(self.sigma_e[0, columns].T, start, stop).T


def entry_name(stem: str, ccd: int | None, quadrant: int | None) -> str:
    """Folder of an amplifier in a store."""
    return f"{stem}_c{ccd or 0:02d}_q{quadrant or 0}"


class EntryWriter:
    """Write one amplifier next to its final place and move it there only when whole.

    Use as a context manager; leaving it by an exception removes what was written.

    Parameters
    ----------
    store : Path
    name : str
        Folder of the entry.
    n_columns, n_rows : int
    """

    def __init__(self, store: Path, name: str, *, n_columns: int, n_rows: int) -> None:
        self.final = Path(store) / name
        self.folder = Path(store) / f".{name}.{uuid.uuid4().hex[:8]}.partial"
        self._shape = (1, n_columns, n_rows)

    def __enter__(self) -> EntryWriter:
        self.folder.mkdir(parents=True)
        path = self.folder / "residual.npy"
        self.residual = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=self._shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later, in the map, it would kill the process
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return self

    def finish(
        self, arrays: Mapping[str, np.ndarray], streaks: pd.DataFrame, description: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write what goes with the residual, hash everything and move the entry to its place.

        Returns
        -------
        dict
            The entry's description with its ``content_hash``.
        """
        self.residual.flush()
        digest = hashlib.blake2b(self.residual.data, digest_size=16)
        del self.residual
        for name, array in arrays.items():
            np.save(self.folder / f"{name}.npy", array)
            digest.update(np.ascontiguousarray(array).data)
        streaks.to_parquet(self.folder / "streaks.parquet")
        digest.update(streaks.to_json(double_precision=12).encode())
        whole = {**description, "store_version": STORE_VERSION, "content_hash": digest.hexdigest()}
        (self.folder / ENTRY).write_text(json.dumps(whole, indent=1))
        if self.final.exists():
            shutil.rmtree(self.final)
        self.folder.replace(self.final)
        return whole

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def read_entry(store: Path, name: str) -> dict[str, Any] | None:
    """Return the description of a finished entry, None where there is none of this version."""
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
    baseline_e, sigma_e = np.load(folder / "baseline_e.npy"), np.load(folder / "sigma_e.npy")
    return Amplifier(
        residual=np.load(folder / "residual.npy", mmap_mode="r"),
        baseline_e=baseline_e,
        sigma_e=sigma_e,
        row_residual=np.load(folder / "row_residual.npy"),
        streaks=pd.read_parquet(folder / "streaks.parquet"),
        readout=Readout.from_dict(description["readout"]),
        file=description["file"],
        entry=name,
        psf_sigma_px=description["psf_sigma_px"],
        live_pixel_rows=description["live_pixel_rows"],
        sky_e=float(np.median(baseline_e)),
        sky_sigma_e=float(np.median(sigma_e)),
    )


def write_manifest(store: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write the manifest of a store, atomically and last.

    Parameters
    ----------
    store : path
    rows : iterable of mapping
        What `shutterless.pipeline.ingest.ingest_amplifier` returned, one per entry.
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


def manifest_hash(manifest: pd.DataFrame) -> str:
    """Hash of everything in a store: its entries' names and contents."""
    lines = sorted(f"{row.entry} {row.content_hash}" for row in manifest.itertuples())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a Parquet file under another name and move it into place, so that none is ever half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        table.to_parquet(partial, index=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


__all__ = [
    "BLOCK_ROWS",
    "Amplifier",
    "EntryWriter",
    "StoreError",
    "entry_name",
    "manifest_hash",
    "open_amplifier",
    "read_entry",
    "read_manifest",
    "write_manifest",
    "write_parquet",
]

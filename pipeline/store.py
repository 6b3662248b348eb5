"""Calibrated amplifiers on disk, time-major, and the manifest that names the finished ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.levels import BLOCK_ROWS, interpolate_blocks
from shutterless.pipeline.psf import stack_profile
from shutterless.pipeline.readout import Readout, RowTimes

STORE_VERSION = 2
MANIFEST = "manifest.parquet"
ENTRY = "entry.json"
Y_AXIS, TIME_AXIS = 0, 2  # of a residual (y, x, t)
ROW_TIMES = "row_times"  # array of an entry, (2, t): seconds and the archive's own times
_OPTIONAL = ("block_rows", "smear_rows", "pixel_rows_per_hour", "token_grid", "event_scales_s")
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


@dataclass(frozen=True)
class Amplifier:
    """One calibrated amplifier of one file, opened from a store.

    Parameters
    ----------
    residual : ndarray of float16, shape (y, x, t)
        Residual in units of σ, memory-mapped; NaN where masked. ``y`` is 1 for continuous readout: a stack whose
        images are one row high. A row of the time axis is then a row of the detector, of other stacks an image.
    baseline_e, sigma_e : ndarray of float32, shape (y, x, b)
        Baseline and noise (electrons per pixel) at the centres of blocks of ``block_rows`` rows.
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
    block_rows : int
    smear_rows : float, optional
        Width (σ) by which the point-spread function smears time, in rows; in continuous readout ``psf_sigma_px``.
    pixel_rows_per_hour : float, optional
        Pixels times rows that make an amplifier-hour; in continuous readout columns × row rate × 3600.
    token_grid : mapping
        Sizes of the token grid that suits the stack where that is not the grid of the settings.
    event_scales_s : mapping of str to (float, float)
        Kinds of event that are injected and the range of their scale, where they are not those of continuous readout.
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
    block_rows: int = BLOCK_ROWS
    smear_rows: float = np.nan
    pixel_rows_per_hour: float = np.nan
    token_grid: Mapping[str, Any] = field(default_factory=dict)
    event_scales_s: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if np.isnan(self.smear_rows):
            object.__setattr__(self, "smear_rows", self.psf_sigma_px)
        if np.isnan(self.pixel_rows_per_hour):
            object.__setattr__(self, "pixel_rows_per_hour", self.n_columns * self.readout.row_rate_hz * 3600)

    @property
    def n_rows(self) -> int:
        """Rows (length of the time axis)."""
        return self.residual.shape[2]

    @property
    def n_columns(self) -> int:
        """Columns."""
        return self.residual.shape[1]

    @property
    def n_y(self) -> int:
        """Height of the stack in pixels, 1 for continuous readout."""
        return self.residual.shape[0]

    @cached_property
    def star_places(self) -> np.ndarray:
        """Positions (y, x) of the stars in the order of ``streaks``, float64, shape (s, 2)."""
        return self.streaks[["y", "x"]].to_numpy(dtype=np.float64)

    @property
    def detector_axis(self) -> int:
        """Axis of the residual along which the rows of the detector lie: time in continuous readout, else y."""
        return Y_AXIS if self.n_y > 1 else TIME_AXIS

    @cached_property
    def live_hours(self) -> float:
        """Amplifier-hours of unmasked pixels."""
        return self.live_pixel_rows / self.pixel_rows_per_hour

    def sigma_rows(self, y: slice, columns: slice, start: int, stop: int) -> np.ndarray:
        """Noise of some pixels in rows ``start..stop`` (electrons), shape (y, x, t)."""
        return self._expand(self.sigma_e[y, columns], start, stop)

    def level_rows(self, y: slice, columns: slice, start: int, stop: int) -> np.ndarray:
        """Baseline of some pixels in rows ``start..stop`` (electrons), shape (y, x, t)."""
        return self._expand(self.baseline_e[y, columns], start, stop)

    def block_of(self, row: Any) -> Any:
        """Block of ``baseline_e`` and ``sigma_e`` that a row, or the nearest one that exists, lies in."""
        return np.clip(np.asarray(row) // self.block_rows, 0, self.sigma_e.shape[2] - 1)

    def profile(self, y_offsets_px: Any, x_offsets_px: Any) -> np.ndarray:
        """Fraction of a source's light on pixels at these distances from it, shape (y, x)."""
        return stack_profile(y_offsets_px, x_offsets_px, self.psf_sigma_px, self.n_y)

    def between(self, start: int, stop: int) -> Amplifier:
        """Rows ``start`` to ``stop`` as an amplifier of its own, ``start`` rounded down to the beginning of a block."""
        start -= start % self.block_rows
        blocks = slice(start // self.block_rows, -(-stop // self.block_rows))
        residual = self.residual[:, :, start:stop]
        return replace(
            self,
            residual=residual,
            baseline_e=self.baseline_e[:, :, blocks],
            sigma_e=self.sigma_e[:, :, blocks],
            row_residual=self.row_residual[start:stop],
            readout=self.readout.from_row(start, stop),
            live_pixel_rows=int(np.count_nonzero(np.isfinite(residual))),
        )

    def _expand(self, blocks: np.ndarray, start: int, stop: int) -> np.ndarray:
        by_block = blocks.reshape(-1, blocks.shape[-1]).T
        return interpolate_blocks(by_block, start, stop, self.block_rows).T.reshape(*blocks.shape[:2], stop - start)


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
    n_columns, n_rows, n_y : int
    """

    def __init__(self, store: Path, name: str, *, n_columns: int, n_rows: int, n_y: int = 1) -> None:
        self.final = Path(store) / name
        self.folder = Path(store) / f".{name}.{uuid.uuid4().hex[:8]}.partial"
        self._shape = (n_y, n_columns, n_rows)

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
        readout=replace(Readout.from_dict(description["readout"]), row_times=_read_times(folder)),
        file=description["file"],
        entry=name,
        psf_sigma_px=description["psf_sigma_px"],
        live_pixel_rows=description["live_pixel_rows"],
        sky_e=float(np.nanmedian(baseline_e)),
        sky_sigma_e=float(np.nanmedian(sigma_e)),
        **{name: description[name] for name in _OPTIONAL if name in description},
    )


def _read_times(folder: Path) -> RowTimes | None:
    """Times of rows that no row rate gives."""
    path = folder / f"{ROW_TIMES}.npy"
    return RowTimes(*np.load(path)) if path.is_file() else None


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

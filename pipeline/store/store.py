"""Calibrated amplifiers on disk, time-major, and the manifest that names the finished ones."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.calibration.levels.baseline import BLOCK_ROWS, interpolate_blocks
from shutterless.pipeline.psf import stack_profile
from shutterless.pipeline.reading.readout import Readout, RowTimes

STORE_VERSION = 2
MANIFEST = "manifest.parquet"
ENTRY = "entry.json"
_BYTES_AT_ONCE = 1 << 24
_PARTIAL = ".partial"
_ATTEMPTS = 10
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
        """Write some rows, (y, x, t), of the residual past the memory map, whose pages would count as this process's.

        Parameters
        ----------
        start : int
            Row of the entry that is the first of them.
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
        """Write what goes with the residual, hash everything and move the entry to its place.

        Returns
        -------
        dict
            The entry's description with its ``content_hash``.
        """
        self.residual.flush()
        offset = self.residual.offset
        del self.residual
        digest = _hash_file(self.folder / "residual.npy", offset)
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


def _hash_file(path: Path, offset: int) -> Any:
    """Hash of a file's bytes from an offset on, of which only a few are in memory at a time."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(_BYTES_AT_ONCE):
            digest.update(block)
    return digest


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
    names = ("baseline_e", "sigma_e", "row_residual", ROW_TIMES)
    arrays = {name: np.load(folder / f"{name}.npy") for name in names if (folder / f"{name}.npy").is_file()}
    residual = np.load(folder / "residual.npy", mmap_mode="r")
    return build_amplifier(name, description, residual, arrays, pd.read_parquet(folder / "streaks.parquet"))


def build_amplifier(
    name: str,
    description: Mapping[str, Any],
    residual: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    streaks: pd.DataFrame,
) -> Amplifier:
    """Put an amplifier together from what its entry in a store holds, whether it was ever written or not."""
    times = RowTimes(*arrays[ROW_TIMES]) if ROW_TIMES in arrays else None
    return Amplifier(
        residual=residual,
        baseline_e=arrays["baseline_e"],
        sigma_e=arrays["sigma_e"],
        row_residual=arrays["row_residual"],
        streaks=streaks,
        readout=replace(Readout.from_dict(description["readout"]), row_times=times),
        file=description["file"],
        entry=name,
        psf_sigma_px=description["psf_sigma_px"],
        live_pixel_rows=description["live_pixel_rows"],
        sky_e=float(np.nanmedian(arrays["baseline_e"])),
        sky_sigma_e=float(np.nanmedian(arrays["sigma_e"])),
        **{name: description[name] for name in _OPTIONAL if name in description},
    )


def write_manifest(store: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write the manifest of a store, atomically and last.

    Parameters
    ----------
    store : path
    rows : iterable of mapping
        What `shutterless.pipeline.store.ingest.ingest_amplifier` returned, one per entry.
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
    with written_whole(path) as partial:
        table.to_parquet(partial, index=False)


def partial_path(path: Path) -> Path:
    """Name beside a file or folder under which it is written until it is whole."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Name under which to write a file that is moved to its place when that has succeeded, and removed otherwise."""
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def replace_folder(partial: Path, final: Path) -> None:
    """Move a folder that is whole to its place, whatever is there.

    Two processes may do so at once: a worker whose driver was killed, and one of the driver that goes on.
    """
    for _ in range(_ATTEMPTS):
        shutil.rmtree(final, ignore_errors=True)
        try:
            partial.replace(final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise StoreError(f"{final} is written by another process again and again; let one of them finish")


def remove_partials(folder: Path) -> None:
    """Remove what processes that were killed left half-written in a folder."""
    for path in folder.glob(f".*{_PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file under another name and move it into place."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


__all__ = [
    "BLOCK_ROWS",
    "Amplifier",
    "EntryWriter",
    "StoreError",
    "entry_name",
    "manifest_hash",
    "open_amplifier",
    "partial_path",
    "read_entry",
    "read_manifest",
    "remove_partials",
    "replace_folder",
    "write_manifest",
    "write_parquet",
    "write_text",
    "written_whole",
]

"""Tabulate the truth of a simulated amplifier: its events, artefacts and stars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.astrometry.pointing import AmplifierSky
from shutterless.pipeline.events.events import central_rows, magnitude_change, optimal_rho
from shutterless.pipeline.events.kinds import KIND_TABLE
from shutterless.pipeline.simulation.camera.artefacts import CosmicRay, PickupBurst, cosmic_ray_light_curve
from shutterless.pipeline.simulation.camera.detector import HotColumn, Trap
from shutterless.pipeline.simulation.content import AmplifierContent
from shutterless.pipeline.simulation.placement import PlacedEvent
from shutterless.pipeline.simulation.scene import Scene
from shutterless.pipeline.stored_files import ColumnKind, read_parquet

_ROWS_AT_A_TIME = 4096
TRUTH_COLUMNS = {
    "event_id": "string",
    "kind": "string",
    "is_event": "bool",
    "file": "string",
    "ccd": "int64",
    "quadrant": "int64",
    "x": "float64",
    "row_start": "int64",
    "row_stop": "int64",
    "row_peak": "int64",
    "duration_s": "float64",
    "amplitude_e": "float64",
    "sign": "int64",
    "rho": "float64",
    "star_id": "int64",
    "star_mag": "float64",
    "delta_mag": "float64",
    "ra": "float64",
    "dec": "float64",
}
STAR_COLUMNS = {
    "file": "string",
    "ccd": "int64",
    "quadrant": "int64",
    "star_id": "int64",
    "x": "float64",
    "y0": "float64",
    "mag": "float64",
    "ra": "float64",
    "dec": "float64",
}
CATALOGUE = "catalogue.csv"


# kinds of columns of a file
_READ: dict[str, ColumnKind] = {"string": "text", "bool": "truth", "int64": "number", "float64": "number"}
_WHOLE = ("ccd", "quadrant")  # by these a row finds its amplifier
_NEEDED = ("kind", "is_event", "file", "ccd", "quadrant", "x", "row_start", "row_stop", "row_peak", "rho")


def read_truth(path: str | Path) -> pd.DataFrame:
    """Read a truth table, simulated or injected, or one that a person wrote.

    Raises
    ------
    StoredFileError
        If it cannot be read, or a column by which events are matched is missing or of another kind.
    """
    return read_parquet(path, _read_kinds(TRUTH_COLUMNS, _NEEDED))


def read_stars(path: str | Path) -> pd.DataFrame:
    """Read a table of stars; errors are those of `read_truth`."""
    return read_parquet(path, _read_kinds(STAR_COLUMNS, [name for name in STAR_COLUMNS if name not in ("ra", "dec")]))


def _read_kinds(columns: Mapping[str, str], needed: Iterable[str]) -> dict[str, ColumnKind]:
    """What the columns of a file must hold."""
    return {name: "whole number" if name in _WHOLE else _READ[columns[name]] for name in needed}


def truth_rows(
    content: AmplifierContent, file: str, ccd: int, quadrant: int, sky: AmplifierSky | None = None
) -> pd.DataFrame:
    """Truth table of one amplifier: its events, cosmic rays and pickup bursts.

    ``sky`` gives events their position; that of artefacts is NaN.

    ``rho`` is defined against photon and read noise over the steady baseline, with or without an atmosphere. The noise
    of the air is not included.

    ``amplitude_e`` is signed: of events before smearing (`events.Event`), of artefacts the strongest row. Pickup is in
    all columns at once, so its ``x`` is NaN; its amplitude is summed over columns as everywhere. Faults of the detector
    have all their rows, not the central 90 %; of a hot column and a trap these are all rows of the file. The amplitude
    of a trap is the charge that it takes from the last row of the file when it is empty; its ``rho`` is NaN. The
    amplitude of dropped rows is the missing charge.
    """
    entries = [_event_truth(content, placed) for placed in content.events]
    if sky is not None and entries:
        places = sky.to_sky([placed.event.x for placed in content.events], [placed.y0 for placed in content.events])
        for entry, place in zip(entries, places, strict=True):
            entry.update(ra=place.ra.deg, dec=place.dec.deg)
    entries += [_cosmic_ray_truth(content, ray) for ray in content.cosmic_rays]
    entries += [_pickup_truth(content, burst) for burst in content.pickup_bursts]
    if content.sky_lights is not None:
        file_rows = range(int(content.rows[0]), int(content.rows[-1]) + 1)
        entries += [
            _artefact_truth(light.kind, light.x, light.first_row, light.light_e, light.rho)
            for light in content.sky_lights.artefacts(file_rows)
        ]
    if content.detector is not None:
        entries += [_hot_column_truth(content, hot) for hot in content.detector.hot_columns]
        entries += [_trap_truth(content, trap) for trap in content.detector.traps]
        entries += [_dropped_truth(content, *run) for run in content.detector.dropped_rows]
    stem = file.split(".fits")[0]
    shared = {"file": file, "ccd": ccd, "quadrant": quadrant}
    rows = [
        {
            "event_id": f"{stem}_q{quadrant}_{index:04d}",
            **shared,
            **entry,
            "sign": int(np.sign(entry["amplitude_e"])),
            "duration_s": (entry["row_stop"] - entry["row_start"] + 1) / content.scene.row_rate_hz,
        }
        for index, entry in enumerate(entries)
    ]
    return _table(rows, TRUTH_COLUMNS)


def _event_truth(content: AmplifierContent, placed: PlacedEvent) -> dict[str, Any]:
    event = placed.event
    star_flux_e_row = content.scene.flux_e_row[event.star_id] if event.star_id >= 0 else np.nan
    return {
        "kind": event.kind,
        "is_event": KIND_TABLE[event.kind].is_event,
        "x": event.x,
        **dict(zip(("row_start", "row_stop", "row_peak"), placed.rows, strict=True)),
        "amplitude_e": event.amplitude_e,
        "rho": placed.rho,
        "star_id": event.star_id,
        "star_mag": event.star_mag,
        "delta_mag": magnitude_change(event, star_flux_e_row),
    }


def _artefact_truth(kind: str, x: float, first_row: int, light: np.ndarray, rho: float) -> dict[str, Any]:
    start, stop, peak = (first_row + row for row in central_rows(light))
    return {
        "kind": kind,
        "is_event": KIND_TABLE[kind].is_event,
        "x": x,
        "row_start": start,
        "row_stop": stop,
        "row_peak": peak,
        "amplitude_e": float(light[peak - first_row]),
        "rho": rho,
        "star_id": -1,
        "star_mag": np.nan,
        "delta_mag": np.nan,
    }


def _cosmic_ray_truth(content: AmplifierContent, ray: CosmicRay) -> dict[str, Any]:
    top, left = int(ray.rows.min()), int(ray.columns.min())
    bottom, right = int(ray.rows.max()), int(ray.columns.max())
    variance = content.scene.variance_e2(content.rows[top : bottom + 1], left, right - left + 1)
    rho = optimal_rho(ray.charge_e, variance[ray.rows - top, ray.columns - left])
    light = cosmic_ray_light_curve(ray)
    return _artefact_truth("cosmic_ray", float(np.average(ray.columns, weights=ray.charge_e)), top, light, rho)


def _pickup_truth(content: AmplifierContent, burst: PickupBurst) -> dict[str, Any]:
    rows = content.rows[burst.first_row : burst.first_row + len(burst.offsets_e)]
    n_columns = content.scene.n_columns
    rho = optimal_rho(burst.offsets_e[:, None], content.scene.variance_e2(rows, 0, n_columns))
    return _artefact_truth("pickup", float("nan"), burst.first_row, burst.offsets_e * n_columns, rho)


def _fault_truth(kind: str, x: float, rows: tuple[int, int], amplitude_e: float, rho: float) -> dict[str, Any]:
    first, last = rows
    return {
        **_artefact_truth(kind, x, first, np.array([amplitude_e]), rho),
        "row_stop": last,
    }


def _hot_column_truth(content: AmplifierContent, hot: HotColumn) -> dict[str, Any]:
    n_rows, squared = len(content.rows), 0.0
    for start in range(0, n_rows, _ROWS_AT_A_TIME):
        rows = content.rows[start : start + _ROWS_AT_A_TIME]
        light = hot.light_e(rows, content.scene.row_rate_hz)
        squared += optimal_rho(light, content.scene.variance_e2(rows, hot.column, 1)[:, 0]) ** 2
    return _fault_truth("hot_column", float(hot.column), (0, n_rows - 1), hot.level_e, float(np.sqrt(squared)))


def _trap_truth(content: AmplifierContent, trap: Trap) -> dict[str, Any]:
    packet = float(content.scene.baseline_e(content.rows[-1:], trap.column, 1)[0, 0])
    taken = min(trap.share * packet, trap.capacity_e)
    return _fault_truth("trap", float(trap.column), (0, len(content.rows) - 1), -taken, float("nan"))


def _dropped_truth(content: AmplifierContent, first: int, length: int) -> dict[str, Any]:
    rows, n_columns = content.rows[first : first + length], content.scene.n_columns
    missing = content.scene.baseline_e(rows)
    rho = optimal_rho(missing, content.scene.variance_e2(rows, 0, n_columns))
    amplitude = -float(missing.sum(axis=1).max())
    return _fault_truth("dropped_rows", float("nan"), (first, first + length - 1), amplitude, rho)


def star_rows(scene: Scene, file: str, ccd: int, quadrant: int, sky: AmplifierSky | None = None) -> pd.DataFrame:
    """Star table of one amplifier of one file; without ``sky`` positions are NaN."""
    columns = {"star_id": np.arange(len(scene.x)), "x": scene.x, "y0": scene.y0, "mag": scene.mag}
    if sky is not None:
        place = sky.to_sky(scene.x, scene.y0)
        columns |= {"ra": place.ra.deg, "dec": place.dec.deg}
    return _table({"file": file, "ccd": ccd, "quadrant": quadrant, **columns}, STAR_COLUMNS)


def _table(rows: Any, columns: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def write_tables(out: str | Path, truths: Sequence[pd.DataFrame], stars: Sequence[pd.DataFrame]) -> tuple[Path, Path]:
    """Join the tables of all files, in an order independent of the order of tasks, and write them as Parquet.

    Returns
    -------
    truth_path, stars_path : Path
        ``truth.parquet`` and ``stars.parquet`` in ``out``.
    """
    paths = []
    for name, parts, columns, key in (
        ("truth.parquet", truths, TRUTH_COLUMNS, ["event_id"]),
        ("stars.parquet", stars, STAR_COLUMNS, ["file", "quadrant", "star_id"]),
    ):
        table = pd.concat([*parts, _table([], columns)], ignore_index=True).sort_values(key, ignore_index=True)
        path, partial = Path(out) / name, Path(out) / f".{name}.partial"
        table.to_parquet(partial, index=False)
        partial.replace(path)
        paths.append(path)
    return paths[0], paths[1]


def write_catalogue(out: str | Path, stars: Sequence[pd.DataFrame]) -> Path:
    """Write ``catalogue.csv`` with ``name, ra, dec, mag`` of every star of the simulated field, for ``--catalogue``."""
    path, partial = Path(out) / CATALOGUE, Path(out) / f".{CATALOGUE}.partial"
    table = pd.concat([*stars, _table([], STAR_COLUMNS)], ignore_index=True)
    table = table.drop_duplicates(["ccd", "quadrant", "star_id"]).sort_values(["ccd", "quadrant", "star_id"])
    numbers = zip(table["ccd"], table["quadrant"], table["star_id"], strict=True)
    table = table.assign(name=[f"S{ccd:02d}{quadrant}-{star:05d}" for ccd, quadrant, star in numbers])
    table[["name", "ra", "dec", "mag"]].to_csv(partial, index=False)
    partial.replace(path)
    return path

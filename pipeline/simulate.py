"""Simulated continuous-readout sequences in the true file format, with the truth beside them.

One task makes one file: `simulate_file`. What it draws depends on the settings and its own numbers only, so any number
of workers in any order write the same files.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
from astropy.io import fits

from shutterless.pipeline.artefacts import (
    CosmicRay,
    PickupBurst,
    cosmic_ray_light_curve,
    draw_cosmic_rays,
    draw_drift,
    draw_mains,
    draw_pickup_bursts,
)
from shutterless.pipeline.atmosphere import Atmosphere, SharedSeries, add_sources, draw_atmosphere
from shutterless.pipeline.events import central_rows, optimal_rho, smeared_step
from shutterless.pipeline.frames import to_read_order
from shutterless.pipeline.placement import PlacedEvent, place_events
from shutterless.pipeline.scene import (
    ATMOSPHERE,
    COSMIC_RAYS,
    DRIFT,
    EVENTS,
    MAINS,
    PICKUP,
    PIXELS,
    Scene,
    SceneError,
    SceneSettings,
    draw_scene,
)

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
}
STAR_COLUMNS = {
    "file": "string",
    "ccd": "int64",
    "quadrant": "int64",
    "star_id": "int64",
    "x": "float64",
    "y0": "float64",
    "mag": "float64",
}
BIAS_ADU = 100.0
# deferred charge in the first overscan columns: about 250 ADU in the first, gone by the twentieth
DEFERRED_ADU, DEFERRED_SCALE_PX = 150.0, 3.0
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class Air:
    """The atmosphere as one file sees it.

    Parameters
    ----------
    atmosphere : Atmosphere
    series : SharedSeries
        Its shared series over all star times of the file.
    event_y0 : ndarray of float64, shape (e,)
        Detector row of each event: its star's, or, of an orphan, one of its own.
    """

    atmosphere: Atmosphere
    series: SharedSeries
    event_y0: np.ndarray


@dataclass(frozen=True)
class AmplifierContent:
    """Everything that goes into the pixels of one amplifier of one file; without ``air`` the stars are steady."""

    scene: Scene
    rows: np.ndarray
    events: Sequence[PlacedEvent]
    cosmic_rays: Sequence[CosmicRay]
    pickup_bursts: Sequence[PickupBurst]
    row_offsets_e: np.ndarray
    air: Air | None = None


def file_name(settings: SceneSettings, ccd: int, file_index: int) -> str:
    """Name of one simulated file."""
    return f"{settings.sequence}_c{ccd:02d}_{file_index:03d}{settings.suffix}"


def simulate_file(
    settings: SceneSettings, ccd: int, file_index: int, out: str | Path
) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    """Simulate and write one file: all quadrants of one CCD.

    Parameters
    ----------
    settings : SceneSettings
    ccd : int
    file_index : int
        From 0; the file's first sequence row is ``first_row + file_index * rows``.
    out : path
        Folder to write into.

    Returns
    -------
    path : Path
        The file, written under a temporary name first.
    truth, stars : DataFrame
        Rows of this file, with `TRUTH_COLUMNS` and `STAR_COLUMNS`; see `write_tables`.
    """
    path = Path(out) / file_name(settings, ccd, file_index)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    kind = fits.CompImageHDU if path.name.endswith(".fz") else fits.ImageHDU
    truths, stars = [], []
    pending: dict[int, Any] = {}
    n_hdus = 1
    try:
        fits.PrimaryHDU(header=_primary_header(settings, ccd, file_index)).writeto(partial, overwrite=True)
        for quadrant, layout in enumerate(settings.profile.quadrants, start=1):
            content = draw_content(settings, ccd, quadrant, file_index)
            data, overscan = render(settings, content, settings.generator(PIXELS, ccd, quadrant, file_index))
            header = _amplifier_header(settings, quadrant)
            pending[layout.data_hdu] = kind(to_read_order(data, layout), header=header)
            pending[layout.overscan_hdu] = kind(to_read_order(overscan, layout), header=header)
            truths.append(truth_rows(content, path.name, ccd, quadrant))
            stars.append(star_rows(content.scene, path.name, ccd, quadrant))
            while n_hdus in pending:  # one amplifier in memory, where the order of HDUs allows
                _append(partial, pending.pop(n_hdus))
                n_hdus += 1
        if pending:
            raise SceneError(
                f"instrument profile {settings.instrument}: HDUs {sorted(pending)} do not follow on 1..{n_hdus - 1}; "
                "the simulator writes files whose quadrants fill HDUs 1, 2, 3, … without a gap"
            )
        _finish(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path, pd.concat(truths, ignore_index=True), pd.concat(stars, ignore_index=True)


def draw_content(settings: SceneSettings, ccd: int, quadrant: int, file_index: int) -> AmplifierContent:
    """Draw stars, events and artefacts of one amplifier of one file."""
    scene = draw_scene(settings, ccd, quadrant)
    rows = settings.sequence_rows(file_index)
    keys = (ccd, quadrant, file_index)
    events = place_events(settings, scene, settings.generator(EVENTS, *keys), rows)
    air = draw_air(settings, scene, events, ccd, quadrant, file_index) if settings.atmosphere else None
    if not settings.artefacts:
        return AmplifierContent(scene, rows, events, [], [], np.zeros(len(rows)), air)
    exposure = scene.exposure_s(rows)
    rays = draw_cosmic_rays(
        settings.generator(COSMIC_RAYS, *keys), exposure, scene.n_columns, scene.row_rate_hz, scene.n_transit
    )
    bursts = draw_pickup_bursts(settings.generator(PICKUP, *keys), len(rows), scene.row_rate_hz)
    # the mains are in phase over the amplifiers of a CCD, the drift is each amplifier's own
    offsets = draw_mains(settings.generator(MAINS, ccd)).offsets_e(rows, scene.row_rate_hz)
    offsets += draw_drift(settings.generator(DRIFT, ccd, quadrant)).offsets_e(rows, scene.row_rate_hz)
    for burst in bursts:
        offsets[burst.first_row : burst.first_row + len(burst.offsets_e)] += burst.offsets_e
    return AmplifierContent(scene, rows, events, rays, bursts, offsets, air)


def draw_air(
    settings: SceneSettings, scene: Scene, events: Sequence[PlacedEvent], ccd: int, quadrant: int, file_index: int
) -> Air:
    """Draw the atmosphere of one amplifier, the same for every file of the sequence, and evaluate it for one file."""
    motion_px = settings.motion_rms_arcsec / settings.electronics("pixel_scale_arcsec")
    atmosphere = draw_atmosphere(
        settings.generator(ATMOSPHERE, ccd, quadrant),
        len(scene.x),
        row_rate_hz=scene.row_rate_hz,
        scintillation=(settings.scintillation_rms, settings.scintillation_s),
        motion_px=(motion_px, settings.motion_s),
        focus=(settings.focus_rms, settings.focus_s),
        transparency=(settings.transparency_rms, settings.transparency_s),
    )
    rows = settings.sequence_rows(file_index)
    # of the star read last, one row more than is asked for at either end
    first = int(rows[0]) - scene.n_transit - 1
    rng = settings.generator(ATMOSPHERE, ccd, quadrant, file_index)
    own_y0 = rng.uniform(0, scene.n_transit, len(events))
    event_y0 = [scene.y0[p.event.star_id] if p.event.star_id >= 0 else y0 for p, y0 in zip(events, own_y0, strict=True)]
    return Air(atmosphere, atmosphere.shared(first, int(rows[-1]) - first + 2), np.array(event_y0))


def render(
    settings: SceneSettings, content: AmplifierContent, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Expose and read one amplifier, block by block of rows.

    Returns
    -------
    data : ndarray of uint16, shape (t, x)
        ADU in read order.
    overscan : ndarray of uint16, shape (t, o)
    """
    scene, profile = content.scene, settings.profile
    n_rows = len(content.rows)
    gain, saturation = float(settings.electronics("gain_e_per_adu")), float(settings.electronics("saturation_adu"))
    a, b = profile.nonlinearity or (0.0, 0.0)
    data = np.empty((n_rows, profile.n_columns), dtype=np.uint16)
    overscan = np.empty((n_rows, profile.n_overscan_columns), dtype=np.uint16)
    deferred_e = gain * DEFERRED_ADU * np.exp(-np.arange(profile.n_overscan_columns) / DEFERRED_SCALE_PX)
    for start in range(0, n_rows, _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, n_rows))
        charge = _draw_electrons(rng, mean_electrons(content, block))
        for ray in content.cosmic_rays:
            inside = (ray.rows >= block.start) & (ray.rows < block.stop)
            charge[ray.rows[inside] - block.start, ray.columns[inside]] += ray.charge_e[inside]
        offsets = content.row_offsets_e[block]
        _digitise(rng, charge, offsets, scene.read_noise_e, gain, a, b, saturation, data[block])
        empty = np.broadcast_to(deferred_e, (len(offsets), len(deferred_e))).copy()
        _digitise(rng, empty, offsets, scene.read_noise_e, gain, a, b, saturation, overscan[block])
    return data, overscan


def mean_electrons(content: AmplifierContent, block: slice) -> np.ndarray:
    """Mean electrons from the sky, stars and events in a block of rows, shape (t, x)."""
    if content.air is not None:
        return _mean_through_air(content, content.air, block)
    mean = content.scene.baseline_e(content.rows[block])
    for placed in content.events:
        curve = placed.curve[block]
        if np.any(curve):
            columns = slice(placed.first_column, placed.first_column + len(placed.profile))
            mean[:, columns] += placed.event.amplitude_e * np.outer(curve, placed.profile)
    return np.maximum(mean, 0.0, out=mean)


def _mean_through_air(content: AmplifierContent, air: Air, block: slice) -> np.ndarray:
    """Mean electrons with every star, and every event with its star, moved, widened and dimmed by the air.

    The sky is left steady: what cloud takes from it, it spreads over the transit of 10 s. An orphan does not
    scintillate, which nobody could tell from its shape.
    """
    scene, rows = content.scene, content.rows[block]
    mean = np.repeat((scene.sky_e_s * scene.exposure_s(rows))[:, None], scene.n_columns, axis=1)
    factors = air.atmosphere.scintillation.factors(int(rows[0]), len(rows))
    light = factors * scene.flux_e_row
    reach = 6 * scene.psf_sigma_px + 1
    light[:, scene.y0 > rows[-1] + reach] = 0.0
    for beginning in np.flatnonzero((scene.y0 > rows[0] - reach) & (scene.y0 <= rows[-1] + reach)):
        light[:, beginning] *= np.maximum(smeared_step(rows - scene.y0[beginning], scene.psf_sigma_px), 0.0)
    add_sources(mean, int(rows[0]), light, scene.x, scene.y0, scene.psf_sigma_px, air.series)
    for placed, y0 in zip(content.events, air.event_y0, strict=True):
        curve = placed.curve[block]
        if np.any(curve):
            star = int(placed.event.star_id)
            light = placed.event.amplitude_e * (curve * factors[:, star] if star >= 0 else curve)[:, None]
            x = np.array([placed.event.x])
            add_sources(mean, int(rows[0]), light, x, np.array([y0]), scene.psf_sigma_px, air.series)
    return np.maximum(mean, 0.0, out=mean)


@numba.njit(cache=True)
def _draw_electrons(rng: np.random.Generator, mean_e: np.ndarray) -> np.ndarray:
    """Poisson counts of each pixel, exact at any mean; shape (t, x)."""
    counts = np.empty(mean_e.shape, dtype=np.float64)
    for t in range(mean_e.shape[0]):
        for x in range(mean_e.shape[1]):
            counts[t, x] = rng.poisson(mean_e[t, x])
    return counts


@numba.njit(cache=True)
def _digitise(rng, charge_e, row_offsets_e, read_noise_e, gain, a, b, saturation_adu, out):  # type: ignore[no-untyped-def]
    """Read charge with noise, row offsets, non-linearity and bias into integers ``out``, shape (t, x).

    The profile's ``true = x / (a x² + b x + 1)`` is solved for the reading x, in a form that stands ``a = 0``.
    """
    for t in range(charge_e.shape[0]):
        for x in range(charge_e.shape[1]):
            true = (charge_e[t, x] + row_offsets_e[t] + read_noise_e * rng.standard_normal()) / gain
            linear = 1 - b * true
            reading = 2 * true / (linear + np.sqrt(linear**2 - 4 * a * true**2))
            out[t, x] = np.uint16(min(max(np.rint(reading + BIAS_ADU), 0.0), saturation_adu))


def truth_rows(content: AmplifierContent, file: str, ccd: int, quadrant: int) -> pd.DataFrame:
    """Truth table of one amplifier: its events, cosmic rays and pickup bursts.

    ``rho`` is defined against photon and read noise over the steady baseline, with or without an atmosphere: what the
    air adds to the noise is the detector's to overcome.

    ``amplitude_e`` is signed: of events before smearing (`events.Event`), of artefacts the strongest row. Pickup is in
    all columns at once, so its ``x`` is NaN; its amplitude is summed over columns as everywhere.
    """
    entries = [_event_truth(content, placed) for placed in content.events]
    entries += [_cosmic_ray_truth(content, ray) for ray in content.cosmic_rays]
    entries += [_pickup_truth(content, burst) for burst in content.pickup_bursts]
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
    event, on_star = placed.event, placed.event.star_id >= 0
    relative = event.amplitude_e / content.scene.flux_e_row[event.star_id] if on_star else np.nan
    return {
        "kind": event.kind,
        "is_event": True,
        "x": event.x,
        **dict(zip(("row_start", "row_stop", "row_peak"), placed.rows, strict=True)),
        "amplitude_e": event.amplitude_e,
        "rho": placed.rho,
        "star_id": event.star_id,
        "star_mag": event.star_mag,
        # a point star behind the middle of an opaque disc may vanish altogether: 10 mag stands for that
        "delta_mag": -2.5 * np.log10(max(1 + relative, 1e-4)) if on_star else np.nan,
    }


def _artefact_truth(kind: str, x: float, first_row: int, light: np.ndarray, rho: float) -> dict[str, Any]:
    start, stop, peak = (first_row + row for row in central_rows(light))
    return {
        "kind": kind,
        "is_event": False,
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
    light = cosmic_ray_light_curve(ray, bottom + 1)[top:]
    return _artefact_truth("cosmic_ray", float(np.average(ray.columns, weights=ray.charge_e)), top, light, rho)


def _pickup_truth(content: AmplifierContent, burst: PickupBurst) -> dict[str, Any]:
    rows = content.rows[burst.first_row : burst.first_row + len(burst.offsets_e)]
    n_columns = content.scene.n_columns
    rho = optimal_rho(burst.offsets_e[:, None], content.scene.variance_e2(rows, 0, n_columns))
    return _artefact_truth("pickup", float("nan"), burst.first_row, burst.offsets_e * n_columns, rho)


def star_rows(scene: Scene, file: str, ccd: int, quadrant: int) -> pd.DataFrame:
    """Star table of one amplifier of one file."""
    columns = {"star_id": np.arange(len(scene.x)), "x": scene.x, "y0": scene.y0, "mag": scene.mag}
    return _table({"file": file, "ccd": ccd, "quadrant": quadrant, **columns}, STAR_COLUMNS)


def _table(rows: Any, columns: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def write_tables(out: str | Path, truths: Sequence[pd.DataFrame], stars: Sequence[pd.DataFrame]) -> tuple[Path, Path]:
    """Join the tables of all files, in an order that does not depend on the tasks', and write them as Parquet.

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


def _primary_header(settings: SceneSettings, ccd: int, file_index: int) -> fits.Header:
    first_row = None if settings.first_row is None else settings.first_row + file_index * settings.rows
    values = {
        "ccd": ccd,
        "row_rate_hz": settings.row_rate_hz,
        "shutter_open_utc": settings.shutter_open_utc,
        "sequence": settings.sequence,
        "first_row": first_row,
        "n_transit": settings.electronics("n_transit"),
        "band": settings.band,
        "zero_point_mag": settings.magnitude_of_one_e_s,
        "pixel_scale_arcsec": settings.electronics("pixel_scale_arcsec"),
        "seeing_arcsec": settings.seeing_arcsec,
    }
    header = _header(settings, values)
    for keyword in settings.profile.recognise:
        if keyword not in header:
            header[keyword] = settings.profile.name
    return header


def _amplifier_header(settings: SceneSettings, quadrant: int) -> fits.Header:
    names = ("gain_e_per_adu", "read_noise_e", "saturation_adu")
    start = settings.profile.defaults.get("amp_id_start", 1)
    values = {"amplifier": start + quadrant - 1, **{name: settings.electronics(name) for name in names}}
    return _header(settings, values)


def _header(settings: SceneSettings, values: dict[str, Any]) -> fits.Header:
    """Header cards under the profile's keywords; what the profile has no keyword for, or has no value, is left out."""
    header = fits.Header()
    for name, value in values.items():
        keyword = settings.profile.keywords.get(name)
        if keyword is not None and value is not None:
            header[keyword] = value
    return header


def _append(path: Path, hdu: fits.ImageHDU | fits.CompImageHDU) -> None:
    with fits.open(path, mode="append", memmap=False) as file:
        file.append(hdu)


def _finish(partial: Path, path: Path) -> None:
    """Give a complete file its name, compressed as a whole where the name asks for it."""
    if path.name.endswith(".gz"):
        packed = partial.with_name(f"{partial.name}.gz")
        with (
            partial.open("rb") as source,
            packed.open("wb") as sink,
            gzip.GzipFile("", "wb", 6, sink, mtime=0) as target,
        ):
            shutil.copyfileobj(source, target)
        packed.replace(path)
    else:
        partial.replace(path)

"""Inject events into copies of raw frames, in ADU through gain and non-linearity, and write their truth.

The copy is the file that the camera would have written if the events had happened: same format, same headers, same
pixels elsewhere. Any detector can be tested blind on it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.astrometry.pointing import AmplifierSky, PointingError, read_sky
from shutterless.pipeline.calibration.electrons import dropped_rows, overscan_level
from shutterless.pipeline.calibration.serial_trap import apply_serial_trap, remove_serial_trap
from shutterless.pipeline.injection.amplifiers import Injection, InjectionSettings, draw_change, place_injections
from shutterless.pipeline.injection.injected_files import (
    InjectedFile,
    put_in_place,
    seeds_of,
    target_of,
    true_star_table,
    truth_table,
)
from shutterless.pipeline.reading.frames import Frame, FrameError, read_amplifier, read_frame_info, to_read_order
from shutterless.pipeline.reading.instruments import InstrumentProfile, SerialTrap
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier, read_entry

_SERIAL_TRAP_COLUMNS = 40  # on either side; at both ends a serial trap is filled as by the sky
_STEEPEST = 1.9  # largest slope of the density of the rounding error; above 2 the density would be negative


def inject_frames(
    path: str | Path,
    out: str | Path,
    settings: InjectionSettings,
    *,
    events: int,
    seed: int,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
) -> InjectedFile:
    """Write a copy of a file of frames with events in it.

    Parameters and errors are those of `shutterless.pipeline.injection.files.inject_file`.
    """
    path = Path(path)
    target = target_of(path, out)
    info = read_frame_info(path, instrument, supplied)
    assert isinstance(info.profile, InstrumentProfile), "frames are read with a profile of frames"
    truths, stars = [], []
    skipped: dict[int | None, str] = dict(info.skipped.items())
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{path.name}.") as work:
        changed = {}
        for quadrant, layout in enumerate(info.layouts, start=1):
            if quadrant not in info.readouts:
                continue
            try:
                row = ingest_amplifier(path, quadrant, work, instrument=instrument, supplied=supplied)
            except FrameError as error:
                skipped[quadrant] = str(error)
                continue
            amplifier = open_amplifier(work, row["entry"])
            frame = read_amplifier(path, quadrant, instrument, supplied)
            rng = np.random.default_rng(seeds_of(seed, path, quadrant))
            injections = place_injections(amplifier, rng, settings, events)
            serial_trap = _measured_serial_trap(info.profile, Path(work), row["entry"])
            for injection in injections:
                add_to_frame(frame, amplifier, injection, rng, serial_trap)
            changed[layout.data_hdu] = Path(work) / f"hdu{layout.data_hdu}.npy"
            np.save(changed[layout.data_hdu], to_read_order(frame.pixels_adu, layout))
            shutil.rmtree(Path(work) / row["entry"])
            sky = _find_sky(path, quadrant, instrument, supplied)
            truths.append(truth_table(injections, amplifier, path, sky))
            stars.append(true_star_table(amplifier, path, sky))
        if not changed:
            raise FrameError(next(iter(skipped.values())))
        _write_copy(path, target, changed, Path(work))
    return InjectedFile(target, pd.concat(truths, ignore_index=True), pd.concat(stars, ignore_index=True), skipped)


def _find_sky(
    path: Path, quadrant: int, instrument: str | None, supplied: Mapping[str, str] | None
) -> AmplifierSky | None:
    """Pointing in the headers, None if they state none."""
    try:
        return read_sky(path, quadrant, instrument, supplied)
    except PointingError:
        return None


def _measured_serial_trap(profile: InstrumentProfile, store: Path, entry: str) -> SerialTrap | None:
    """Serial trap (pocket effect) of the profile with the strength that the calibration measured; None without one."""
    capacity_e = (read_entry(store, entry) or {}).get("serial_trap_capacity_e", 0.0)
    return (
        replace(profile.serial_trap, capacity_e=capacity_e)
        if profile.serial_trap is not None and capacity_e > 0
        else None
    )


def add_to_frame(
    frame: Frame,
    amplifier: Amplifier,
    injection: Injection,
    rng: np.random.Generator,
    serial_trap: SerialTrap | None = None,
) -> None:
    """Add an event to the pixels of a frame in place.

    Parameters
    ----------
    frame : Frame
        Its ``pixels_adu`` are changed.
    amplifier : Amplifier
        The calibrated frame, which gives the level of light in each pixel and its noise.
    injection : Injection
    serial_trap : SerialTrap, optional
        Serial trap through which the frame's rows are read.

    Notes
    -----
    A reading is a rounded continuous value. The rounding error u lies within half an ADU, and is more probable towards
    the mean (to first order its density is ``1 - (reading - mean) u / σ²``). It is drawn anew. Then the event's
    electrons are added (`draw_change`) and read through the serial trap and the profile's non-linearity, and the result
    is rounded again. So the mean of a changed pixel moves exactly by the event, however small, and its variance is that
    of a pixel exposed with the event. Saturated pixels and rows that were never read do not change.
    """
    rows, columns, readout, curve = injection.rows_lit, injection.columns, frame.readout, frame.profile.nonlinearity
    gain, reach = readout.gain_e_per_adu, 0 if serial_trap is None else _SERIAL_TRAP_COLUMNS
    window = slice(max(columns.start - reach, 0), min(columns.stop + reach, frame.pixels_adu.shape[1]))
    found = frame.pixels_adu[rows, window]
    bias_adu = overscan_level(frame.overscan_adu[rows], frame.profile.overscan_used)
    bias = bias_adu[:, None]
    level = amplifier.level_rows(injection.y, window, rows.start, rows.stop)[0].T.astype(np.float64)
    reading = found.astype(np.float64)
    whole = np.issubdtype(found.dtype, np.integer)
    if whole:
        excess_e = gain * true_adu(reading - bias, curve) - level
        variance_e2 = np.maximum(level, 0) + readout.read_noise_e**2
        reading += _hidden_by_rounding(rng, excess_e * gain / variance_e2)
    true = true_adu(reading - bias, curve)
    lit = slice(columns.start - window.start, columns.stop - window.start)
    change = _change_read(rng, injection.signal_e()[0].T, level, gain * true, lit, readout.read_noise_e**2, serial_trap)
    changed = reading + read_adu(true + change / gain, curve) - read_adu(true, curve)
    changed = np.minimum(np.rint(changed) if whole else changed, readout.saturation_adu)
    lowest = np.iinfo(found.dtype).min if whole else -np.inf
    keep = (found >= readout.saturation_adu) | dropped_rows(frame.pixels_adu[rows], bias_adu)[:, None] | (change == 0)
    frame.pixels_adu[rows, window] = np.where(keep, found, np.maximum(changed, lowest)).astype(found.dtype)


def _change_read(
    rng: np.random.Generator,
    signal_e: np.ndarray,
    level_e: np.ndarray,
    read_e: np.ndarray,
    lit: slice,
    floor_e2: float,
    serial_trap: SerialTrap | None,
) -> np.ndarray:
    """Electrons by which an event that lights the columns ``lit`` changes the readings of a window (t, x)."""
    charge_e = read_e.copy()
    if serial_trap is not None:
        remove_serial_trap(charge_e, serial_trap)
    change_e = np.zeros_like(read_e)
    change_e[:, lit] = draw_change(rng, signal_e, level_e[:, lit], charge_e[:, lit], floor_e2)
    if serial_trap is None:
        return change_e
    changed_e = charge_e + change_e
    apply_serial_trap(charge_e, serial_trap)
    apply_serial_trap(changed_e, serial_trap)
    return changed_e - charge_e


def true_adu(reading_adu: np.ndarray, nonlinearity: tuple[float, float] | None) -> np.ndarray:
    """Linear ADU of readings over the bias: ``x / (a x² + b x + 1)``."""
    if nonlinearity is None:
        return reading_adu
    a, b = nonlinearity
    return reading_adu / ((a * reading_adu + b) * reading_adu + 1)


def read_adu(true: np.ndarray, nonlinearity: tuple[float, float] | None) -> np.ndarray:
    """Readings over the bias of linear ADU: the inverse of `true_adu`, in a form that allows ``a = 0``."""
    if nonlinearity is None:
        return true
    a, b = nonlinearity
    linear = 1 - b * true
    return 2 * true / (linear + np.sqrt(linear**2 - 4 * a * true**2))


def _hidden_by_rounding(rng: np.random.Generator, slope: np.ndarray) -> np.ndarray:
    """Draw numbers between -1/2 and 1/2 of density ``1 - slope u``, by inversion."""
    slope = np.clip(slope, -_STEEPEST, _STEEPEST)
    rest = 0.5 + slope / 8 - rng.random(slope.shape)
    return -2 * rest / (1 + np.sqrt(1 + 2 * slope * rest))


def _write_copy(path: Path, target: Path, changed: Mapping[int, Path], work: Path) -> None:
    """Copy a file with changed pixels in some HDUs, one HDU in memory at a time; astropy renews checksums."""
    partial = work / "copy.fits"
    with fits.open(path, memmap=False) as source:
        for index, hdu in enumerate(source):
            if index == 0:
                hdu.writeto(partial)
                continue
            if index in changed:
                hdu.data[:] = np.load(changed[index])
            with fits.open(partial, mode="append", memmap=False) as file:
                file.append(hdu)
            del hdu.data
    put_in_place(partial, target)

"""Inject events into copies of image cubes, in the units of the file, and write their truth."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.residuals import noise_floor_e2
from shutterless.pipeline.injection.amplifiers import Injection, InjectionSettings, draw_change, place_injections
from shutterless.pipeline.injection.injected_files import (
    InjectedFile,
    put_in_place,
    seeds_of,
    target_of,
    true_star_table,
    truth_table,
)
from shutterless.pipeline.reading.cubes import Cube, read_cube, write_changed_cube
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier


def inject_cube(
    path: str | Path,
    out: str | Path,
    settings: InjectionSettings,
    *,
    events: int,
    seed: int,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
) -> InjectedFile:
    """Write a copy of an image cube with events in it.

    Parameters and errors are those of `shutterless.pipeline.injection.files.inject_file`.

    Notes
    -----
    The star is taken to be at its mean place, so an event has the profile of the median image. Added light has photon
    noise; if the file gives errors of pixels, they are raised by it.
    """
    path = Path(path)
    target = target_of(path, out)
    cube = read_cube(path, instrument, supplied)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{path.name}.") as work:
        row = ingest_amplifier(path, None, work, instrument=instrument, supplied=supplied)
        amplifier = open_amplifier(work, row["entry"])
        rng = np.random.default_rng(seeds_of(seed, path, None))
        injections = place_injections(amplifier, rng, settings, events)
        change_e, light_e = np.zeros_like(cube.flux_e), np.zeros_like(cube.flux_e)
        for injection in injections:
            _add_change(cube, amplifier, injection, rng, change_e, light_e)
        partial = Path(work) / "copy.fits"
        write_changed_cube(path, partial, change_e, np.maximum(light_e, 0.0), instrument, supplied)
        put_in_place(partial, target)
        return InjectedFile(target, truth_table(injections, amplifier, path), true_star_table(amplifier, path), {})


def _add_change(
    cube: Cube,
    amplifier: Amplifier,
    injection: Injection,
    rng: np.random.Generator,
    change_e: np.ndarray,
    light_e: np.ndarray,
) -> None:
    """Add the change by an event, and the mean of that change, to two stacks (y, x, t) in place."""
    window = (injection.y, injection.columns, injection.rows_lit)
    level = amplifier.level_rows(*window[:2], window[2].start, window[2].stop)
    signal_e = injection.signal_e()
    change_e[window] += draw_change(rng, signal_e, level, cube.flux_e[window], noise_floor_e2(cube.readout))
    light_e[window] += signal_e

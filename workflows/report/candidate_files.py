"""Write the pixels around a pictured candidate as FITS and its light curve as ECSV beside the page."""

from __future__ import annotations

from urllib.parse import quote

import numpy as np
import pandas as pd
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from astropy.time import Time

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.files import written_whole
from shutterless.pipeline.reading.readout import Readout
from shutterless.workflows.pages.run_folder import RunFolder
from shutterless.workflows.report.candidate_cards import cut_window, fit_light, profile_of, window_rows
from shutterless.workflows.report.cube_cards import cube_of, pixels_around, shown_rows
from shutterless.workflows.report.cube_entry import CubeEntry, read_light
from shutterless.workflows.report.cube_sections import MAX_PIXELS

FOLDER = "report"  # beside report.html


def write_candidate_files(run: RunFolder, candidate: pd.Series) -> list[tuple[str, str]]:
    """Write the files of one candidate into the folder `FOLDER` of the report.

    Returns
    -------
    list of (str, str)
        What each file is, and its address on the page; none if the amplifier is not in the store.
    """
    entry = run.entry_of(candidate)
    if entry is None or not entry.is_dir():
        return []
    cube = cube_of(run, candidate) if pd.isna(candidate["quadrant"]) else None
    images, curve = cut_candidate(run.open_entry(entry) if cube is None else cube, candidate)
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    name = quote(str(candidate["candidate_id"]), safe="")  # a name may hold a slash
    with written_whole(folder / f"{name}.fits") as partial:
        images.writeto(partial)
    with written_whole(folder / f"{name}.ecsv") as partial:
        curve.write(partial, format="ascii.ecsv")
    what = "strip" if cube is None else "images"
    address = f"{FOLDER}/{quote(name)}"
    return [(f"{what} (FITS)", f"{address}.fits"), ("light curve (ECSV)", f"{address}.ecsv")]


def cut_candidate(calibrated: Amplifier | CubeEntry, candidate: pd.Series) -> tuple[fits.HDUList, QTable]:
    """Pixels around a candidate, and its light curve.

    Parameters
    ----------
    calibrated : Amplifier or CubeEntry
        That holds the candidate.
    candidate : Series

    Returns
    -------
    images : HDUList
        Of continuous readout the residual (x, t) in σ of the columns around it; of a cube the light minus baseline
        (t, y, x) in electrons. In ``NOISE`` the noise of each column, or pixel, in electrons.
    curve : QTable
        Light in electrons with its times.
    """
    if isinstance(calibrated, Amplifier):
        images, curve = _cut_frame(calibrated, candidate)
    else:
        images, curve = _cut_cube(calibrated, candidate)
    _describe_file(images[0].header, curve, candidate)
    return fits.HDUList(images), curve


def _describe_file(header: fits.Header, curve: QTable, candidate: pd.Series) -> None:
    for key, name in (("CANDID", "candidate_id"), ("SOURCE", "file"), ("MODEL", "model")):
        curve.meta[name] = str(candidate[name])
        header[key] = str(candidate[name]).encode("ascii", "backslashreplace").decode()
    header["PEAKROW"] = int(candidate["row_peak"]), "row of the file at the peak, from 0"
    curve.meta["row_peak"] = int(candidate["row_peak"])


def _cut_frame(amplifier: Amplifier, candidate: pd.Series) -> tuple[list[fits.hdu.base._BaseHDU], QTable]:
    """Residuals (x, t) in σ and the noise of the columns (e⁻); light of the source in each row."""
    start, stop = window_rows(candidate, amplifier.n_rows)
    strip, noise_e, first_column = cut_window(amplifier, candidate, start, stop)
    primary = fits.PrimaryHDU(strip)
    primary.header["BUNIT"] = "", "residual in units of its sigma; NaN is masked"
    _add_axis(primary.header, 1, "ROW", start)
    _add_axis(primary.header, 2, "COLUMN", first_column)
    noise = fits.ImageHDU(noise_e.astype(np.float32), name="NOISE")
    noise.header["BUNIT"] = "electron", "noise of a pixel in each column"
    light, error = fit_light(strip, profile_of(amplifier, candidate, first_column, len(strip)) / noise_e)
    rows = np.arange(start, stop)
    return [primary, noise], _light_table(amplifier.readout, rows, candidate, light, error)


def _cut_cube(cube: CubeEntry, candidate: pd.Series) -> tuple[list[fits.hdu.base._BaseHDU], QTable]:
    """Light minus baseline (t, y, x) and its σ in electrons; light of all these pixels in each cadence."""
    rows = shown_rows(candidate, cube.amplifier.n_rows)
    y, columns = pixels_around(cube, candidate, MAX_PIXELS)
    sigma = cube.amplifier.sigma_rows(y, columns, rows.start, rows.stop)
    residual = np.asarray(cube.amplifier.residual[y, columns, rows], dtype=np.float32) * sigma
    primary = fits.PrimaryHDU(np.moveaxis(residual, 2, 0).astype(np.float32))
    primary.header["BUNIT"] = "electron", "light minus baseline; NaN is masked"
    for axis, (name, first) in enumerate((("COLUMN", columns.start), ("ROW", y.start), ("CADENCE", rows.start)), 1):
        _add_axis(primary.header, axis, name, first)
    noise = fits.ImageHDU(np.moveaxis(sigma, 2, 0).astype(np.float32), name="NOISE")
    noise.header["BUNIT"] = "electron", "noise of each pixel"
    light = read_light(cube.amplifier, y, columns, rows)
    live = np.isfinite(light)
    total = np.where(live.any(axis=(0, 1)), np.nansum(light, axis=(0, 1)), np.nan)
    error = np.sqrt(np.where(live, sigma**2, 0).sum(axis=(0, 1)))
    cadences = np.arange(rows.start, rows.stop)
    return [primary, noise], _light_table(cube.amplifier.readout, cadences, candidate, total, error)


def _add_axis(header: fits.Header, axis: int, name: str, first: int) -> None:
    """Say which row, column or cadence, counted from 0, the first pixel of an axis is."""
    header[f"CTYPE{axis}"], header[f"CRPIX{axis}"] = name, 1.0
    header[f"CRVAL{axis}"], header[f"CDELT{axis}"] = float(first), 1.0


def _light_table(
    readout: Readout, rows: np.ndarray, candidate: pd.Series, light_e: np.ndarray, error_e: np.ndarray
) -> QTable:
    """Light curve with the times that are known: UTC, the archive's own, and seconds after the peak."""
    seconds = readout.seconds(rows) - float(readout.seconds(int(candidate["row_peak"])))
    table = QTable({"row": rows, "after_peak": seconds * u.s})
    utc = readout.read_utc(rows)
    if all(utc):
        table["time"] = Time(list(utc), format="isot", scale="utc", precision=6)
    archive = readout.archive_time(rows)
    if np.isfinite(archive).any():
        table["time_archive"] = archive
        table["time_archive"].info.description = readout.time_scale
    table["light"], table["light_error"] = light_e * u.electron, error_e * u.electron
    return table

"""Simulate sequences of continuous readout in the true file format, with their truth.

One task writes one file (`simulate_file`). Its random numbers depend only on the settings and the numbers of CCD and
file, so any number of workers in any order write the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from astropy.io import fits
from astropy.time import Time, TimeDelta

from shutterless.pipeline.simulation.content import AmplifierContent, draw_content
from shutterless.pipeline.simulation.frame_files import FrameFile, FrameFileError, create_frame_file
from shutterless.pipeline.simulation.pointing import (
    position_angle_deg,
    stated_direction,
    stated_wcs_cards,
    true_sky,
)
from shutterless.pipeline.simulation.rendering import render_blocks
from shutterless.pipeline.simulation.scene import PIXELS
from shutterless.pipeline.simulation.settings import SceneError, SceneSettings
from shutterless.pipeline.simulation.truth import star_rows, truth_rows


def _file_name(settings: SceneSettings, ccd: int, file_index: int) -> str:
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
    path = Path(out) / _file_name(settings, ccd, file_index)
    path.parent.mkdir(parents=True, exist_ok=True)
    truths, stars = [], []
    with create_frame_file(path, _primary_header(settings, ccd, file_index)) as file:
        for quadrant in range(1, len(settings.profile.quadrants) + 1):
            content = draw_content(settings, ccd, quadrant, file_index)
            _write_amplifier(file, settings, content, ccd, quadrant, file_index)
            sky = true_sky(settings, ccd, quadrant)
            truths.append(truth_rows(content, path.name, ccd, quadrant, sky))
            stars.append(star_rows(content.scene, path.name, ccd, quadrant, sky))
        try:
            file.check_order()
        except FrameFileError as error:
            raise SceneError(f"instrument profile {settings.instrument}: {error}") from error
    return path, pd.concat(truths, ignore_index=True), pd.concat(stars, ignore_index=True)


def _write_amplifier(
    file: FrameFile, settings: SceneSettings, content: AmplifierContent, ccd: int, quadrant: int, file_index: int
) -> None:
    layout, header = settings.profile.quadrants[quadrant - 1], _amplifier_header(settings, quadrant)
    n_rows, n_overscan = len(content.rows), settings.profile.n_overscan_columns
    pointed = header.copy()
    pointed.update(stated_wcs_cards(settings, ccd, quadrant))
    data = file.add_image(layout.data_hdu, pointed, (n_rows, settings.profile.n_columns), layout)
    overscan = file.add_image(layout.overscan_hdu, header, (n_rows, n_overscan), layout)
    for pixels, empty in render_blocks(settings, content, settings.generator(PIXELS, ccd, quadrant, file_index)):
        data.append(pixels)
        overscan.append(empty)


def _primary_header(settings: SceneSettings, ccd: int, file_index: int) -> fits.Header:
    first_row = None if settings.first_row is None else settings.first_row + file_index * settings.rows
    stated = stated_direction(settings)
    values = {
        "ccd": ccd,
        "row_rate_hz": settings.row_rate_hz,
        "shutter_open_utc": settings.shutter_open_utc,
        "shutter_close_utc": _shutter_close_utc(settings),
        "sequence": settings.sequence,
        "first_row": first_row,
        "n_transit": settings.electronics("n_transit"),
        "band": settings.band,
        "zero_point_mag": settings.magnitude_of_one_e_s,
        "pixel_scale_arcsec": settings.electronics("pixel_scale_arcsec"),
        "seeing_arcsec": settings.seeing_arcsec,
        "right_ascension": stated.ra_deg,
        "declination": stated.dec_deg,
        "position_angle_deg": position_angle_deg(settings) + settings.rotation_error_deg,
    }
    header = _header(settings, values)
    for keyword in settings.profile.recognise:
        if keyword not in header:
            header[keyword] = settings.profile.name
    return header


def _shutter_close_utc(settings: SceneSettings) -> str | None:
    if settings.shutter_close_row is None:
        return None
    opened = Time(settings.shutter_open_utc, scale="utc", format="isot", precision=9)
    closed = opened.tai + TimeDelta(settings.shutter_close_row / settings.row_rate_hz, format="sec")
    return str(closed.utc.isot)


def _amplifier_header(settings: SceneSettings, quadrant: int) -> fits.Header:
    names = ("gain_e_per_adu", "read_noise_e", "saturation_adu")
    start = settings.profile.defaults.get("amp_id_start", 1)
    values = {"amplifier": start + quadrant - 1, **{name: settings.electronics(name) for name in names}}
    return _header(settings, values)


def _header(settings: SceneSettings, values: dict[str, Any]) -> fits.Header:
    """Header cards with the profile's keywords, without values that are None or have no keyword."""
    header = fits.Header()
    for name, value in values.items():
        keyword = settings.profile.keywords.get(name)
        if keyword is not None and value is not None:
            header[keyword] = value
    return header

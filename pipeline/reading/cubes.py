"""Read image cubes (target pixel files and plain 3-D images): electrons on a regular grid of cadences."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time, TimeDelta

from shutterless.pipeline.reading.cube_parts.embedded_data import find_embedded_data
from shutterless.pipeline.reading.cube_parts.images import ChosenImages, choose_images, find_flags
from shutterless.pipeline.reading.cube_parts.lost_images import find_lost_images
from shutterless.pipeline.reading.cube_parts.order import order_frames
from shutterless.pipeline.reading.cube_parts.quality import describe_flags, restore_cosmic_rays
from shutterless.pipeline.reading.cube_parts.time_columns import (
    choose_time_column,
    coarse_step,
    holds_starts,
    read_times,
    refine_times,
    unit_of_times,
)
from shutterless.pipeline.reading.cube_parts.times import (
    cadence_of_times,
    find_cadence,
    find_start,
    median_step,
    place_in_exposure,
    read_image_times,
)
from shutterless.pipeline.reading.cube_parts.units import pixel_unit
from shutterless.pipeline.reading.cube_times import DAY_S, CadenceGrid, FrameTimes, lay_out_cadences
from shutterless.pipeline.reading.fits_files import (
    FrameError,
    HeaderValues,
    check_supplied,
    choose_profile,
    find_damage,
    frame_stem,
    open_fits,
)
from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.pipeline.reading.instruments import TIME_SCALES, CubeProfile
from shutterless.pipeline.reading.readout import Readout

MIN_FRAMES, FEW_FRAMES = 2, 20  # that can be read, and from which noise is known
SMALL_IMAGE = 5  # pixels of the shorter side, below which there is no pixel with two neighbours on every side
LONGEST_TARGET_S = 121.0  # cadence of targets; full frames have longer ones
NOT_IN_FILE = -1  # quality of a cadence that the file leaves out
_LONGEST_EXPOSURE = 1.02  # cadences, for a cadence that is measured in times has an error
_OPTIMAL_APERTURE = 2  # value of bit 2
_QUALITY_COLUMNS = ("SAP_QUALITY", "DQUALITY", "FLAGS")  # where archives and their users keep flags, too


@dataclass(frozen=True)
class Cube:
    """One image cube on a regular grid of cadences, so that gaps keep their length.

    Parameters
    ----------
    flux_e : ndarray of float32, shape (y, x, t)
        Electrons per pixel and cadence as the file has them, with or without sky. NaN where masked: pixels that are not
        finite, and cadences without a time, with a quality flag that is not ignored, or missing in the file.
    error_e : ndarray of float32, shape (y, x, t), or None
        Error (1 sigma) that the file gives, NaN where the flux is.
    position_px : ndarray of float64, shape (t, 2), or None
        Offset (column, row) of the stars in pixels; None if the file has none or if it is constant.
    aperture : ndarray of bool, shape (y, x), or None
        The archive's optimal aperture; None if there is none.
    quality : ndarray of int64, shape (t,)
        Flags of the file; `NOT_IN_FILE` where it leaves a cadence out.
    exposure_s : float
        Seconds of a cadence in which light was collected and kept.
    readout : Readout
        Row 0 at ``shutter_open_utc``, no transit; with the times of all rows.
    profile : CubeProfile
    path : Path
    hdu : int
        Of the pixels; the primary one is 0.
    image : ndarray of int64, shape (t,)
        Number of the image in the file, from 1, of each row; `NOT_IN_FILE` where there is none.
    number : ndarray of int64, shape (t,), or None
        Number that the file gives the cadence; `NOT_IN_FILE` where it leaves one out. None if it has none.
    noise_is_known : bool
        Whether the noise follows from the file's errors, or from its electrons and read noise.
    seeing_is_stated : bool
        Whether the file or the user gives the width of stars.
    notes : tuple of str
        What was taken, guessed or left out, in words.
    """

    flux_e: np.ndarray
    error_e: np.ndarray | None
    position_px: np.ndarray | None
    aperture: np.ndarray | None
    quality: np.ndarray
    exposure_s: float
    readout: Readout
    profile: CubeProfile
    path: Path
    hdu: int
    image: np.ndarray
    number: np.ndarray | None = None
    noise_is_known: bool = True
    seeing_is_stated: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _OpenCube:
    """An open cube file: its pixels, its table and the values of its headers.

    ``order`` lists the frames in the order of their times, each once; ``images`` is None for a table of images. What is
    found on the way is added to ``notes``.
    """

    hdus: fits.HDUList
    pixels: Any
    table: Any
    values: HeaderValues
    profile: CubeProfile
    path: Path
    images: ChosenImages | None = None
    order: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames, height, width."""
        flux = self.profile.columns.get("flux")
        stored = self.images.shape if self.images is not None else self.table.data[flux].shape
        return (stored[0] if self.order is None else len(self.order), *stored[1:])

    def column_name(self, name: str) -> str | None:
        """Column of one of the profile's names, None if the file does not have it."""
        column = self.profile.columns.get(name)
        if self.table is None or column is None:
            return None
        if name == "time" and self.images is not None:
            return choose_time_column(self.table.columns.names, column)
        others = _QUALITY_COLUMNS if name == "quality" else ()
        return next((one for one in (column, *others) if one in self.table.columns.names), None)

    def column(self, name: str, kind: type = np.float64) -> np.ndarray | None:
        """One of the profile's columns in native byte order and the order of times, None if there is none."""
        column = self.column_name(name)
        if column is None:
            return None
        raw = np.asarray(self.table.data[column])
        values: np.ndarray = (
            read_times(raw, self.values.find("time_system")) if name == "time" else raw.astype(kind, copy=True)
        )
        return values if self.order is None else values[self.order]

    def time_unit(self, cadence_s: float | None) -> str | None:
        """Unit of the column of times, told by the cadence if it is not stated."""
        name = self.column_name("time")
        assert name is not None
        return unit_of_times(name, np.asarray(self.table.data[name]), self.table.columns[name].unit, cadence_s)

    def coarse_step(self) -> float:
        """Step of times of 32 bits in their unit, 0 for those of 64 bits and without times."""
        name = self.column_name("time")
        return 0.0 if name is None else coarse_step(np.asarray(self.table.data[name]))

    def stored_order(self, values: np.ndarray) -> np.ndarray:
        """Values of all frames of the file by those of the frames in order; 0 for frames that are left out."""
        if self.order is None:
            return values
        n_stored = self.images.shape[0] if self.images is not None else len(self.table.data)
        stored = np.zeros((n_stored, *values.shape[1:]), values.dtype)
        stored[self.order] = values
        return stored


def read_cube_info(
    path: str | Path, instrument: str | None = None, supplied: Mapping[str, str] | None = None
) -> FrameInfo:
    """Read and check headers and times of one image cube.

    Parameters
    ----------
    path : path
        ``.fits``, ``.fits.gz`` or ``.fits.fz``.
    instrument : str, optional
        Profile name or TOML path; recognised from the primary header when left out.
    supplied : mapping of str to str, optional
        Header values that replace or complete those in the file, by keyword (``{"CADENCE": "2.0"}``).

    Returns
    -------
    FrameInfo
        With one readout, under None.

    Raises
    ------
    FrameError
        If the file is not readable FITS, is truncated, has too few frames or the wrong dimensions, lacks a column or a
        value that is not supplied, or if its times contradict each other.
    ProfileError
        If no profile fits.
    """
    path = Path(path)
    with open_fits(path) as hdus:
        cube = _open_cube(hdus, path, instrument, supplied)
        readout, grid = _build_readout(cube)
        _electrons_per_value(cube, 1 / readout.row_rate_hz)  # an unknown unit is an error before pixels are read
        _, n_y, n_columns = cube.shape
    return FrameInfo(
        path=path,
        profile=cube.profile,
        n_rows=grid.n_rows,
        readouts={None: readout},
        skipped={},
        n_columns=n_columns,
        n_y=n_y,
        notes=tuple(cube.notes),
    )


def read_cube(path: str | Path, instrument: str | None = None, supplied: Mapping[str, str] | None = None) -> Cube:
    """Read one image cube.

    Parameters are those of `read_cube_info`.

    Raises
    ------
    FrameError
        As `read_cube_info`, and if the pixels are damaged, all NaN, all masked or all alike.
    """
    path = Path(path)
    with open_fits(path) as hdus:
        cube = _open_cube(hdus, path, instrument, supplied)
        readout, grid = _build_readout(cube)
        cube.notes.extend(find_damage(path))
        return _read_pixels(cube, readout, grid)


def write_changed_cube(
    path: str | Path,
    target: Path,
    change_e: np.ndarray,
    variance_e2: np.ndarray,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
) -> None:
    """Write a copy of a cube's file with changed pixels, all else unchanged.

    Parameters
    ----------
    path, target : path
    change_e : ndarray, shape (y, x, t)
        Electrons to be added, in the rows of `read_cube`.
    variance_e2 : ndarray, shape (y, x, t)
        Added to the squares of the file's errors (electrons²).
    instrument, supplied
        As `read_cube_info`.
    """
    path = Path(path)
    with open_fits(path) as hdus:
        cube = _open_cube(hdus, path, instrument, supplied)
        readout, grid = _build_readout(cube)
        factor = _electrons_per_value(cube, 1 / readout.row_rate_hz)
        change, variance = (
            cube.stored_order(np.moveaxis(part, 2, 0)[grid.rows])
            for part in (change_e / factor, variance_e2 / factor**2)
        )
        if cube.images is not None:
            _write_changed_images(path, target, cube, change)
            return
        columns, data = cube.profile.columns, cube.table.data
        data[columns["flux"]][:] += change
        if columns.get("flux_error") in cube.table.columns.names:
            data[columns["flux_error"]][:] = np.sqrt(data[columns["flux_error"]] ** 2 + variance)
        hdus.writeto(target, output_verify="silentfix+ignore")


def _write_changed_images(path: Path, target: Path, cube: _OpenCube, change: np.ndarray) -> None:
    """Add a change to the numbers as they are stored, so that scaled integers stay what they are."""
    assert cube.images is not None
    number = next(k for k, hdu in enumerate(cube.hdus) if hdu is cube.pixels)
    with open_fits(path, scaled=False) as stored:
        header, data = stored[number].header, stored[number].data
        scale = float(header.get("BSCALE", 1.0))
        undefined = data == header["BLANK"] if "BLANK" in header and data.dtype.kind in "iu" else None
        view = cube.images.arrange(data)
        view[:] = _add_within(view, change / scale)
        if undefined is not None:
            data[undefined] = header["BLANK"]
        stored.writeto(target, output_verify="silentfix+ignore")


def _add_within(images: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Add a change to images and keep their type: integers are rounded and clipped to their range."""
    changed = images + change
    if np.issubdtype(images.dtype, np.integer):
        limits = np.iinfo(images.dtype)
        changed = np.clip(np.rint(changed), limits.min, limits.max)
    return changed.astype(images.dtype)


def _open_cube(hdus: fits.HDUList, path: Path, instrument: str | None, supplied: Mapping[str, str] | None) -> _OpenCube:
    supplied = dict(supplied or {})
    profile = choose_profile(path, hdus[0].header, instrument, supplied)
    if not isinstance(profile, CubeProfile):
        raise FrameError(f"{path} is no image cube (profile {profile.name}); name another with --instrument")
    check_supplied(supplied, profile)
    cube = _find_image(hdus, profile, path, supplied) if profile.table_hdu is None else _find_table(hdus, profile, path)
    cube = replace(cube, values=HeaderValues(path, profile, supplied, (cube.pixels.header, hdus[0].header)))
    _check_shape(cube)
    times = cube.column("time")
    if times is not None and cube.coarse_step() and (np.diff(times) >= 0).all():
        times = None  # equal ones are different cadences
    order, notes = order_frames(times, cube.column("cadence_number", np.int64))
    cube.notes.extend(notes)
    cube = replace(cube, order=order)
    if min(cube.shape[1:]) < SMALL_IMAGE:
        size = " × ".join(map(str, cube.shape[1:]))
        cube.notes.append(
            f"images of {size} pixels are small: every pixel is at the border, so no event is told from a cosmic ray "
            "by its shape"
        )
    if cube.shape[0] < FEW_FRAMES:
        cube.notes.append(
            f"{cube.shape[0]} images are few: at least {FEW_FRAMES} are needed to measure noise and find events"
        )
    return cube


def _find_table(hdus: fits.HDUList, profile: CubeProfile, path: Path) -> _OpenCube:
    """Table that holds both pixels and times: the one that the profile names, or else the first with their columns."""
    index = profile.table_hdu
    assert index is not None
    wanted = [profile.columns[name] for name in ("time", "flux")]
    tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU) and not hdu.is_image]
    fitting = [hdu for hdu in tables if set(wanted) <= set(hdu.columns.names)]
    named = index < len(hdus) and isinstance(hdus[index], fits.BinTableHDU)
    if not fitting and not named:
        kinds = [type(hdu).__name__ for hdu in hdus]
        raise FrameError(f"{path}: profile {profile.name} expects a table in HDU {index}, the file holds {kinds}")
    table = hdus[index] if not fitting or (named and any(hdu is hdus[index] for hdu in fitting)) else fitting[0]
    for column in wanted:
        if column not in table.columns.names:
            raise FrameError(
                f"{path}: the table has no column {column}, it has {table.columns.names}; is it a target pixel file?"
            )
    values = HeaderValues(path, profile, {}, (table.header, hdus[0].header))
    return _OpenCube(hdus, table, table, values, profile, path)


def _find_image(hdus: fits.HDUList, profile: CubeProfile, path: Path, supplied: Mapping[str, str]) -> _OpenCube:
    """Images of a plain cube, and the first table with a column of times or none."""
    images = choose_images(hdus, path, supplied.get(profile.keywords.get("image_hdu", "")))
    tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU) and not hdu.is_image]
    timed = [hdu for hdu in tables if choose_time_column(hdu.columns.names, profile.columns["time"])]
    values = HeaderValues(path, profile, supplied, (images.hdu.header, hdus[0].header))
    table = timed[0] if timed else None
    return _OpenCube(hdus, images.hdu, table, values, profile, path, images, notes=list(images.notes))


def _check_shape(cube: _OpenCube) -> None:
    shape, path = tuple(cube.shape), cube.path
    if len(shape) != 3 or min(shape[1:]) < 1:
        what = cube.profile.columns.get("flux", "the image")
        raise FrameError(f"{path}: {what} has shape {shape}, expected are images (t, y, x)")
    if shape[0] < MIN_FRAMES:
        raise FrameError(f"{path}: the number of cadences is {shape[0]}, at least {MIN_FRAMES} are needed")
    if cube.table is not None and len(cube.table.data) != shape[0]:
        raise FrameError(
            f"{path}: the table of times has {len(cube.table.data)} rows, the image (t, y, x) is {shape}: "
            "one time for each image is needed"
        )


def _build_readout(cube: _OpenCube) -> tuple[Readout, CadenceGrid]:
    values, path = cube.values, cube.path
    cadence_s, keyword = _cadence(cube)
    times, time_scale = (_image_times if cube.profile.table_hdu is None else _table_times)(cube, cadence_s, keyword)
    grid = lay_out_cadences(times, path)
    read_noise_e = _by_output(cube, "read_noise_e", positive=False) or 0.0
    readout = Readout(
        row_rate_hz=1 / cadence_s,
        gain_e_per_adu=_by_output(cube, "gain_e_per_adu") or 1.0,
        read_noise_e=float(read_noise_e * np.sqrt(values.number("n_reads", int) or 1)),
        saturation_adu=values.number("saturation_adu") or np.inf,
        n_transit=0,
        first_row=0,
        shutter_open_utc=grid.first_row_utc,
        sequence=str(values.find("sequence") or frame_stem(path)).strip(),
        band=str(values.find("band") or ""),
        zero_point_mag=values.number("zero_point_mag", positive=False),
        pixel_scale_arcsec=values.number("pixel_scale_arcsec") or 1.0,
        seeing_arcsec=values.number("seeing_arcsec") or 2.0,
        supplied=values.sorted_supplied,
        row_times=grid.row_times,
        time_scale=time_scale,
    )
    return readout, grid


def _cadence(cube: _OpenCube) -> tuple[float, str]:
    """Seconds from frame to frame, and where they were read."""
    values, units_s = cube.values, {"cadence_s": 1.0, "cadence_d": DAY_S}
    names = [name for name in units_s if name in values.profile.keywords]
    stated = None
    for name in names:
        cadence = values.number(name)
        if cadence is not None:
            stated = cadence * units_s[name], values.keyword(name)
            break
    if cube.images is None:
        if stated is not None:
            return stated
        days = cube.column("time")
        step_s = None if days is None else median_step(days * DAY_S)
        if step_s is None:
            raise values.missing(names[0])
        cadence_s, keyword, notes = cadence_of_times(step_s, f"{values.keyword(names[0])} is missing")
        cube.notes.extend(notes)
        return cadence_s, keyword
    times = cube.column("time")
    if times is not None and cube.coarse_step():
        times = None if (np.diff(times) <= 0).any() else times
    if times is not None:
        unit = cube.time_unit(None if stated is None else stated[0])
        times = times * read_image_times(times, unit, None, values, str(cube.column_name("time")))[0]
    axis = str(len(cube.pixels.shape) - cube.images.order[0])
    cadence_s, keyword, notes = find_cadence(values, stated, times, axis, cube.shape[0])
    cube.notes.extend(notes)
    return cadence_s, keyword


def _by_output(cube: _OpenCube, name: str, *, positive: bool = True) -> float | None:
    """A number that a file has once or for each output of its CCD: that of the output named, else the mean.

    TESS has outputs A to D. A cut-out is from one or two of them, but its header does not name them.
    """
    values, keyword = cube.values, cube.values.keyword(name)
    if values.read(keyword) is not None:
        return values.number(name, positive=positive)
    keywords = {output: keyword + output for output in cube.profile.outputs}
    found = {output: values.parse(key, values.read(key), positive=positive) for output, key in keywords.items()}
    stated = {output: number for output, number in found.items() if number is not None}
    if not stated:
        return values.number(name, positive=positive)
    return stated.get(str(values.find("output")).strip(), float(np.mean(list(stated.values()))))


def _table_times(cube: _OpenCube, cadence_s: float, keyword: str) -> tuple[FrameTimes, str]:
    """Times of a target pixel file, and a description of their scale.

    Notes
    -----
    ``TIME - TIMECORR`` is the observer's clock, in UTC for Kepler and in TDB for TESS (see their profiles). Kepler's
    modules are read a time slice before the end of the cadence.
    """
    values = cube.values
    reference_d = values.number("time_reference_d", positive=False) or 0.0
    fraction_d = values.number("time_reference_fraction_d", positive=False) or 0.0
    system = str(values.find("time_system")).strip().upper()
    barycentric = _is_barycentric(values)
    correction = cube.column("time_correction") if barycentric else None
    clock = (cube.profile.corrected_scale if barycentric else "") or system.lower()
    if correction is not None and not (np.isfinite(correction) & (correction != 0)).any():
        name = cube.profile.columns["time_correction"]
        cube.notes.append(f"no UTC: {name} is zero or NaN throughout, so the light time to the observer is not known")
        correction = None
    zero, early_s = None, _early_s(cube)
    if early_s is not None:
        early_s += _late_s(cube, cadence_s)
    if barycentric == (correction is not None) and early_s is not None and clock in TIME_SCALES:
        zero = Time(reference_d, fraction_d, format="jd", scale=clock) - TimeDelta(early_s, format="sec")
    time_scale = f"{'BJD' if barycentric else 'JD'} - {reference_d + fraction_d:.10g} ({system})"
    archive, numbers = cube.column("time"), cube.column("cadence_number", np.int64)
    assert archive is not None
    archive = _refine(cube, archive, correction, numbers, cadence_s / DAY_S, DAY_S)
    archive = _to_middle(cube, archive, cadence_s, DAY_S, cube.profile.columns["time"])
    if not np.isfinite(archive).any() and cube.column("cadence_number") is not None:
        cube.notes.append(f"no UTC: {cube.profile.columns['time']} is NaN throughout; cadences stand by their numbers")
    return (
        FrameTimes(archive, cadence_s, keyword, numbers, correction, DAY_S, zero),
        time_scale,
    )


def _is_barycentric(values: HeaderValues) -> bool:
    """Whether times are barycentric; UTC times without a stated place are the observer's."""
    place = values.read(values.keyword("time_place"))
    if place is None and str(values.find("time_system")).strip().upper() == "UTC":
        return False
    return str(values.find("time_place")).strip().upper() == "SOLARSYSTEM"


def _early_s(cube: _OpenCube) -> float | None:
    """Seconds by which the exposure of this module is early, None if it depends on a slice that is not known."""
    slices = cube.profile.time_slices
    if slices is None:
        return 0.0
    time_slice = cube.values.number("time_slice", int)
    return None if time_slice is None else slices.early_s(time_slice)


def _late_s(cube: _OpenCube, cadence_s: float) -> float:
    """Seconds by which the times of this release of the archive are late."""
    late, values = cube.profile.late_times, cube.values
    release = None if late is None else values.number("data_release", int, positive=False)
    if late is None or release is None or not late.is_late(release, str(values.find("processing") or "").strip()):
        return 0.0
    keyword = values.keyword("data_release")
    note = f"{keyword} = {release}: times of this release are {late.seconds:g} s late, UTC is mended"
    if cadence_s > LONGEST_TARGET_S:
        note += ", but not for the cameras of full frames, which are read up to 1.5 s apart"
    cube.notes.append(note)
    return late.seconds


def _image_times(cube: _OpenCube, cadence_s: float, keyword: str) -> tuple[FrameTimes, str]:
    """Times of a plain cube since ``DATE-OBS``, the start of the first exposure, and a description of their scale."""
    values = cube.values
    live_s, is_barycentric = _live_seconds(values, cadence_s), _is_barycentric(values)
    span_s = (cube.shape[0] - 1) * cadence_s + live_s
    start = find_start(values, is_barycentric=is_barycentric, span_s=span_s, live_s=live_s)
    archive = cube.column("time")
    if archive is None:
        cube.notes.extend([start.source] if start.source else [])
        zero = None if start.moment is None else start.moment.tai  # seconds are added on a uniform clock
        since = " since the start of the first exposure"
        if start.moment is not None:
            since = f" since {start.moment.isot} ({start.moment.scale.upper()})"
        seconds = live_s / 2 + np.arange(cube.shape[0]) * cadence_s
        return FrameTimes(seconds, cadence_s, keyword, unit_s=1.0, zero=zero), f"seconds{since}"
    name, numbers = str(cube.column_name("time")), cube.column("cadence_number", np.int64)
    unit_s, zero, since, notes = read_image_times(archive, cube.time_unit(cadence_s), start.moment, values, name)
    zero = None if is_barycentric else zero
    if start.source and (zero is None or start.moment is not None):  # else the column itself tells UTC
        cube.notes.append(start.source)
    cube.notes.extend(notes)
    archive = _refine(cube, archive, None, numbers, cadence_s / unit_s, unit_s)
    archive = _to_middle(cube, archive, cadence_s, unit_s, name)
    times = FrameTimes(archive, cadence_s, keyword, numbers, None, unit_s, zero)
    return times, ("days" if unit_s == DAY_S else f"{unit_s:g} s" if unit_s != 1 else "seconds") + since


def _refine(
    cube: _OpenCube,
    archive: np.ndarray,
    correction: np.ndarray | None,
    numbers: np.ndarray | None,
    cadence: float,
    unit_s: float,
) -> np.ndarray:
    """Times of 32 bits from the cadences, if they are too coarse."""
    what = str(cube.column_name("time"))
    refined, notes = refine_times(archive, correction, numbers, cube.coarse_step(), cadence, unit_s, what)
    cube.notes.extend(notes)
    return refined


def _to_middle(cube: _OpenCube, archive: np.ndarray, cadence_s: float, unit_s: float, name: str) -> np.ndarray:
    """Times of the middle of exposures from those of another moment in them."""
    place, why = place_in_exposure(cube.values), "TIMEPIXR says"
    if place == 0.5 and holds_starts(name):
        place, why = 0.0, "its name says"
    if place == 0.5:
        return archive
    shift_s = (0.5 - place) * _live_seconds(cube.values, cadence_s)
    which = {0.0: "the start", 1.0: "the end"}.get(place, f"{place:g}")
    cube.notes.append(f"column {name} is that of {which} of exposures, {why}: {shift_s:+.6g} s are added")
    return archive + shift_s / unit_s


def _read_pixels(cube: _OpenCube, readout: Readout, grid: CadenceGrid) -> Cube:
    n_frames = cube.shape[0]
    factor = _electrons_per_value(cube, 1 / readout.row_rate_hz)
    flux = _flux(cube)
    if not np.isfinite(flux).any():
        raise FrameError(f"{cube.path}: all pixels of all {n_frames} cadences are NaN or infinite")
    quality = cube.column("quality", np.int64)
    flux, restored = restore_cosmic_rays(flux, cube.column("cosmic_rays", np.float32), cube.column_name("cosmic_rays"))
    lost, notes = find_lost_images(flux)
    if cube.images is not None:
        embedded, found = find_embedded_data(flux)
        flux = np.where(embedded, np.float32(np.nan), flux) if embedded.any() else flux
        notes += found
    flux, flagged = _without_flagged(cube, flux)
    notes += restored + flagged + describe_flags(quality, cube.profile.ignored_quality_bits, _quality_column(cube))
    quality = np.zeros(n_frames, dtype=np.int64) if quality is None else quality
    good = _find_good(cube, quality, lost)
    flux_e = _spread(flux, factor, good, grid)
    _check_pixels(flux_e, cube.path)
    error = cube.column("flux_error", np.float32)
    error_e = None if error is None else _spread(error, factor, good, grid)
    if error_e is not None:
        error_e[np.isnan(flux_e)] = np.nan
    images = np.arange(n_frames) if cube.order is None else cube.order
    numbers = cube.column("cadence_number", np.int64)
    return Cube(
        flux_e=flux_e,
        error_e=error_e,
        position_px=_positions(cube, grid),
        aperture=_aperture(cube),
        quality=_by_row(quality, grid),
        exposure_s=_live_seconds(cube.values, 1 / readout.row_rate_hz),
        readout=readout,
        profile=cube.profile,
        path=cube.path,
        hdu=next(k for k, hdu in enumerate(cube.hdus) if hdu is cube.pixels),
        image=_by_row(images + 1, grid),
        number=None if numbers is None else _by_row(numbers, grid),
        noise_is_known=error_e is not None or pixel_unit(_flux_unit(cube)).is_light,
        seeing_is_stated=cube.values.read(cube.values.keyword("seeing_arcsec")) is not None,
        notes=tuple(dict.fromkeys((*cube.notes, *notes))),
    )


def _quality_column(cube: _OpenCube) -> str:
    """Name of the column of flags for the user; empty for images without a table, which have none."""
    if cube.images is not None and cube.column_name("quality") is None:
        return ""
    return cube.column_name("quality") or cube.profile.columns.get("quality", "")


def _without_flagged(cube: _OpenCube, flux: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels, NaN where an HDU of flags marks them."""
    if cube.images is None:
        return flux, ()
    bad, notes = find_flags(cube.hdus, cube.images)
    if bad is None:
        return flux, notes
    return np.where(bad if cube.order is None else bad[cube.order], np.float32(np.nan), flux), notes


def _flux_unit(cube: _OpenCube) -> str:
    """Unit of the pixels as the file writes it; without one, rates for archives and ADU for other images."""
    if cube.profile.table_hdu is None:
        return str(cube.values.find("unit") or "adu")
    return str(cube.table.columns[cube.profile.columns["flux"]].unit or "e-/s")


def _electrons_per_value(cube: _OpenCube, cadence_s: float) -> float:
    """Electrons per cadence of a pixel value of 1 (in electrons, electrons per second of live time, or ADU)."""
    unit = pixel_unit(_flux_unit(cube))
    if not unit.is_light:
        keyword = cube.profile.keywords.get("unit", "the unit of the flux column")
        note = f"{keyword} = {_flux_unit(cube)!r} counts no electrons: the noise is taken from the data alone"
        if note not in cube.notes:
            cube.notes.append(note)
        return 1.0
    gain = _by_output(cube, "gain_e_per_adu") if unit.is_adu else 1.0
    if gain is None:
        raise cube.values.missing("gain_e_per_adu")
    return gain * (_live_seconds(cube.values, cadence_s) if unit.is_rate else 1.0)


def _live_seconds(values: HeaderValues, cadence_s: float) -> float:
    """Seconds of a cadence in which light was collected and kept.

    Notes
    -----
    Frames of ``INT_TIME`` seconds are added on board, ``NUM_FRM`` to a cadence. If TESS mitigates cosmic rays
    (``CRMITEN``), it drops the highest and the lowest of every ``CRBLKSZ`` values of a pixel (TESS Instrument
    Handbook): 1.98 s × 900 × 8/10 = 1425.6 s = 0.0165 d, the EXPOSURE of 30 min images.
    """
    frame_s, n_frames = values.number("frame_exposure_s"), values.number("n_frames", int)
    if frame_s is not None and n_frames is not None:
        block = values.number("cosmic_ray_block", int)
        mitigated = str(values.find("cosmic_rays_mitigated")).strip().upper() in ("T", "TRUE", "1", "1.0")
        live_s = frame_s * n_frames * (1 - 2 / block if mitigated else 1)
    else:
        live_s = values.number("exposure_s") or cadence_s
    if not 0 < live_s <= cadence_s * _LONGEST_EXPOSURE:
        raise FrameError(
            f"{values.path}: exposures of {live_s:g} s do not fit into a cadence of {cadence_s:g} s; correct "
            f"{values.keyword('exposure_s' if frame_s is None else 'frame_exposure_s')} or the cadence with --set"
        )
    return float(min(live_s, cadence_s))


def _flux(cube: _OpenCube) -> np.ndarray:
    """Pixels as the file has them, float32, shape (f, y, x)."""
    if cube.profile.table_hdu is not None:
        flux = cube.column("flux", np.float32)
        assert flux is not None
        return flux
    assert cube.images is not None
    try:
        flux = cube.images.arrange(np.asarray(cube.pixels.data)).astype(np.float32)
        return flux if cube.order is None else flux[cube.order]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        raise
    except Exception as error:  # astropy's decompressor raises a class that it does not export
        raise FrameError(f"{cube.path}: the image cannot be unpacked: {' '.join(str(error).split())}") from error


def _find_good(cube: _OpenCube, quality: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Frames that have a time, no flag except ignored ones, and light, bool, shape (f,)."""
    ignored = sum(1 << (bit - 1) for bit in cube.profile.ignored_quality_bits)
    times = cube.column("time")
    timed = np.ones(len(quality), dtype=bool)
    if times is not None and np.isfinite(times).any():  # else the numbers of the cadences place them
        timed = np.isfinite(times)
    good = timed & (quality & ~ignored == 0) & ~lost
    if not good.any():
        raise FrameError(
            f"{cube.path}: all {len(good)} cadences are masked: {np.count_nonzero(~timed)} have no time and "
            f"{np.count_nonzero(quality & ~ignored)} are flagged in {cube.profile.columns.get('quality')}; a profile "
            "may list flags to be ignored (ignored_quality_bits)"
        )
    return good


def _spread(frames: np.ndarray, factor: float, good: np.ndarray, grid: CadenceGrid) -> np.ndarray:
    """Put good frames times a factor into their rows, NaN elsewhere: (f, y, x) to float32 (y, x, t)."""
    spread = np.full((*frames.shape[1:], grid.n_rows), np.nan, dtype=np.float32)
    spread[..., grid.rows[good]] = np.moveaxis(frames[good] * np.float32(factor), 0, -1)
    spread[np.isinf(spread)] = np.nan
    return spread


def _by_row(values: np.ndarray, grid: CadenceGrid) -> np.ndarray:
    """Integers of the frames in the rows of the grid, `NOT_IN_FILE` elsewhere."""
    spread = np.full(grid.n_rows, NOT_IN_FILE, dtype=np.int64)
    spread[grid.rows] = values
    return spread


def _check_pixels(flux_e: np.ndarray, path: Path) -> None:
    live = flux_e[np.isfinite(flux_e)]
    if not live.size:
        raise FrameError(f"{path}: every pixel of every unmasked cadence is NaN")
    if live.min() == live.max():
        raise FrameError(f"{path}: all pixels of all cadences equal {live[0]:g} electrons")


def _positions(cube: _OpenCube, grid: CadenceGrid) -> np.ndarray | None:
    columns = [cube.column(name) for name in ("position_column", "position_row")]
    found = [column for column in columns if column is not None]
    if len(found) < 2:
        return None
    positions = np.full((grid.n_rows, 2), np.nan)
    positions[grid.rows] = np.stack(found, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN
        moves = np.nanmax(positions, axis=0) > np.nanmin(positions, axis=0)
    return positions if moves.any() else None


def _aperture(cube: _OpenCube) -> np.ndarray | None:
    name = cube.profile.aperture_hdu
    found = [hdu for hdu in cube.hdus if hdu.is_image and hdu.name == name]
    if not name or not found or found[0].data is None:
        return None
    # some versions of TESScut write floats
    aperture = np.nan_to_num(found[0].data).astype(np.int64) & _OPTIMAL_APERTURE > 0
    if aperture.shape != cube.shape[1:]:
        raise FrameError(f"{cube.path}: {name} has shape {aperture.shape}, the images have {cube.shape[1:]}")
    return aperture if aperture.any() else None

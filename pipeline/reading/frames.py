"""Read and check continuous-readout FITS files, one amplifier at a time, in read order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning

from shutterless.pipeline.reading.fits_files import (
    FRAME_SUFFIXES,
    FrameError,
    HeaderValues,
    StoredFile,
    check_supplied,
    choose_profile,
    frame_stem,
    open_stored,
)
from shutterless.pipeline.reading.headers.dates import START_KEYS, DateError, is_plain_utc, read_date, state_start
from shutterless.pipeline.reading.instruments import CubeProfile, InstrumentProfile, QuadrantLayout
from shutterless.pipeline.reading.quadrants import find_quadrants
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.reading.rows import ImageRows, open_image_rows

__all__ = [
    "FRAME_SUFFIXES",
    "AmplifierRows",
    "Frame",
    "FrameError",
    "FrameInfo",
    "check_varies",
    "frame_stem",
    "open_amplifier_rows",
    "read_amplifier",
    "read_frame_info",
    "to_read_order",
]
_REQUIRED = ("row_rate_hz", "gain_e_per_adu", "read_noise_e", "saturation_adu")


@dataclass(frozen=True)
class FrameInfo:
    """Contents of the headers of one file, without its pixels.

    Parameters
    ----------
    path : Path
    profile : InstrumentProfile or CubeProfile
    n_rows : int
        Length of the time axis: rows of the detector in continuous readout, cadences of the grid in an image cube.
    readouts : mapping of int or None to Readout
        By quadrant (from 1); an image cube has one, None.
    skipped : mapping of int to str
        Quadrants that cannot be read, with the reason.
    n_columns, n_y : int
        Width and height (pixels) of one row of the time axis; continuous readout is one pixel high.
    notes : tuple of str
        What was taken, guessed or left out, in words.
    layouts : tuple of QuadrantLayout
        HDUs of every quadrant of the profile in this file; none of an image cube.
    """

    path: Path
    profile: InstrumentProfile | CubeProfile
    n_rows: int
    readouts: Mapping[int | None, Readout]
    skipped: Mapping[int, str]
    n_columns: int
    n_y: int = 1
    notes: tuple[str, ...] = ()
    layouts: tuple[QuadrantLayout, ...] = ()

    @property
    def n_pixels(self) -> int:
        """Pixels of all rows of all amplifiers that can be read."""
        return self.n_rows * self.n_y * self.n_columns * len(self.readouts)


@dataclass(frozen=True)
class Frame:
    """One amplifier of one file in read order.

    Parameters
    ----------
    pixels_adu : ndarray, shape (t, x), integer or float
        Axis 0 is the row, that is, time; axis 1 the column, in the order in which columns were read.
    overscan_adu : ndarray, shape (t, o)
        Overscan columns, the one read first at index 0.
    readout : Readout
    profile : InstrumentProfile
    path : Path
    notes : tuple of str
        What was taken, guessed or left out, in words.
    """

    pixels_adu: np.ndarray
    overscan_adu: np.ndarray
    readout: Readout
    profile: InstrumentProfile
    path: Path
    notes: tuple[str, ...] = ()


def read_frame_info(
    path: str | Path, instrument: str | None = None, supplied: Mapping[str, str] | None = None
) -> FrameInfo:
    """Read and check the headers of one file.

    Parameters
    ----------
    path : path
        ``.fits``, ``.fits.gz`` or ``.fits.fz``.
    instrument : str, optional
        Profile name or TOML path; recognised from the header when left out.
    supplied : mapping of str to str, optional
        Header values that replace or complete those in the file, by keyword (``{"ROWRATE": "300"}``).

    Raises
    ------
    FrameError
        If the file is not readable FITS, is truncated, has the wrong layout, lacks a value that is not supplied, or is
        an image cube.
    ProfileError
        If no profile fits.
    """
    path = Path(path)
    supplied = dict(supplied or {})
    with open_stored(path) as file:
        profile = _choose_profile(path, file.header(0), instrument, supplied)
        check_supplied(supplied, profile)
        readouts: dict[int | None, Readout] = {}
        skipped: dict[int, str] = {}
        rows = {}
        layouts, places = find_quadrants(file, profile)
        notes = [*file.structure.notes, *places]
        for quadrant, layout in enumerate(layouts, start=1):
            try:
                rows[quadrant] = _check_layout(file, layout, profile, quadrant, path)
                readouts[quadrant] = _build_readout(file, layout, profile, quadrant, supplied, path, notes)
            except FrameError as error:
                skipped[quadrant] = str(error)
        if not readouts:
            raise FrameError(next(iter(skipped.values())))
        if len(set(rows.values())) > 1:
            raise FrameError(f"{path}: quadrants differ in length (rows by quadrant: {rows}); the file is damaged")
        n_rows = next(iter(rows.values()))
    return FrameInfo(
        path=path, profile=profile, n_rows=n_rows, readouts=readouts, skipped=skipped, n_columns=profile.n_columns,
        notes=tuple(dict.fromkeys(notes)), layouts=layouts,
    )  # fmt: skip


def read_amplifier(
    path: str | Path, quadrant: int, instrument: str | None = None, supplied: Mapping[str, str] | None = None
) -> Frame:
    """Read one amplifier into read order.

    Parameters are those of `read_frame_info`, and ``quadrant`` from 1.

    Raises
    ------
    FrameError
        As `read_frame_info`, and if the amplifier's pixels are damaged, NaN or constant.
    """
    with open_amplifier_rows(path, quadrant, instrument, supplied) as rows:
        pixels = np.empty((rows.n_rows, rows.pixels.n_columns), dtype=rows.pixels.dtype)
        overscan = rows.read(0, pixels)
    check_varies(pixels, f"{path}: quadrant {quadrant}")
    return Frame(
        pixels_adu=pixels, overscan_adu=overscan, readout=rows.readout, profile=rows.profile, path=Path(path),
        notes=rows.notes,
    )  # fmt: skip


@dataclass(frozen=True)
class AmplifierRows:
    """Rows of one amplifier of an open file, in read order.

    Parameters
    ----------
    path : Path
    readout : Readout
    profile : InstrumentProfile
    pixels, overscan : ImageRows
    notes : tuple of str
        What was taken, guessed or left out, in words.
    """

    path: Path
    readout: Readout
    profile: InstrumentProfile
    pixels: ImageRows
    overscan: ImageRows
    notes: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """Rows of the file."""
        return self.pixels.n_rows

    def read(self, start: int, out: np.ndarray) -> np.ndarray:
        """Fill ``out``, shape (t, x), with the rows from ``start`` on; return their overscan, shape (t, o).

        Raises
        ------
        FrameError
            If they are damaged or hold NaN.
        """
        overscan = np.empty((len(out), self.overscan.n_columns), dtype=self.overscan.dtype)
        for what, image, to in (("", self.pixels, out), ("overscan of ", self.overscan, overscan)):
            try:
                image.read(start, to)
            except (AstropyWarning, OSError, ValueError, TypeError, KeyError, IndexError):
                raise
            except Exception as error:  # astropy's decompressor raises a class that it does not export
                reason = " ".join(str(error).split())
                raise FrameError(
                    f"{self.path}: {what}quadrant {self.readout.quadrant} cannot be unpacked: {reason}"
                ) from error
            _check_finite(to, f"{self.path}: {what}quadrant {self.readout.quadrant}")
        return overscan


@contextmanager
def open_amplifier_rows(
    path: str | Path, quadrant: int, instrument: str | None = None, supplied: Mapping[str, str] | None = None
) -> Iterator[AmplifierRows]:
    """Open an amplifier to read its rows a segment at a time.

    Parameters and errors are those of `read_amplifier`.
    """
    path = Path(path)
    supplied = dict(supplied or {})
    with open_stored(path) as file:
        profile = _choose_profile(path, file.header(0), instrument, supplied)
        if not 1 <= quadrant <= len(profile.quadrants):
            raise FrameError(f"{path}: quadrant {quadrant} is not one of 1..{len(profile.quadrants)} of {profile.name}")
        layouts, places = find_quadrants(file, profile)
        layout, notes = layouts[quadrant - 1], [*file.structure.notes, *places]
        _check_layout(file, layout, profile, quadrant, path)
        pixels, overscan = (open_image_rows(file, index, layout) for index in (layout.data_hdu, layout.overscan_hdu))
        readout = _build_readout(file, layout, profile, quadrant, supplied, path, notes)
        for index in (layout.data_hdu, layout.overscan_hdu):
            if damage := file.damage(index):
                notes.append(f"quadrant {quadrant}: HDU {index}: {damage}")
        yield AmplifierRows(path, readout, profile, pixels, overscan, tuple(dict.fromkeys(notes)))


def to_read_order(raw: np.ndarray, layout: QuadrantLayout) -> np.ndarray:
    """Flip raw CCD orientation to read order; applied twice it gives the input back."""
    rows = slice(None, None, -1) if layout.flip_rows else slice(None)
    columns = slice(None, None, -1) if layout.flip_columns else slice(None)
    return np.ascontiguousarray(raw[rows, columns])


def _choose_profile(
    path: Path, header: fits.Header, instrument: str | None, supplied: Mapping[str, str]
) -> InstrumentProfile:
    profile = choose_profile(path, header, instrument, supplied)
    if isinstance(profile, CubeProfile):
        raise FrameError(
            f"{path} is an image cube (profile {profile.name}); this command needs continuous-readout frames"
        )
    return profile


def _check_layout(
    file: StoredFile, layout: QuadrantLayout, profile: InstrumentProfile, quadrant: int, path: Path
) -> int:
    """Check that a quadrant's data and overscan HDUs exist and have the profile's widths; return its rows."""
    shapes = {}
    wanted = {
        "data": (layout.data_hdu, profile.n_columns),
        "overscan": (layout.overscan_hdu, profile.n_overscan_columns),
    }
    for what, (index, n_columns) in wanted.items():
        if index >= file.n_hdus:
            cut = " is not a complete FITS file, its last block is cut" if file.structure.is_cut else ""
            raise FrameError(
                f"{path}{cut}: quadrant {quadrant} has no {what} HDU {index} (the file has {file.n_hdus} HDUs, "
                f"profile {profile.name} expects it there)"
            )
        shape = file.shapes[index]
        if len(shape) != 2 or shape[1] != n_columns:
            raise FrameError(
                f"{path}: {what} HDU {index} of quadrant {quadrant} has shape {tuple(shape)}, "
                f"profile {profile.name} expects (rows, {n_columns}); use --instrument PROFILE.toml for another camera"
            )
        shapes[what] = shape
    if shapes["data"][0] != shapes["overscan"][0]:
        raise FrameError(
            f"{path}: quadrant {quadrant} has {shapes['data'][0]} data rows but {shapes['overscan'][0]} overscan rows"
        )
    if shapes["data"][0] == 0:
        raise FrameError(f"{path}: quadrant {quadrant} has no rows")
    return int(shapes["data"][0])


def _build_readout(
    file: StoredFile,
    layout: QuadrantLayout,
    profile: InstrumentProfile,
    quadrant: int,
    supplied: Mapping[str, str],
    path: Path,
    notes: list[str],
) -> Readout:
    """Readout of a quadrant; what is not understood and not needed is added to the notes."""
    values = HeaderValues(path, profile, supplied, (file.header(layout.data_hdu), file.header(0)))
    _check_amplifier_number(values.find("amplifier"), profile, quadrant, path)
    required = {name: values.number(name) for name in _REQUIRED}
    required["n_transit"] = values.number("n_transit", int)
    for name, value in required.items():
        if value is None:
            raise values.missing(name)
    first_row = values.number("first_row", int, positive=False)
    if first_row is not None and first_row < 0:
        raise FrameError(f"{path}: {profile.keywords['first_row']} = {first_row} is negative")
    opened = _opening(values, notes)
    # headers of single exposures have a closing time, too; without a first row it has no row
    timed = opened is not None and first_row is not None
    closed = _closing(values) if timed else None
    return Readout(
        **required,
        first_row=first_row,
        shutter_open_utc=opened,
        close_row=None if closed is None else _close_row(opened, closed, required["row_rate_hz"], profile, path),
        sequence=str(values.find("sequence") or frame_stem(path)),
        ccd=values.number("ccd", int, positive=False),
        quadrant=quadrant,
        band=str(values.find("band") or ""),
        zero_point_mag=values.number("zero_point_mag", positive=False),
        pixel_scale_arcsec=values.number("pixel_scale_arcsec") or 1.0,
        seeing_arcsec=values.number("seeing_arcsec") or 2.0,
        supplied=values.sorted_supplied,
    )


def _check_amplifier_number(amplifier: Any, profile: InstrumentProfile, quadrant: int, path: Path) -> None:
    """Warn if AMP_ID contradicts the order of the HDUs, which alone gives the quadrant.

    Archived ZTF headers count amplifiers from 0, files made for this project from the profile's ``amp_id_start``.
    """
    start = profile.defaults.get("amp_id_start", 1)
    if amplifier is not None and str(amplifier).strip() not in (str(quadrant - 1), str(quadrant - 1 + start)):
        warnings.warn(
            f"{path}: {profile.keywords['amplifier']} = {amplifier} in the HDU of quadrant {quadrant}; "
            "the order of the HDUs is used",
            UserWarning,
            stacklevel=2,
        )


def _opening(values: HeaderValues, notes: list[str]) -> str | None:
    """UTC at which the shutter opened; None, with the reason among the notes, if it is not known."""
    keyword = values.keyword("shutter_open_utc")
    value, system = values.find("shutter_open_utc"), values.read("TIMESYS") or "UTC"
    way_out = f"give it with --set {keyword}=2026-03-04T05:06:07"
    stated = state_start([(keyword, value, lambda text: read_date(text, system))], keyword, way_out)
    if stated.moment is None:
        if keyword in values.supplied:
            raise FrameError(f"{values.path}: --set {keyword}: {stated.source}")
        notes.append(stated.source + _other_dates(values, system))
        return None
    return str(value) if is_plain_utc(value, system) else str(Time(stated.moment.utc, format="isot", precision=6).value)


def _other_dates(values: HeaderValues, system: Any) -> str:
    """Dates of the header that may be the one that is not known, in words; which of them it is, the user must say."""
    found = []
    for keyword in ("DATE-OBS", *START_KEYS):
        value = values.read(keyword)
        with suppress(DateError):
            if value is not None:
                read_date(value, system)
                found.append(f"{keyword} = {value}")
    return f" ({', '.join(found)} may be when row 0 was read, or a later moment)" if found else ""


def _closing(values: HeaderValues) -> str | None:
    """UTC at which the shutter closed, None if it is not stated; what is lit depends on it."""
    keyword, value = values.keyword("shutter_close_utc"), values.find("shutter_close_utc")
    if value is None:
        return None
    system = values.read("TIMESYS") or "UTC"
    try:
        closed = Time(read_date(value, system).utc, format="isot", precision=6)
        return str(value) if is_plain_utc(value, system) else str(closed.value)
    except DateError as error:
        raise FrameError(
            f"{values.path}: {keyword} = {value!r} is not ISO 8601 UTC ({error}); correct it with --set {keyword}=VALUE"
        ) from None


def _close_row(opened: Any, closed: str, row_rate_hz: float, profile: InstrumentProfile, path: Path) -> int:
    """Sequence row that was read when the shutter closed."""
    open_s = (Time(closed, scale="utc", format="isot") - Time(opened, scale="utc", format="isot")).to_value("s")
    if open_s <= 0:
        names = (profile.keywords[name] for name in ("shutter_close_utc", "shutter_open_utc"))
        raise FrameError(
            f"{path}: {next(names)} = {closed} is not after {next(names)} = {opened}; "
            f"correct one of them with --set KEYWORD=VALUE"
        )
    return round(open_s * row_rate_hz)


def check_varies(pixels: np.ndarray, what: str) -> None:
    """Refuse an amplifier whose pixels all have one value.

    Raises
    ------
    FrameError
    """
    first = pixels.flat[0]
    # one row decides nearly always
    if np.all(pixels[0] == first) and pixels.min() == pixels.max():
        raise FrameError(f"{what}: all pixels equal {first}; the amplifier is skipped")


def _check_finite(pixels: np.ndarray, what: str) -> None:
    if np.issubdtype(pixels.dtype, np.floating):
        n_bad = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        if n_bad:
            raise FrameError(f"{what}: {n_bad} of {pixels.size} pixels are NaN or infinite; the amplifier is skipped")

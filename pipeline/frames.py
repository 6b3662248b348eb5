"""Read continuous-readout FITS files: one amplifier at a time, in read order, checked before it is believed."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning

from shutterless.pipeline.instruments import (
    InstrumentProfile,
    ProfileError,
    QuadrantLayout,
    load_profile,
    recognise_profile,
)
from shutterless.pipeline.readout import Readout

FRAME_SUFFIXES = (".fits", ".fits.gz", ".fits.fz")


class FrameError(ValueError):
    """A file or amplifier that cannot be read as a continuous-readout frame."""


@dataclass(frozen=True)
class FrameInfo:
    """What the headers of one file say, without its pixels.

    ``readouts`` maps each quadrant (from 1) to its `Readout`; ``skipped`` maps quadrants that cannot be read to the
    reason.
    """

    path: Path
    profile: InstrumentProfile
    n_rows: int
    readouts: Mapping[int, Readout]
    skipped: Mapping[int, str]


@dataclass(frozen=True)
class Frame:
    """One amplifier of one file in read order.

    Parameters
    ----------
    pixels_adu : ndarray, shape (t, x), integer or float
        Axis 0 is the row, which is time; axis 1 the column, in the order in which columns were read.
    overscan_adu : ndarray, shape (t, o)
        Overscan columns, the one read first at index 0.
    readout : Readout
    profile : InstrumentProfile
    path : Path
    """

    pixels_adu: np.ndarray
    overscan_adu: np.ndarray
    readout: Readout
    profile: InstrumentProfile
    path: Path


def frame_stem(path: str | Path) -> str:
    """File name without the FITS ending."""
    name = Path(path).name
    for suffix in sorted(FRAME_SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def read_info(path: str | Path, instrument: str | None = None, supplied: Mapping[str, str] | None = None) -> FrameInfo:
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
        If the file is not readable FITS, is truncated, has the wrong layout or lacks a value that nothing supplies.
    ProfileError
        If no profile fits.
    """
    path = Path(path)
    supplied = dict(supplied or {})
    with _open_fits(path) as hdus:
        header = hdus[0].header
        profile = load_profile(instrument) if instrument else _recognise(path, header, supplied)
        _check_supplied(supplied, profile)
        readouts: dict[int, Readout] = {}
        skipped: dict[int, str] = {}
        rows = {}
        for quadrant, layout in enumerate(profile.quadrants, start=1):
            try:
                rows[quadrant] = _check_layout(hdus, layout, profile, quadrant, path)
                readouts[quadrant] = _build_readout(hdus, layout, profile, quadrant, supplied, path)
            except FrameError as error:
                skipped[quadrant] = str(error)
        if not readouts:
            raise FrameError(next(iter(skipped.values())))
        if len(set(rows.values())) > 1:
            raise FrameError(f"{path}: quadrants differ in length (rows by quadrant: {rows}); the file is damaged")
        n_rows = next(iter(rows.values()))
    return FrameInfo(path=path, profile=profile, n_rows=n_rows, readouts=readouts, skipped=skipped)


def read_amplifier(
    path: str | Path, quadrant: int, instrument: str | None = None, supplied: Mapping[str, str] | None = None
) -> Frame:
    """Read one amplifier into read order.

    Parameters are those of `read_info`, and ``quadrant`` from 1.

    Raises
    ------
    FrameError
        As `read_info`, and if the amplifier's pixels are damaged, NaN or constant.
    """
    path = Path(path)
    supplied = dict(supplied or {})
    with _open_fits(path) as hdus:
        profile = load_profile(instrument) if instrument else _recognise(path, hdus[0].header, supplied)
        if not 1 <= quadrant <= len(profile.quadrants):
            raise FrameError(f"{path}: quadrant {quadrant} is not one of 1..{len(profile.quadrants)} of {profile.name}")
        layout = profile.quadrants[quadrant - 1]
        _check_layout(hdus, layout, profile, quadrant, path)
        readout = _build_readout(hdus, layout, profile, quadrant, supplied, path)
        pixels = _read_pixels(hdus, layout.data_hdu, path)
        overscan = _read_pixels(hdus, layout.overscan_hdu, path)
    _check_pixels(pixels, f"{path}: quadrant {quadrant}")
    _check_pixels(overscan, f"{path}: overscan of quadrant {quadrant}", may_be_constant=True)
    return Frame(
        pixels_adu=to_read_order(pixels, layout),
        overscan_adu=to_read_order(overscan, layout),
        readout=readout,
        profile=profile,
        path=path,
    )


def to_read_order(raw: np.ndarray, layout: QuadrantLayout) -> np.ndarray:
    """Flip raw CCD orientation to read order; applied twice it gives the input back."""
    rows = slice(None, None, -1) if layout.flip_rows else slice(None)
    columns = slice(None, None, -1) if layout.flip_columns else slice(None)
    return np.ascontiguousarray(raw[rows, columns])


@contextmanager
def _open_fits(path: Path) -> Iterator[fits.HDUList]:
    """Open a FITS file with every way in which it may be damaged turned into a `FrameError`."""
    if not path.exists():
        raise FrameError(f"{path} does not exist")
    if not path.is_file():
        raise FrameError(f"{path} is not a file")
    if not path.name.endswith(FRAME_SUFFIXES):
        raise FrameError(f"{path} does not end in one of {', '.join(FRAME_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise FrameError(f"{path} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", AstropyWarning)  # astropy only warns of a truncated file
            # scaled (BZERO) images cannot be memory-mapped; lazy loading would postpone the check for truncation
            # the handle is ours: astropy leaves its own open where it fails half-way
            with _open_stream(path) as stream, fits.open(stream, memmap=False, lazy_load_hdus=False) as hdus:
                yield hdus
    except (FrameError, ProfileError):
        raise
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, IndexError, AstropyWarning) as error:
        reason = " ".join(str(error).split())
        raise FrameError(f"{path} is not a complete FITS file: {reason}") from error


def _open_stream(path: Path) -> IO[bytes]:
    """Bytes of the file; a gzip stream is unpacked whole, since only its end says whether it is complete."""
    return io.BytesIO(gzip.decompress(path.read_bytes())) if path.name.endswith(".gz") else path.open("rb")


def _recognise(path: Path, header: fits.Header, supplied: Mapping[str, str]) -> InstrumentProfile:
    try:
        return recognise_profile({**dict(header), **supplied})
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error


def _check_supplied(supplied: Mapping[str, str], profile: InstrumentProfile) -> None:
    known = set(profile.keywords.values())
    for key in supplied:
        if key not in known:
            raise FrameError(f"--set {key}: profile {profile.name} has no such keyword; it reads {sorted(known)}")


def _check_layout(
    hdus: fits.HDUList, layout: QuadrantLayout, profile: InstrumentProfile, quadrant: int, path: Path
) -> int:
    """Number of rows of a quadrant whose data and overscan HDUs exist and have the profile's widths."""
    shapes = {}
    wanted = {
        "data": (layout.data_hdu, profile.n_columns),
        "overscan": (layout.overscan_hdu, profile.n_overscan_columns),
    }
    for what, (index, n_columns) in wanted.items():
        if index >= len(hdus):
            raise FrameError(
                f"{path}: quadrant {quadrant} has no {what} HDU {index} (the file has {len(hdus)} HDUs, "
                f"profile {profile.name} expects it there)"
            )
        shape = hdus[index].shape
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
    hdus: fits.HDUList,
    layout: QuadrantLayout,
    profile: InstrumentProfile,
    quadrant: int,
    supplied: Mapping[str, str],
    path: Path,
) -> Readout:
    header, primary = hdus[layout.data_hdu].header, hdus[0].header

    def look_up(name: str) -> Any:
        keyword = profile.keywords.get(name)
        for source in (supplied, header, primary):
            if keyword is not None and keyword in source and source[keyword] not in ("", None):
                return source[keyword]
        return profile.defaults.get(name)

    _check_amplifier_number(look_up("amplifier"), profile, quadrant, path)

    def number(name: str, kind: type, *, positive: bool = True) -> Any:
        value = look_up(name)
        keyword = profile.keywords.get(name, name)
        if value is None:
            return None
        try:
            parsed = kind(float(value))
            exact = kind is float or parsed == float(value)
        except (TypeError, ValueError, OverflowError):
            raise FrameError(
                f"{path}: {keyword} = {value!r} is not a number; correct it with --set {keyword}=VALUE"
            ) from None
        if not np.isfinite(parsed) or not exact or (positive and parsed <= 0):
            wanted = ("a positive " if positive else "a ") + ("whole number" if kind is int else "finite number")
            raise FrameError(f"{path}: {keyword} = {value!r} is not {wanted}; correct it with --set {keyword}=VALUE")
        return parsed

    required = {
        name: number(name, float) for name in ("row_rate_hz", "gain_e_per_adu", "read_noise_e", "saturation_adu")
    }
    required["n_transit"] = number("n_transit", int)
    for name, value in required.items():
        if value is None:
            keyword = profile.keywords.get(name, name)
            raise FrameError(f"{path}: {keyword} is missing and has no default; give it with --set {keyword}=VALUE")
    first_row = number("first_row", int, positive=False)
    if first_row is not None and first_row < 0:
        raise FrameError(f"{path}: {profile.keywords['first_row']} = {first_row} is negative")
    opened = _check_utc(look_up("shutter_open_utc"), "shutter_open_utc", profile, path)
    # single exposures say when the shutter closed too; without a first row it closes at no row
    timed = opened is not None and first_row is not None
    closed = _check_utc(look_up("shutter_close_utc"), "shutter_close_utc", profile, path) if timed else None
    return Readout(
        **required,
        first_row=first_row,
        shutter_open_utc=opened,
        close_row=None if closed is None else _close_row(opened, closed, required["row_rate_hz"], profile, path),
        sequence=str(look_up("sequence") or frame_stem(path)),
        ccd=number("ccd", int, positive=False),
        quadrant=quadrant,
        band=str(look_up("band") or ""),
        zero_point_mag=number("zero_point_mag", float, positive=False),
        pixel_scale_arcsec=number("pixel_scale_arcsec", float) or 1.0,
        seeing_arcsec=number("seeing_arcsec", float) or 2.0,
        supplied=tuple(sorted((key, str(value)) for key, value in supplied.items())),
    )


def _check_amplifier_number(amplifier: Any, profile: InstrumentProfile, quadrant: int, path: Path) -> None:
    """Say so where AMP_ID contradicts the HDU order, which alone gives the quadrant.

    Archived ZTF headers count amplifiers from 0, files made for this project from the profile's ``amp_id_start``.
    """
    start = profile.defaults.get("amp_id_start", 1)
    if amplifier is not None and str(amplifier).strip() not in (str(quadrant - 1), str(quadrant - 1 + start)):
        warnings.warn(
            f"{path}: {profile.keywords['amplifier']} = {amplifier} in the HDU of quadrant {quadrant}; "
            "the order of the HDUs is believed",
            UserWarning,
            stacklevel=2,
        )


def _check_utc(value: Any, name: str, profile: InstrumentProfile, path: Path) -> str | None:
    if value is None:
        return None
    try:
        Time(str(value), scale="utc", format="isot")
    except ValueError:
        keyword = profile.keywords[name]
        raise FrameError(
            f"{path}: {keyword} = {value!r} is not ISO 8601 UTC (2026-03-04T05:06:07.123); "
            f"correct it with --set {keyword}=VALUE"
        ) from None
    return str(value)


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


def _read_pixels(hdus: fits.HDUList, index: int, path: Path) -> np.ndarray:
    try:
        data = hdus[index].data
    except (AstropyWarning, OSError, ValueError, TypeError, KeyError, IndexError):
        raise
    except Exception as error:  # astropy's decompressor raises a class that it does not export
        raise FrameError(f"{path}: HDU {index} cannot be unpacked: {' '.join(str(error).split())}") from error
    assert data is not None, f"{path}: HDU {index} has a shape but no pixels"
    return data


def _check_pixels(pixels: np.ndarray, what: str, *, may_be_constant: bool = False) -> None:
    if np.issubdtype(pixels.dtype, np.floating):
        n_bad = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        if n_bad:
            raise FrameError(f"{what}: {n_bad} of {pixels.size} pixels are NaN or infinite; the amplifier is skipped")
    if not may_be_constant and pixels.min() == pixels.max():
        raise FrameError(f"{what}: all pixels equal {pixels.flat[0]}; the amplifier is skipped")

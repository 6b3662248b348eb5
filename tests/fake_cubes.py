"""Image cubes as the archives and other programs write them: nothing of shutterless is used to make them.

Layout, keywords and clocks are those of real files: K2 campaign 18, TESScut of sector 1. Kepler's TIMECORR holds light
time, TDB - UTC and the time slice, that of TESS the light time alone; see the profiles for the sources.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time, TimeDelta

DAY_S = 86_400.0
KEPLER_CADENCE_D, KEPLER_LIVE_S = 0.02043359821692, 6.019802903270 * 270
KEPLER_REFERENCE, TESS_REFERENCE = 2454833, 2457000
KEPLER_SLICES_S = {1: 2.73, 2: 2.11, 3: 1.49, 4: 0.87, 5: 0.25}  # Kepler Archive Manual: 0.25 + 0.62 (5 - slice)
LIGHT_S, LIGHT_DRIFT = 400.0, -5e-5  # light time of row 0 and its change, as of a star near the ecliptic
OPENED = "2018-05-13T00:59:25.548"

KEPLER_PRIMARY = {
    "ORIGIN": "NASA/Ames",
    "TELESCOP": "Kepler",
    "INSTRUME": "Kepler Photometer",
    "OBJECT": "EPIC 201",
    "CHANNEL": 48,
    "MODULE": 14,
    "OUTPUT": 4,
    "OBSMODE": "long cadence",
    "MISSION": "K2",
    "RA_OBJ": 130.656765,
    "DEC_OBJ": 19.988607,
    "PARALLAX": fits.card.UNDEFINED,
}
KEPLER_TABLE = {
    "TIMEREF": "SOLARSYSTEM",
    "TASSIGN": "SPACECRAFT",
    "TIMESYS": "TDB",
    "BJDREFI": KEPLER_REFERENCE,
    "BJDREFF": 0.0,
    "TIMEUNIT": "d",
    "TIMEPIXR": 0.5,
    "INT_TIME": 6.019802903270,
    "READTIME": 0.518948526144,
    "NUM_FRM": 270,
    "TIMEDEL": KEPLER_CADENCE_D,
    "GAIN": 105.29,
    "READNOIS": 112.0,
    "NREADOUT": 270,
}
TESS_PRIMARY = {
    "ORIGIN": "STScI/MAST",
    "TELESCOP": "TESS",
    "INSTRUME": "TESS Photometer",
    "CAMERA": 4,
    "CCD": 2,
    "SECTOR": 1,
    "RA_OBJ": 84.29119,
    "DEC_OBJ": -80.46917,
    "CRMITEN": True,
    "CRBLKSZ": 10,
    "TIMEREF": "SOLARSYSTEM",
    "TASSIGN": "SPACECRAFT",
    "TIMESYS": "TDB",
    "BJDREFI": TESS_REFERENCE,
    "BJDREFF": 0.0,
    "OBJECT": "",
    "TICID": fits.card.UNDEFINED,
}
TESS_TABLE = {
    "INT_TIME": 1.98,
    "READTIME": 0.02,
    "FRAMETIM": 2.0,
    **{f"GAIN{output}": gain for output, gain in zip("ABCD", (5.25, 5.17, 5.12, 5.2), strict=True)},
    **{f"READNOI{output}": noise for output, noise in zip("ABCD", (10.0, 7.0, 7.5, 9.5), strict=True)},
}


def star_images(
    n_frames: int = 40,
    n_y: int = 5,
    n_x: int = 7,
    *,
    flux_e_s: float = 1000.0,
    sky_e_s: float = 5.0,
    fwhm_px: float = 1.6,
    live_s: float = KEPLER_LIVE_S,
    seed: int = 0,
) -> np.ndarray:
    """A star in the middle of each image, electrons per second with photon noise, float32 (f, y, x)."""
    y, x = np.arange(n_y)[:, None] - n_y // 2, np.arange(n_x) - n_x // 2
    light = np.exp(-4 * np.log(2) * (y**2 + x**2) / fwhm_px**2)
    mean_e = live_s * (flux_e_s * light / light.sum() + sky_e_s)
    noisy = np.random.default_rng(seed).poisson(mean_e, (n_frames, n_y, n_x))
    return (noisy / live_s - sky_e_s).astype(np.float32)


def write_kepler(
    path: Path,
    flux_e_s: np.ndarray,
    *,
    numbers: Sequence[int] | None = None,
    opened: str = OPENED,
    time_slice: int = 5,
    untimed: Collection[int] = (),
    columns: Mapping[str, np.ndarray | None] | None = None,
    primary: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    aperture: np.ndarray | None = None,
) -> Path:
    """Write a Kepler target pixel file.

    ``numbers`` are cadence numbers, from 161969 on when left out; the first cadence is centred on the UTC ``opened``.
    Frames in ``untimed`` have a NaN time, as the archive writes where data are missing. ``columns`` replaces columns,
    ``primary`` and ``table`` header cards; None leaves out.
    """
    numbers = np.arange(161969, 161969 + len(flux_e_s)) if numbers is None else np.asarray(numbers)
    elapsed_s = (numbers - numbers[0]) * KEPLER_CADENCE_D * DAY_S
    middle = _clock(opened, elapsed_s)
    early = TimeDelta(KEPLER_SLICES_S[time_slice], format="sec")
    light_d = (LIGHT_S + LIGHT_DRIFT * elapsed_s) / DAY_S
    time_d = _days(middle - early, "tdb", KEPLER_REFERENCE) + light_d
    correction_d = time_d - _days(middle, "utc", KEPLER_REFERENCE)
    cards = {**KEPLER_TABLE, "TIMSLICE": time_slice, **(table or {})}
    hdu = _pixel_table("TARGETTABLES", flux_e_s, time_d, correction_d, numbers, KEPLER_REFERENCE, untimed, columns)
    return _write(path, {**KEPLER_PRIMARY, **(primary or {})}, hdu, cards, flux_e_s.shape[1:], aperture)


def write_tess(
    path: Path,
    flux_e_s: np.ndarray,
    *,
    cadence_s: float = 1800.0,
    numbers: Sequence[int] | None = None,
    opened: str = OPENED,
    untimed: Collection[int] = (),
    columns: Mapping[str, np.ndarray | None] | None = None,
    primary: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    aperture: np.ndarray | None = None,
) -> Path:
    """Write a cut-out as TESScut does, with a CADENCENO of zeros, or with ``numbers`` a target pixel file.

    Times, ``columns`` and headers are as in `write_kepler`.
    """
    cadences = np.arange(len(flux_e_s)) if numbers is None else np.asarray(numbers)
    elapsed_s = (cadences - cadences[0]) * cadence_s
    light_d = (LIGHT_S + LIGHT_DRIFT * elapsed_s) / DAY_S
    time_d = _days(_clock(opened, elapsed_s), "tdb", TESS_REFERENCE) + light_d
    frames = round(cadence_s / 2)
    cards = {**TESS_TABLE, "NUM_FRM": frames, "NREADOUT": round(0.8 * frames), "TIMEDEL": cadence_s / DAY_S}
    written = np.zeros(len(flux_e_s), np.int32) if numbers is None else cadences
    hdu = _pixel_table("PIXELS", flux_e_s, time_d, light_d, written, TESS_REFERENCE, untimed, columns)
    primary = {**TESS_PRIMARY, **(primary or {})}
    return _write(path, primary, hdu, {**cards, **(table or {})}, flux_e_s.shape[1:], aperture)


def write_plain(
    path: Path,
    images: np.ndarray,
    *,
    header: Mapping[str, Any] | None = None,
    times: np.ndarray | None = None,
    unit: str | None = "s",
    in_extension: bool = False,
) -> Path:
    """Write a 3-D image (t, y, x) of 2 s cadence, in an extension if asked, and a table of times if given."""
    cards = {"CADENCE": 2.0, "BUNIT": "electron", **(header or {})}
    image = (fits.ImageHDU if in_extension else fits.PrimaryHDU)(images, header=_header(cards))
    hdus = [fits.PrimaryHDU(), image] if in_extension else [image]
    if times is not None:
        column = fits.Column("TIME", "D", unit=unit, array=np.asarray(times, np.float64))
        hdus.append(fits.BinTableHDU.from_columns([column], name="TIMES"))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def _clock(opened: str, elapsed_s: np.ndarray) -> Time:
    return Time(opened, scale="utc", format="isot").tai + TimeDelta(elapsed_s, format="sec")


def _days(times: Time, scale: str, reference: int) -> np.ndarray:
    times = getattr(times, scale)
    return (times.jd1 - reference) + times.jd2


def _pixel_table(
    name: str,
    flux: np.ndarray,
    time_d: np.ndarray,
    correction_d: np.ndarray,
    numbers: np.ndarray,
    reference: int,
    untimed: Collection[int],
    changed: Mapping[str, np.ndarray | None] | None,
) -> fits.BinTableHDU:
    n_frames, n_y, n_x = flux.shape
    lost = np.isin(np.arange(n_frames), list(untimed))
    pixels = {"format": f"{n_y * n_x}E", "dim": f"({n_x},{n_y})", "unit": "e-/s"}
    forms: dict[str, dict[str, str]] = {
        "TIME": {"format": "D", "unit": f"BJD - {reference}"},
        "TIMECORR": {"format": "E", "unit": "d"},
        "CADENCENO": {"format": "J"},
        "FLUX": pixels,
        "FLUX_ERR": pixels,
        "COSMIC_RAYS": pixels,
        "QUALITY": {"format": "J"},
        "POS_CORR1": {"format": "E", "unit": "pixel"},
        "POS_CORR2": {"format": "E", "unit": "pixel"},
    }
    arrays = {
        "TIME": np.where(lost, np.nan, time_d),
        "TIMECORR": np.where(lost, np.nan, correction_d),
        "CADENCENO": numbers,
        "FLUX": flux,
        "FLUX_ERR": np.sqrt(np.abs(flux)) / 40,
        "QUALITY": np.zeros(n_frames, np.int32),
        "POS_CORR1": np.zeros(n_frames),
        "POS_CORR2": np.zeros(n_frames),
        **(changed or {}),
    }
    columns = [fits.Column(key, array=array, **forms[key]) for key, array in arrays.items() if array is not None]
    return fits.BinTableHDU.from_columns(columns, name=name)


def _write(
    path: Path,
    primary: Mapping[str, Any],
    table: fits.BinTableHDU,
    cards: Mapping[str, Any],
    shape: tuple[int, ...],
    aperture: np.ndarray | None,
) -> Path:
    table.header.update(_header(cards))
    mask = np.ones(shape, np.int32) if aperture is None else np.asarray(aperture)
    hdus = [fits.PrimaryHDU(header=_header(primary)), table, fits.ImageHDU(mask, name="APERTURE")]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def _header(cards: Mapping[str, Any]) -> fits.Header:
    return fits.Header([(key, value) for key, value in cards.items() if value is not None])

"""Read a two-dimensional FITS image, such as a difference image of any program, for the detector of boxes.

Numbers are scaled by BSCALE and BZERO, blank ones are NaN, compressed images are unpacked. Images of errors and flags
in the same file are used. Pixels stay in the order of the file; light is counted from the image's median.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from scipy.ndimage import zoom

from shutterless.pipeline.reading.cube_parts.images import describe_hdu, is_light
from shutterless.pipeline.reading.fits_files import FrameError, open_fits

# HDUs of errors and the power of their values that is a standard deviation
_ERRORS = {**dict.fromkeys(("ERR", "ERROR", "STD", "STDDEV", "SIGMA", "UNCERT"), 1.0), "VAR": 0.5, "VARIANCE": 0.5}
_FLAGS = ("DQ", "FLAGS", "FLAG", "MASK", "BADPIX", "BPM")
_LEAST_PX = 16
_FIELD_KEYWORDS = ("FIELDID", "FIELD", "OBJECT")
# of the pixel scales of an image and of a detector: within the first nothing is scaled. An image may be averaged to
# pixels up to 16 times as large; to pixels half as large it would need detail that is not in it
SAME_SCALE, COARSEST, FINEST = 1.25, 16.0, 2.0


@dataclass(frozen=True, eq=False)
class SkyImage:
    """A two-dimensional image.

    Parameters
    ----------
    path : Path
    pixels : ndarray of float32, shape (y, x)
        Less their median, and over their errors where the file has any; NaN where there is no value.
    pixel_scale_arcsec : float or None
        Geometric mean of both axes; None without a world coordinate system.
    field : str
        Name of the field in the header, else the name of the file.
    wcs : WCS or None
        Of the celestial axes.
    """

    path: Path
    pixels: np.ndarray
    pixel_scale_arcsec: float | None
    field: str
    wcs: Any


def read_sky_image(path: str | Path) -> SkyImage:
    """Read the largest two-dimensional image of a file that is neither one of errors nor one of flags.

    Raises
    ------
    FrameError
        If the file is damaged, has no such image, or an image without any light.
    """
    path = Path(path)
    with open_fits(path) as hdus:
        images = [hdu for hdu in hdus if hdu.is_image and len(_long_axes(hdu)) == 2 and is_light(hdu)]
        if not images:
            shapes = [tuple(hdu.shape) for hdu in hdus if hdu.is_image and hdu.shape]
            raise FrameError(f"{path}: no HDU is a two-dimensional image; images have shapes {shapes or 'none'}")
        best = max(images, key=lambda hdu: int(np.prod(hdu.shape)))
        pixels = np.array(best.data, dtype=np.float32).reshape(_long_axes(best))
        pixels[~np.isfinite(pixels)] = np.nan
        _use_errors_and_flags(pixels, hdus, best)
        header = best.header.copy()
        primary = hdus[0].header.copy()
        name = describe_hdu(hdus, best)
    if min(pixels.shape) < _LEAST_PX or not np.isfinite(pixels).any():
        what = f"{pixels.shape[0]} × {pixels.shape[1]} pixels" if min(pixels.shape) < _LEAST_PX else "no finite pixel"
        raise FrameError(f"{path}: {name} has {what}; expected is an image of at least {_LEAST_PX} × {_LEAST_PX}")
    pixels -= np.nanmedian(pixels)
    wcs = _celestial_wcs(header)
    scale = None if wcs is None else float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs))) * 3600)
    return SkyImage(path, pixels, scale, _field_name(path, header, primary), wcs)


def scale_image(image: SkyImage, wanted_arcsec: float | None) -> tuple[np.ndarray, float]:
    """Pixels of an image at about another pixel scale.

    Parameters
    ----------
    image : SkyImage
    wanted_arcsec : float or None
        None, as an image of unknown scale, changes nothing.

    Returns
    -------
    pixels : ndarray of float32, shape (y, x)
        NaN where no pixel has a value.
    factor : float
        Their number along an axis over that of the image.

    Raises
    ------
    FrameError
        If the scales differ too much.
    """
    own = image.pixel_scale_arcsec
    if own is None or wanted_arcsec is None or 1 / SAME_SCALE <= own / wanted_arcsec <= SAME_SCALE:
        return image.pixels, 1.0
    factor = own / wanted_arcsec
    if not 1 / COARSEST <= factor <= FINEST:
        raise FrameError(
            f"{image.path} has pixels of {own:.3g} arcsec, the detector learned from {wanted_arcsec:.3g}: an image is "
            f"scaled from {wanted_arcsec / COARSEST:.3g} to {wanted_arcsec * FINEST:.3g} arcsec; train on such images"
        )
    if factor < 1:
        step = round(1 / factor)
        return _average(image.pixels, step), 1 / step
    good = np.isfinite(image.pixels)
    larger = zoom(np.where(good, image.pixels, 0), factor, order=1, grid_mode=True, mode="grid-constant")
    share = zoom(good.astype(np.float32), factor, order=1, grid_mode=True, mode="grid-constant")
    return np.where(share > 0.5, larger, np.nan).astype(np.float32), factor


def _average(pixels: np.ndarray, step: int) -> np.ndarray:
    """Means of the finite pixels of squares of ``step`` × ``step``; what is left over at the far borders is dropped."""
    if step == 1:
        return pixels
    rows, columns = (n // step * step for n in pixels.shape)
    squares = pixels[:rows, :columns].reshape(rows // step, step, columns // step, step)
    good = np.isfinite(squares)
    n_good = good.sum((1, 3))
    total = np.where(good, squares, 0).sum((1, 3))
    return np.where(n_good > 0, total / np.maximum(n_good, 1), np.nan).astype(np.float32)


def _long_axes(hdu: Any) -> tuple[int, ...]:
    """Axes of an image without those of length 1."""
    return tuple(n for n in hdu.shape if n > 1)


def _use_errors_and_flags(pixels: np.ndarray, hdus: fits.HDUList, image: Any) -> None:
    """Divide by the errors, and mask flagged pixels, in place; images of another shape are left out."""
    for hdu in hdus:
        if hdu is image or not hdu.is_image or _long_axes(hdu) != pixels.shape:
            continue
        values = np.asarray(hdu.data, dtype=np.float64).reshape(pixels.shape)
        if hdu.name in _ERRORS:
            good = np.isfinite(values) & (values > 0)
            pixels[~good] = np.nan
            pixels[good] /= values[good] ** _ERRORS[hdu.name]
        elif hdu.name in _FLAGS and 2 * np.count_nonzero(values) < values.size:
            pixels[values != 0] = np.nan


def _celestial_wcs(header: fits.Header) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            wcs = WCS(header).celestial
        except Exception:  # a header of another program may hold anything; without positions boxes stay in pixels
            return None
    return wcs if wcs.has_celestial else None


def _field_name(path: Path, *headers: fits.Header) -> str:
    for header in headers:
        for keyword in _FIELD_KEYWORDS:
            if str(header.get(keyword, "")).strip():
                return str(header[keyword]).strip()
    return path.name.split(".")[0]

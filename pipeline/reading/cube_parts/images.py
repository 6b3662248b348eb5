"""Choose the images of a file among its HDUs, and the order of their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from shutterless.pipeline.reading.fits_files import FrameError

_FLAGS = ("DQ", "DQA", "DQ_FLAGS", "FLAGS", "FLAG", "QUALITY", "BPM", "BADPIX", "MASK", "PIXELDQ", "GROUPDQ")
_OTHERS = ("ERR", "ERROR", "VAR", "VARIANCE", "STD", "STDDEV", "WHT", "WEIGHT", "IVAR", "SIGMA", "UNCERT", "REF", "BKG")
_TIME_AXES = ("TIME", "UTC", "TAI", "TT", "TDB", "MJD", "JD", "FRAME")
_COLOUR_WORDS = ("RGB", "COLOR", "COLOUR", "BGR")
_COLOUR_PLANES = (3, 4)  # with or without transparency


@dataclass(frozen=True)
class ChosenImages:
    """HDU with the images, the order of its axes, and what was decided, in words.

    ``order`` lists the axes of time, y and x among those of the HDU; the others have the length 1.
    """

    hdu: Any
    order: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Images, height, width."""
        return tuple(self.hdu.shape[axis] for axis in self.order)

    def arrange(self, data: np.ndarray) -> np.ndarray:
        """Bring an array of the HDU's shape into the order (t, y, x); a view."""
        others = tuple(axis for axis in range(data.ndim) if axis not in self.order)
        moved = np.transpose(data, (*others, *self.order))
        return moved.reshape(moved.shape[len(others) :]) if not others else moved[(0,) * len(others)]


def choose_images(hdus: fits.HDUList, path: Path, wanted: str | None = None) -> ChosenImages:
    """Choose the 3-D image that holds the light.

    Parameters
    ----------
    hdus : fits.HDUList
    path : Path
        Named in errors.
    wanted : str, optional
        ``EXTNAME`` that the user asks for.

    Returns
    -------
    ChosenImages
        The largest image that is neither one of flags nor one of errors; the first of several of one size.

    Raises
    ------
    FrameError
        If there is none, or it is a colour picture.
    """
    images = [hdu for hdu in hdus if hdu.is_image and len(hdu.shape) >= 3 and len(_light_axes(hdu.shape)) == 3]
    if wanted is not None:
        images = [hdu for hdu in images if hdu.name == wanted.strip().upper()]
    if not images:
        shapes = [tuple(hdu.shape) for hdu in hdus if hdu.is_image and hdu.shape]
        named = "" if wanted is None else f" named {wanted}"
        stack = ""
        if any(len(shape) == 2 for shape in shapes):
            stack = "; a series of images is searched as one cube with --stack"
        raise FrameError(f"{path}: no HDU{named} is an image (t, y, x); images have shapes {shapes}{stack}")
    light = [hdu for hdu in images if is_light(hdu)] or images
    best = max(light, key=lambda hdu: int(np.prod(hdu.shape)))
    notes = []
    others = [hdu for hdu in images if hdu is not best and hdu.name not in _FLAGS]
    if others:
        names = ", ".join(describe_hdu(hdus, hdu) for hdu in others)
        notes.append(f"{describe_hdu(hdus, best)} is searched, not {names}; choose with --set EXTNAME=NAME")
    order = _axes_by_header(best, notes)
    _refuse_colour(best, order, hdus, path)
    return ChosenImages(best, order, tuple(notes))


def is_light(hdu: Any) -> bool:
    """Whether an image is neither one of flags nor one of errors, by its name."""
    return hdu.name not in (*_FLAGS, *_OTHERS)


def find_flags(hdus: fits.HDUList, images: ChosenImages) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Pixels that an HDU of data-quality flags marks, bool of shape (t, y, x), and what was done, in words.

    An image (y, x) of flags counts for every frame. Flags that mark more than half of the pixels are taken for a mask
    of good ones or for something else, and are not used.
    """
    for hdu in hdus:
        if not hdu.is_image or hdu.name not in _FLAGS or hdu is images.hdu or not hdu.shape:
            continue
        name = describe_hdu(hdus, hdu)
        if tuple(hdu.shape) == tuple(images.hdu.shape):
            bad = images.arrange(np.asarray(hdu.data)) != 0
        elif tuple(hdu.shape) == images.shape[1:]:
            bad = np.broadcast_to(np.asarray(hdu.data) != 0, images.shape)
        else:
            return None, (f"{name} has shape {tuple(hdu.shape)}, the images {images.shape}: its flags are not used",)
        n_bad = int(np.count_nonzero(bad))
        if 2 * n_bad > bad.size:
            return None, (f"{name} flags {n_bad:,} of {bad.size:,} pixels, more than half: its flags are not used",)
        return bad, (f"{name} flags {n_bad:,} of {bad.size:,} pixels, which are masked",) if n_bad else ()
    return None, ()


def describe_hdu(hdus: Sequence[Any], hdu: Any) -> str:
    """Number and name of an HDU."""
    number = next(k for k, other in enumerate(hdus) if other is hdu)
    return f"HDU {number} ({hdu.name})" if hdu.name and hdu.name != "PRIMARY" else f"HDU {number}"


def _light_axes(shape: Sequence[int]) -> list[int]:
    """Axes of the images: three, or those left of more without the first ones of length 1."""
    axes = list(range(len(shape)))
    while len(axes) > 3:
        idle = [axis for axis in axes if shape[axis] == 1]
        if not idle:
            break
        axes.remove(idle[0])
    return axes


def _axes_by_header(hdu: Any, notes: list[str]) -> tuple[int, ...]:
    """Order of the axes; if the header names one of time it comes first."""
    axes = _light_axes(hdu.shape)
    n_axes = len(hdu.shape)
    for axis in axes:
        keyword = f"CTYPE{n_axes - axis}"
        kind = str(hdu.header.get(keyword, "")).strip().upper()
        if kind.split("-")[0] in _TIME_AXES and axis != axes[0]:
            rest = [other for other in axes if other != axis]
            notes.append(f"{keyword} = {kind}: this axis, of {hdu.shape[axis]} images, is taken for that of time")
            return (axis, *rest)
    return tuple(axes)


def _refuse_colour(hdu: Any, order: tuple[int, ...], hdus: fits.HDUList, path: Path) -> None:
    n_planes = hdu.shape[order[0]]
    if n_planes not in _COLOUR_PLANES:
        return
    keyword = f"CTYPE{len(hdu.shape) - order[0]}"
    for name in (keyword, "COLORTYP", "COLORSPC", "COLORSPACE", "COLORMOD"):
        value = str(hdu.header.get(name, "")).upper()
        if any(word in value for word in _COLOUR_WORDS):
            raise FrameError(
                f"{path}: {describe_hdu(hdus, hdu)} is a colour picture of {n_planes} planes "
                f"({name} = {value.strip()}), not a series of images"
            )

"""Say where a candidate is in its FITS file: HDU and pixel as FITS counts them; for a cube the image and the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits

from shutterless.pipeline.reading.cubes import NOT_IN_FILE, Cube
from shutterless.pipeline.reading.fits_files import open_fits
from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.pipeline.reading.instruments import InstrumentProfile

# keywords of the archives for the stretch of time in which a target was observed, and how it is written in the table
_STRETCHES = {"CAMPAIGN": "campaign", "QUARTER": "quarter", "SECTOR": "sector"}
_BOX_COLUMNS, _CUBE_BOX_PX = 16.0, 3.0  # of a region around a candidate


@dataclass(frozen=True, eq=False)
class ArchiveImages:
    """What an archive says of a cube's target and images.

    Parameters
    ----------
    hdu : int
        That holds the images; the primary one is 0.
    target, campaign : str
        OBJECT of the header, and campaign, quarter or sector with its number; empty where the file has none.
    image, cadence : ndarray of int64, shape (t,)
        Of each row: number of its image in the file, from 1, and of its cadence; -1 where there is none.
    """

    hdu: int
    target: str
    campaign: str
    image: np.ndarray
    cadence: np.ndarray

    @classmethod
    def of(cls, cube: Cube) -> ArchiveImages:
        """Read them from the file of a cube."""
        with open_fits(cube.path) as hdus:
            headers = [hdu.header for hdu in hdus]
        is_there = cube.image != NOT_IN_FILE
        cadence = np.full(len(is_there), NOT_IN_FILE, dtype=np.int64)
        if cube.number is not None and (np.diff(cube.number[is_there]) > 0).all():  # TESScut writes zeros
            cadence = cube.number
        target = _first_value(headers, "OBJECT")
        stretches = [f"{word} {number}" for key, word in _STRETCHES.items() if (number := _first_value(headers, key))]
        return cls(cube.hdu, target, stretches[0] if stretches else "", cube.image, cadence)

    def names(self) -> dict[str, Any]:
        """All but the arrays, as plain values."""
        return {"hdu": self.hdu, "target": self.target, "campaign": self.campaign}


@dataclass(frozen=True, eq=False)
class FilePlace:
    """One amplifier, or one cube, in its file.

    Parameters
    ----------
    path : str
    hdu : int or None
        That holds the pixels; the primary one is 0.
    n_rows, n_columns : int
        Size in read order.
    flip_columns, flip_rows : bool
        Whether the file's columns and rows run against read order.
    archive : ArchiveImages or None
        Of a cube.
    """

    path: str
    hdu: int | None = None
    n_rows: int = 0
    n_columns: int = 0
    flip_columns: bool = False
    flip_rows: bool = False
    archive: ArchiveImages | None = field(default=None, repr=False)

    @classmethod
    def of(cls, info: FrameInfo, quadrant: int | None, archive: ArchiveImages | None = None) -> FilePlace:
        """Place of a quadrant, or of a cube, in a file whose headers were read."""
        path, profile = str(info.path.absolute()), info.profile
        if isinstance(profile, InstrumentProfile) and quadrant is not None:
            layout = (info.layouts or profile.quadrants)[quadrant - 1]
            return cls(
                path, layout.data_hdu, info.n_rows, info.n_columns, layout.flip_columns, layout.flip_rows
            )  # fmt: skip
        hdu = None if archive is None else archive.hdu
        return cls(path, hdu, info.n_rows, info.n_columns, archive=archive)

    def columns(self, detections: pd.DataFrame, y: pd.Series) -> Mapping[str, Any]:
        """Columns of the candidate table: ``path, hdu, fits_x, fits_y, fits_z, object, cadence_number, campaign``.

        Parameters
        ----------
        detections : DataFrame
            With ``x`` and ``row_peak`` in read order, counted from 0.
        y : Series of Int64
            Row of the image; missing for continuous readout.
        """
        x = detections["x"].to_numpy(dtype=np.float64)
        row = detections["row_peak"].to_numpy(dtype=np.int64)
        return {
            "path": self.path,
            "hdu": pd.array([self.hdu] * len(x), dtype="Int64"),
            "fits_x": self.n_columns - x if self.flip_columns else x + 1,
            "fits_y": (y + 1) if self.archive is not None else (self.n_rows - row if self.flip_rows else row + 1),
            "fits_z": self._numbers("image", row),
            "object": (self.archive.target if self.archive else "") or pd.NA,
            "cadence_number": self._numbers("cadence", row),
            "campaign": (self.archive.campaign if self.archive else "") or pd.NA,
        }

    def _numbers(self, name: str, row: np.ndarray) -> Any:
        """Number of the image or cadence of each row, missing where there is none."""
        if self.archive is None:
            return pd.array([pd.NA] * len(row), dtype="Int64")
        known = getattr(self.archive, name)
        values = known[np.clip(row, 0, len(known) - 1)]
        return pd.arrays.IntegerArray(values, values == NOT_IN_FILE)


def region_box(candidate: pd.Series) -> tuple[float, float, float, float]:
    """Box around a candidate in the pixels of its HDU, as FITS and DS9 count them.

    Returns
    -------
    x, y, width, height : float
        Middle, and size in pixels. In continuous readout the box is centred on the peak and holds all rows of the
        event, in an image of a cube the pixels around its place.
    """
    x, y = float(candidate["fits_x"]), float(candidate["fits_y"])
    if pd.isna(candidate["quadrant"]):
        return x, y, _CUBE_BOX_PX, _CUBE_BOX_PX
    longer = max(candidate["row_peak"] - candidate["row_start"], candidate["row_stop"] - candidate["row_peak"])
    return x, y, _BOX_COLUMNS, float(max(2 * longer + 1, _BOX_COLUMNS))


def ds9_place(candidate: pd.Series) -> str:
    """Extended name by which DS9 opens the HDU of a candidate, ``FILE[HDU]``."""
    return f"{candidate['path']}[{candidate['hdu']:d}]"


def _first_value(headers: list[Any], keyword: str) -> str:
    """First value of a keyword in some headers as text, empty if none has one."""
    values = [header.get(keyword) for header in headers]
    texts = [str(value).strip() for value in values if not isinstance(value, fits.card.Undefined | None)]
    return next(filter(None, texts), "")

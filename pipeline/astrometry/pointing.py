"""Read where an amplifier points, and turn columns and detector rows into positions on the sky and back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import pixel_to_skycoord, proj_plane_pixel_scales, skycoord_to_pixel

from shutterless.pipeline.astrometry.focal_plane import FocalPlane, FocalPlaneError
from shutterless.pipeline.reading.fits_files import HeaderValues, open_stored
from shutterless.pipeline.reading.frames import read_frame_info
from shutterless.pipeline.reading.instruments import InstrumentProfile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.barycentric import BarycentreError, Direction, parse_direction

# cards of a celestial WCS, with distortions (SIP, TPV); those of tables and of compressed images are not among them
_WCS_CARD = re.compile(
    r"(WCSAXES|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|PV[12]_\d+|[AB]P?_(ORDER|\d_\d|DMAX)"
    r"|LONPOLE|LATPOLE|RADESYS|EQUINOX)"
)

_LEAST_AREA = 1e-3  # of a pixel, relative to the product of its sides: columns and rows are not parallel


class PointingError(ValueError):
    """A header whose pointing is missing or cannot be used."""


@dataclass(frozen=True, eq=False)
class AmplifierSky:
    """Positions on the sky of the pixels of one amplifier in read order.

    Parameters
    ----------
    wcs : WCS
        Celestial, of the pixel grid of a normal exposure in raw orientation: axis 1 the columns, axis 2 the rows at
        which light falls.
    n_columns, n_transit : int
        Columns, and rows of the amplifier.
    flip_columns, flip_rows : bool
        Whether raw columns and rows run against read order.

    Notes
    -----
    A star at column x and detector row y0, both from 0 in read order, is the streak in column x that begins at sequence
    row y0.
    """

    wcs: WCS
    n_columns: int
    n_transit: int
    flip_columns: bool = False
    flip_rows: bool = False

    def to_sky(self, x: Any, y0: Any) -> SkyCoord:
        """Positions of columns and detector rows in read order, in ICRS."""
        return pixel_to_skycoord(*self._flipped(x, y0), self.wcs, origin=0).icrs

    def to_pixel(self, sky: SkyCoord) -> tuple[np.ndarray, np.ndarray]:
        """Columns and detector rows of positions, also outside of the amplifier; these must be within 80 degrees."""
        return self._flipped(*skycoord_to_pixel(sky, self.wcs, origin=0))

    def corners(self) -> SkyCoord:
        """Positions of the four corners, one after the other around the amplifier, in ICRS."""
        x, y = self.n_columns - 1, self.n_transit - 1
        return self.to_sky(np.array([0, x, x, 0]), np.array([0, 0, y, y]))

    def near(self, sky: SkyCoord, margin_deg: float) -> np.ndarray:
        """Whether positions are on the amplifier or within some degrees of the circle around it; bool, (n,)."""
        centre = self.to_sky((self.n_columns - 1) / 2, (self.n_transit - 1) / 2)
        reach = centre.separation(self.corners()).max() + margin_deg * u.deg
        return np.asarray(sky.separation(centre) < reach)

    @property
    def scale_arcsec(self) -> float:
        """Pixel scale (arcsec per pixel), the mean of both axes."""
        return float(np.mean(proj_plane_pixel_scales(self.wcs)) * 3600)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return {
            "wcs": self.wcs.to_header_string(relax=True), "n_columns": self.n_columns, "n_transit": self.n_transit,
            "flip_columns": self.flip_columns, "flip_rows": self.flip_rows,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AmplifierSky:
        """Rebuild it from `to_dict`."""
        return cls(**{**values, "wcs": WCS(fits.Header.fromstring(values["wcs"]), naxis=2)})

    def _flipped(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Read order to raw orientation or back, both from 0."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        return (
            self.n_columns - 1 - x if self.flip_columns else x,
            self.n_transit - 1 - y if self.flip_rows else y,
        )


def read_sky(
    path: str | Path, quadrant: int, instrument: str | None = None, supplied: Mapping[str, str] | None = None
) -> AmplifierSky:
    """Pointing of an amplifier in a file of continuous readout.

    Parameters are those of `shutterless.pipeline.reading.frames.read_frame_info`, and ``quadrant`` from 1.

    Returns
    -------
    AmplifierSky
        From the WCS in the header of the quadrant's pixels; else from position, pixel scale and position angle in the
        primary header, the profile's defaults among them.

    Raises
    ------
    PointingError
        If there is neither, or a value cannot be used. The message names what is missing and how to give it.
    FrameError
        If the file cannot be read.
    """
    info = read_frame_info(path, instrument, supplied)
    profile, readout = info.profile, info.readouts[quadrant]
    assert isinstance(profile, InstrumentProfile), "frames are read with a profile of frames"
    layout = info.layouts[quadrant - 1]
    with open_stored(info.path) as file:
        primary, own = file.header(0), file.header(layout.data_hdu)
    wcs = parse_wcs(own, f"{path}: quadrant {quadrant}")
    if wcs is None:
        values = HeaderValues(info.path, profile, dict(supplied or {}), (primary,))
        wcs = _primary_wcs(values, profile, readout, quadrant)
    return AmplifierSky(
        wcs, profile.n_columns, readout.n_transit, layout.flip_columns, layout.flip_rows
    )  # fmt: skip


def parse_wcs(header: Mapping[str, Any], where: str) -> WCS | None:
    """Celestial WCS of a header, None if it states none.

    Raises
    ------
    PointingError
        If it states one that cannot be used. The message begins with ``where``.
    """
    cards = {key: header[key] for key in header if _WCS_CARD.fullmatch(key)}
    if "CTYPE1" not in cards and "CRVAL1" not in cards:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(fits.Header(cards), naxis=2)
            scales = proj_plane_pixel_scales(wcs) if wcs.has_celestial else np.zeros(2)
            area = abs(np.linalg.det(wcs.pixel_scale_matrix))
    except Exception as error:  # wcslib raises classes of its own
        raise PointingError(f"{where}: its WCS cannot be read: {' '.join(str(error).split())}") from error
    if not wcs.has_celestial or not area > _LEAST_AREA * scales.prod() > 0:
        axes = f"CTYPE1 = {cards.get('CTYPE1')!r}, CTYPE2 = {cards.get('CTYPE2')!r}"
        raise PointingError(
            f"{where}: its WCS is not one of the sky ({axes}, pixels of {scales[0]:g} and {scales[1]:g} deg); mend or "
            "remove these cards"
        )
    return wcs


def field_wcs(
    centre: Direction, scale_arcsec: float, position_angle_deg: float, mirrored: bool, plane: FocalPlane, ccd: int,
    quadrant: int,
) -> WCS:  # fmt: skip
    """Gnomonic WCS of an amplifier of a mosaic, in raw orientation.

    Parameters
    ----------
    centre : Direction
        Of the middle of the mosaic.
    scale_arcsec : float
        Arcsec per pixel.
    position_angle_deg : float
        Of raw rows upwards, from north through east.
    mirrored : bool
        As `shutterless.pipeline.reading.instruments.Mosaic`.
    plane : FocalPlane
    ccd, quadrant : int
        From 1.
    """
    place = plane.frame(ccd, quadrant)
    scale, angle = scale_arcsec / 3600, np.radians(position_angle_deg)
    up = np.array([np.sin(angle), np.cos(angle)])  # east and north
    right = np.array([-np.cos(angle), np.sin(angle)]) * (-1 if mirrored else 1)
    # focal-plane place of raw pixel (1, 1)
    first_x = place.origin_x - (plane.n_columns - 1 if place.sign_x < 0 else 0)
    first_y = place.origin_y - (plane.n_transit - 1 if place.sign_y < 0 else 0)
    width, height = plane.size_px
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = [centre.ra_deg, centre.dec_deg]
    wcs.wcs.crpix = [width / 2 - first_x + 1, height / 2 - first_y + 1]
    wcs.wcs.cd = scale * np.stack([right, up], axis=1)
    wcs.wcs.set()
    return wcs


def _primary_wcs(values: HeaderValues, profile: InstrumentProfile, readout: Readout, quadrant: int) -> WCS:
    """WCS from a position, a pixel scale and a position angle of the whole mosaic."""
    ra, dec = values.find("right_ascension"), values.find("declination")
    keys = [values.keyword(name) for name in ("right_ascension", "declination")]
    missing = [key for key, value in zip(keys, (ra, dec), strict=True) if value is None]
    if missing:
        raise PointingError(
            f"{values.path}: no WCS in the header of quadrant {quadrant}, and no {' and no '.join(missing)} in the "
            f"primary one, so no star can be named; give {' '.join(f'--set {key}=DEGREES' for key in missing)}"
        )
    scale = values.number("pixel_scale_arcsec")
    if scale is None:
        raise PointingError(
            f"{values.path}: no {values.keyword('pixel_scale_arcsec')} in the primary header; give "
            f"--set {values.keyword('pixel_scale_arcsec')}=ARCSEC"
        )
    angle = values.number("position_angle_deg", positive=False) or 0.0
    mosaic = profile.mosaic
    plane = FocalPlane(
        profile.n_columns, readout.n_transit, profile.quadrants, mosaic.n_ccds, mosaic.gap_columns_px,
        mosaic.gap_rows_px,
    )  # fmt: skip
    ccd = (readout.ccd or 1) if mosaic.n_ccds > 1 else 1
    try:
        centre = parse_direction(ra, dec, str(values.path))
        return field_wcs(centre, scale, angle, mosaic.mirrored, plane, ccd, quadrant)
    except (BarycentreError, FocalPlaneError) as error:
        raise PointingError(str(error)) from error

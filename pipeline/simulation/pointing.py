"""Point the simulated camera at the sky: the true positions of its pixels, and those that a wrong header states."""

from __future__ import annotations

import astropy.units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from shutterless.pipeline.astrometry.focal_plane import focal_plane
from shutterless.pipeline.astrometry.pointing import AmplifierSky, field_wcs
from shutterless.pipeline.results.barycentric import Direction
from shutterless.pipeline.simulation.scene import POINTING
from shutterless.pipeline.simulation.settings import SceneSettings


def true_sky(settings: SceneSettings, ccd: int, quadrant: int) -> AmplifierSky:
    """Positions on the sky of the pixels of an amplifier."""
    centre = Direction(settings.right_ascension_deg, settings.declination_deg)
    wcs = _wcs(settings, centre, position_angle_deg(settings), ccd, quadrant)
    layout = settings.profile.quadrants[quadrant - 1]
    return AmplifierSky(
        wcs, settings.profile.n_columns, int(settings.electronics("n_transit")), layout.flip_columns, layout.flip_rows
    )


def stated_direction(settings: SceneSettings) -> Direction:
    """Pointing that the headers state: off by the settings' error, in a direction that the seed gives."""
    centre = SkyCoord(settings.right_ascension_deg * u.deg, settings.declination_deg * u.deg)
    towards = settings.generator(POINTING).uniform(0, 360) * u.deg
    stated = centre.directional_offset_by(towards, settings.pointing_error_arcsec * u.arcsec)
    return Direction(float(stated.ra.deg), float(stated.dec.deg))


def position_angle_deg(settings: SceneSettings) -> float:
    """Position angle of raw rows upwards: that of the settings, else the profile's."""
    if settings.position_angle_deg is not None:
        return settings.position_angle_deg
    return float(settings.profile.defaults.get("position_angle_deg", 0.0))


def stated_wcs_cards(settings: SceneSettings, ccd: int, quadrant: int) -> fits.Header:
    """Cards of the WCS that the header of an amplifier states."""
    angle = position_angle_deg(settings) + settings.rotation_error_deg
    wcs = _wcs(settings, stated_direction(settings), angle, ccd, quadrant).wcs
    cards = fits.Header()
    for axis in (1, 2):
        cards[f"CTYPE{axis}"], cards[f"CUNIT{axis}"] = wcs.ctype[axis - 1], "deg"
        cards[f"CRVAL{axis}"], cards[f"CRPIX{axis}"] = wcs.crval[axis - 1], wcs.crpix[axis - 1]
        for other in (1, 2):
            cards[f"CD{axis}_{other}"] = wcs.cd[axis - 1, other - 1]
    cards["RADESYS"] = "ICRS"
    return cards


def _wcs(settings: SceneSettings, centre: Direction, angle_deg: float, ccd: int, quadrant: int) -> WCS:
    plane = focal_plane(settings.profile, int(settings.electronics("n_transit")))
    scale = float(settings.electronics("pixel_scale_arcsec"))
    return field_wcs(centre, scale, angle_deg, settings.profile.mosaic.mirrored, plane, ccd, quadrant)

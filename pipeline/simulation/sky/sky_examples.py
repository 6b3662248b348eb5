"""Draw one example of every moving light and of a ghost, for pictures."""

from __future__ import annotations

import numpy as np

from shutterless.pipeline.astrometry.focal_plane import FocalPlane
from shutterless.pipeline.reading.instruments import QuadrantLayout
from shutterless.pipeline.simulation.sky.ghosts import Ghost, add_ghosts, own_time_rows, steady_light
from shutterless.pipeline.simulation.sky.moving_lights import Brightness, SkyTrail, TrailError
from shutterless.pipeline.simulation.sky.trails import add_trails, trails_in_amplifier


def example_trail(kind: str, n_rows: int = 1024, n_columns: int = 1024, row_rate_hz: float = 300.0) -> np.ndarray:
    """Draw one typical moving light without background, for a picture of its kind.

    Parameters
    ----------
    kind : str
        ``"geosynchronous"``, ``"low_orbit"``, ``"aircraft"`` or ``"meteor"``.
    n_rows, n_columns : int
        Size of the picture; the path passes its middle.
    row_rate_hz : float

    Returns
    -------
    ndarray of float64, shape (t, x)
        Mean electrons; for an aircraft, of one wing tip.
    """
    if kind not in _EXAMPLES:
        raise TrailError(f"no example of {kind!r}; there are {', '.join(_EXAMPLES)}")
    name, speed, direction_deg, blur, duration_s, brightness = _EXAMPLES[kind]
    plane = FocalPlane(n_columns, n_rows, (QuadrantLayout(1, 2),), n_ccds=1)
    direction = np.radians(direction_deg)
    middle_s = n_rows / 2 / row_rate_hz
    sky = SkyTrail(
        name, 0, n_columns / 2, n_rows / 2, middle_s, speed * np.cos(direction), speed * np.sin(direction),
        middle_s - duration_s / 2, middle_s + duration_s / 2, brightness, blur,
    )  # fmt: skip
    mean_e = np.zeros((n_rows, n_columns))
    add_trails(mean_e, n_rows // 2, trails_in_amplifier([sky], plane, 1, 1, row_rate_hz=row_rate_hz, sigma_px=0.84))
    return mean_e


# kind, pixels per second, direction, blur in pixels, seconds of light, brightness
_EXAMPLES = {
    "geosynchronous": ("satellite", 14.8, 175.0, 0.0, np.inf, Brightness(1.5e5, 1.2, flash_e_s=1.5e6, flash_s=0.06)),
    "low_orbit": ("satellite", 2000.0, 30.0, 0.4, np.inf, Brightness(5e6, 0.4, wave=0.6)),
    "aircraft": ("aircraft", 4500.0, 15.0, 25.0, np.inf, Brightness(3e8, 0.3, 0.4, flash_e_s=1e10, flash_s=0.05)),
    "meteor": ("meteor", 6000.0, 60.0, 2.5, 0.12, Brightness(1e8, fades=True)),
}


def example_ghost(n_rows: int = 1024, n_columns: int = 1024) -> np.ndarray:
    """Draw the ghost of a star of magnitude 3, with a thousandth of its light, from its first row.

    Returns
    -------
    ndarray of float64, shape (t, x)
        Mean electrons.
    """
    ghosts = [Ghost(n_columns / 2, n_rows // 4, 0, 3.0, 1e-3, 28.0, 1310.0)]
    mean_e = np.zeros((n_rows, n_columns))
    first, n_star_rows = own_time_rows(ghosts, 0, n_rows)
    add_ghosts(mean_e, 0, ghosts, steady_light(ghosts, first, n_star_rows), first, n_rows)
    return mean_e

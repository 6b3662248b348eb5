"""Name the streaks of all amplifiers by a catalogue, of stars in pixels or on the sky."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from astropy.time import Time

from shutterless.pipeline.astrometry.names import name_streaks
from shutterless.pipeline.astrometry.pointing import AmplifierSky
from shutterless.pipeline.astrometry.sky_catalogue import is_sky_catalogue, magnitudes, positions_at, read_sky_catalogue
from shutterless.pipeline.astrometry.solve import (
    LARGEST_OFFSET_ARCSEC,
    LARGEST_ROTATION_DEG,
    NoSolutionError,
    SkySolution,
    Stars,
    solve_amplifier,
)
from shutterless.pipeline.calibration.streaks.shared_onsets import share_onsets
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.catalogue import identify_streaks, read_catalogue


@dataclass(frozen=True, eq=False)
class SolvedAmplifier:
    """Where an amplifier really points: what its header says, and how far that is wrong."""

    sky: AmplifierSky
    solution: SkySolution

    def to_sky(self, x: Any, y0: Any) -> SkyCoord:
        """Positions of columns and detector rows in read order, in ICRS."""
        return self.sky.to_sky(*self.solution.to_header(x, y0))

    @property
    def rms_arcsec(self) -> float:
        """Scatter of the columns (arcsec)."""
        return self.solution.rms_px * self.sky.scale_arcsec

    @property
    def offset_arcsec(self) -> float:
        """By how much the centre of the amplifier is off; along the columns alone where no onsets were seen."""
        y = self.solution.offset_y if self.solution.knows_rows else 0.0
        return float(np.hypot(self.solution.offset_x, y) * self.sky.scale_arcsec)

    def numbers(self) -> dict[str, float]:
        """How good the match is, for the table of amplifiers."""
        found = self.solution
        return {
            "sky_rms_arcsec": self.rms_arcsec,
            "sky_matched": found.n_matched,
            "sky_expected": found.n_expected,
            "sky_chance_matches": found.chance_matches,
            "pointing_offset_arcsec": self.offset_arcsec,
            "pointing_rotation_deg": float(np.degrees(found.rotation)),
            "sky_onsets": found.n_onsets,
        }


@dataclass(frozen=True)
class IdentifiedStreaks:
    """Streaks with their stars, lines for the user, and the pointing of the amplifiers that a catalogue fits.

    Parameters
    ----------
    streaks : dict of str to DataFrame
        By store entry. With a catalogue on the sky they have ``name``, ``ra``, ``dec`` (degrees), ``position_error``
        (arcsec), ``star_probability`` and ``star_flag`` of
        `shutterless.pipeline.astrometry.names.NamedStreaks`.
    warnings : list of str
        One line for each amplifier that the catalogue does not fit, where it is not used.
    solved : dict of str to SolvedAmplifier
        By store entry; without those that have no solution.
    """

    streaks: dict[str, pd.DataFrame]
    warnings: list[str]
    solved: dict[str, SolvedAmplifier] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class KeptIdentification:
    """Streaks of an amplifier with their stars, and what they were found from."""

    streaks: pd.DataFrame
    readout: Readout
    sky: AmplifierSky | str
    named: pd.DataFrame
    solved: SolvedAmplifier | None
    warning: str

    def is_of(self, streaks: pd.DataFrame, readout: Readout, sky: AmplifierSky | str) -> bool:
        """Whether it was found from the same streaks, clock and pointing."""
        return self.sky == sky and self.readout == readout and self.streaks.equals(streaks)


def describe_solved(solved: Sequence[SolvedAmplifier]) -> str:
    """How well a catalogue fits some amplifiers, in one line; empty for none."""
    if not solved:
        return ""
    rms = [one.rms_arcsec for one in solved]
    matched, expected = (sum(getattr(one.solution, name) for one in solved) for name in ("n_matched", "n_expected"))
    chance = max(one.solution.chance_matches for one in solved)
    return (
        f"the catalogue fits {len(solved)} amplifiers: {matched} of {expected} bright stars have a streak, columns "
        f"agree to {np.median(rms):.2f} arcsec (worst {max(rms):.2f}), headers are off by up to "
        f"{max(one.offset_arcsec for one in solved):.0f} arcsec, chance makes at most {chance:.0e} such fits"
    )


def read_any_catalogue(path: str | Path) -> pd.DataFrame:
    """Read a catalogue, of stars in pixels (``x``, ``y``, ``mag``) or on the sky (``ra``, ``dec``, ``mag``).

    Raises
    ------
    CatalogueError
        As `shutterless.pipeline.results.catalogue.read_catalogue` and
        `shutterless.pipeline.astrometry.sky_catalogue.read_sky_catalogue`.
    """
    return read_sky_catalogue(path) if is_sky_catalogue(path) else read_catalogue(path)


def identify_stars(
    streaks: Mapping[str, pd.DataFrame],
    readouts: Mapping[str, Readout],
    catalogue: pd.DataFrame | None = None,
    skies: Mapping[str, AmplifierSky | str] | None = None,
    kept: dict[str, KeptIdentification] | None = None,
) -> IdentifiedStreaks:
    """Complete streaks with onsets from the other files of their sequence and with the stars of a catalogue.

    Parameters
    ----------
    streaks : mapping of str to DataFrame
        Streak table by store entry.
    readouts : mapping of str to Readout
    catalogue : DataFrame, optional
        From `read_any_catalogue`.
    skies : mapping of str to AmplifierSky or str
        Where each amplifier points, or why that is not known; needed for stars on the sky.
    kept : dict of str to KeptIdentification, optional
        From earlier calls with the same catalogue on the sky, by store entry. What was found from the same streaks is
        taken from here, and what is found anew is put here.

    Notes
    -----
    A star on the sky that is beyond doubt gives its streak the row y0 if the onsets of other streaks told the offset
    along the rows. Otherwise y0 stays what it was.
    """
    if catalogue is None or {"x", "y"} <= set(catalogue):
        return IdentifiedStreaks(*identify_streaks(streaks, readouts, catalogue))
    shared = share_onsets(streaks, readouts)
    kept = {} if kept is None else kept
    places: dict[str | None, SkyCoord] = {}
    result = IdentifiedStreaks({}, [])
    for entry, table in shared.items():
        readout, sky = readouts[entry], (skies or {}).get(entry, "its pointing is not known")
        if entry not in kept or not kept[entry].is_of(table, readout, sky):
            opened = readout.shutter_open_utc
            if opened not in places:
                places[opened] = positions_at(catalogue, None if opened is None else Time(opened, scale="utc"))
            kept[entry] = _identify_or_say_why(entry, table, readout, catalogue, places[opened], sky)
        found = kept[entry]
        result.streaks[entry] = found.named
        if found.solved is None:
            result.warnings.append(found.warning)
        else:
            result.solved[entry] = found.solved
    return result


def _identify_or_say_why(
    entry: str, streaks: pd.DataFrame, readout: Readout, catalogue: pd.DataFrame, places: SkyCoord,
    sky: AmplifierSky | str,
) -> KeptIdentification:  # fmt: skip
    """Name the streaks of one amplifier, or keep the reason why the catalogue is not used there."""
    try:
        if isinstance(sky, str):
            raise NoSolutionError(sky)
        named, solved = _identify_amplifier(streaks, readout, catalogue, places, sky)
    except NoSolutionError as error:
        warning = f"{entry}: the catalogue is not used there: {error}"
        nameless = _with_stars(streaks, catalogue, places, np.full(len(streaks), -1))
        return KeptIdentification(streaks, readout, sky, nameless, None, warning)
    return KeptIdentification(streaks, readout, sky, named, solved, "")


def _identify_amplifier(
    streaks: pd.DataFrame, readout: Readout, catalogue: pd.DataFrame, places: SkyCoord, sky: AmplifierSky
) -> tuple[pd.DataFrame, SolvedAmplifier]:
    """Solve for the pointing of one amplifier, and name its streaks."""
    mag = magnitudes(catalogue, readout.band)
    margin_deg = LARGEST_OFFSET_ARCSEC / 3600 + LARGEST_ROTATION_DEG / 50
    near = np.flatnonzero(sky.near(places, margin_deg) & np.isfinite(mag))
    stars = Stars(*sky.to_pixel(places[near]), mag[near])
    table = streaks if streaks["mag"].notna().any() else streaks.assign(mag=-2.5 * np.log10(streaks["flux_e_s"]))
    x, streak_mag, y0 = (table[name].to_numpy(dtype=np.float64) for name in ("x", "mag", "y0"))
    size = sky.n_columns, sky.n_transit
    solution = solve_amplifier(x, streak_mag, y0, stars, size=size, scale_arcsec=sky.scale_arcsec)
    named = name_streaks(table, stars, solution, readout.psf_sigma_px)
    star = np.where(named.star >= 0, near[named.star] if len(near) else -1, -1)
    solved = SolvedAmplifier(sky, solution)
    found = _with_stars(streaks, catalogue, places, star, named.probability, named.flag, solved.rms_arcsec)
    if solution.knows_rows:
        sure = (star >= 0) & (named.flag == "")
        _, row = solution.to_pixel(stars.x, stars.y0)
        found["y0"] = np.where(sure, row[named.star], found["y0"])
    return found, solved


def _with_stars(
    streaks: pd.DataFrame, catalogue: pd.DataFrame, places: SkyCoord, star: np.ndarray,
    probability: np.ndarray | float = np.nan, flag: np.ndarray | str = "", rms_arcsec: float = np.nan,
) -> pd.DataFrame:  # fmt: skip
    """Streaks with name and position of their stars; empty and NaN where ``star`` is -1."""
    known = star >= 0
    error = catalogue["error"].to_numpy(dtype=np.float64) if "error" in catalogue else np.full(len(catalogue), np.nan)
    error = np.where(np.isfinite(error), np.maximum(error, 0.001), rms_arcsec)
    return streaks.assign(
        name=pd.array(np.where(known, catalogue["name"].to_numpy(dtype=object)[star], ""), dtype="string"),
        ra=np.where(known, places.ra.deg[star], np.nan),
        dec=np.where(known, places.dec.deg[star], np.nan),
        position_error=np.where(known, error[star], np.nan),
        star_probability=probability,
        star_flag=pd.array(np.broadcast_to(flag, len(streaks)), dtype="string"),
    )

"""Instrument profiles: all that is particular to a camera's files, in TOML, so that a new camera needs no code."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from shutterless.pipeline.pocket import PocketEffect

READOUT_KEYWORDS = (
    "ccd",
    "amplifier",
    "row_rate_hz",
    "shutter_open_utc",
    "shutter_close_utc",
    "sequence",
    "first_row",
    "n_transit",
    "gain_e_per_adu",
    "read_noise_e",
    "saturation_adu",
    "band",
    "zero_point_mag",
    "pixel_scale_arcsec",
    "seeing_arcsec",
)
_SITE_LIMITS = {"latitude_deg": (-90, 90), "longitude_deg": (-180, 360), "height_m": (-500, 10_000)}
_SECTIONS = {
    "recognise": ("keywords",),
    "geometry": ("n_columns", "n_overscan_columns", "overscan_used"),
    "keywords": READOUT_KEYWORDS,
    "defaults": (*READOUT_KEYWORDS, "amp_id_start"),
    "nonlinearity": ("a", "b"),
    "pocket": ("capacity_e", "exponent", "flux_exponent", "full_well_e"),
    "site": tuple(_SITE_LIMITS),
}
_QUADRANT_KEYS = ("data_hdu", "overscan_hdu", "flip_columns", "flip_rows")


class ProfileError(ValueError):
    """An instrument profile that is missing, malformed or does not fit a file."""


@dataclass(frozen=True)
class QuadrantLayout:
    """Where one quadrant stands in the file and how raw orientation becomes read order."""

    data_hdu: int
    overscan_hdu: int
    flip_columns: bool = False
    flip_rows: bool = False


@dataclass(frozen=True)
class Site:
    """Where the telescope stands: latitude and longitude (degrees, east is positive) and height (m), as in WGS 84."""

    latitude_deg: float
    longitude_deg: float
    height_m: float


@dataclass(frozen=True)
class InstrumentProfile:
    """Everything particular to the files of one camera.

    Parameters
    ----------
    name, description : str
        Name used on the command line, and one line for people.
    recognise : tuple of str
        Primary header keywords that together identify the instrument; empty means never recognised, only named.
    n_columns, n_overscan_columns : int
        Widths of the data and overscan HDUs (pixels).
    overscan_used : (int, int)
        Half-open range of overscan columns, in read order, that carry the bias.
    quadrants : tuple of QuadrantLayout
        Quadrant 1 first.
    keywords : mapping of str to str
        Header keyword of each readout value.
    defaults : mapping of str to Any
        Values where the header is silent.
    nonlinearity : (float, float) or None
        ``(a, b)`` of ``true = x / (a x^2 + b x + 1)`` in ADU.
    pocket : PocketEffect or None
        What a trap in the serial register does to every row.
    site : Site or None
        Needed for barycentric times alone.
    """

    name: str
    description: str
    recognise: tuple[str, ...]
    n_columns: int
    n_overscan_columns: int
    overscan_used: tuple[int, int]
    quadrants: tuple[QuadrantLayout, ...]
    keywords: Mapping[str, str]
    defaults: Mapping[str, Any]
    nonlinearity: tuple[float, float] | None
    pocket: PocketEffect | None = None
    site: Site | None = None


def builtin_profile_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    folder = resources.files("shutterless.pipeline.profiles")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


@cache
def load_profile(name: str) -> InstrumentProfile:
    """Load a built-in profile by name or a user's own by the path of its TOML file.

    Parameters
    ----------
    name : str
        ``"ztf"``, or a path that ends in ``.toml``.

    Raises
    ------
    ProfileError
        If there is no such profile, or it is malformed (the message names the key and the nearest known one).
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ProfileError(f"instrument profile {name} does not exist")
        return _parse_profile(path.read_text(), source=name)
    if name not in builtin_profile_names():
        raise ProfileError(
            f"no built-in instrument profile {name!r}; built in are {builtin_profile_names()}, "
            "or give the path of your own ending in .toml"
        )
    text = resources.files("shutterless.pipeline.profiles").joinpath(f"{name}.toml").read_text()
    return _parse_profile(text, source=name)


def recognise_profile(header: Mapping[str, Any]) -> InstrumentProfile:
    """Choose the built-in profile whose identifying keywords all stand in a primary header."""
    wanted = {}
    for name in builtin_profile_names():
        profile = load_profile(name)
        if profile.recognise and all(keyword in header for keyword in profile.recognise):
            return profile
        wanted[name] = [keyword for keyword in profile.recognise if keyword not in header]
    raise ProfileError(
        f"no built-in instrument profile recognises this header (missing keywords: {wanted}); "
        "name one with --instrument NAME or --instrument PROFILE.toml"
    )


def _parse_profile(text: str, source: str) -> InstrumentProfile:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"instrument profile {source} is not valid TOML: {error}") from error
    _check_keys(raw, ("name", "description", "quadrants", *_SECTIONS), source)
    for section, known in _SECTIONS.items():
        _check_keys(raw.get(section, {}), known, f"{source} [{section}]")
    quadrants = raw.get("quadrants", [])
    for entry in quadrants:
        _check_keys(entry, _QUADRANT_KEYS, f"{source} [[quadrants]]")
    try:
        geometry = raw["geometry"]
        start, stop = geometry["overscan_used"]
        profile = InstrumentProfile(
            name=raw["name"],
            description=raw.get("description", ""),
            recognise=tuple(raw.get("recognise", {}).get("keywords", ())),
            n_columns=geometry["n_columns"],
            n_overscan_columns=geometry["n_overscan_columns"],
            overscan_used=(start, stop),
            quadrants=tuple(QuadrantLayout(**entry) for entry in quadrants),
            keywords=raw["keywords"],
            defaults=raw.get("defaults", {}),
            nonlinearity=(raw["nonlinearity"]["a"], raw["nonlinearity"]["b"]) if "nonlinearity" in raw else None,
            pocket=PocketEffect(**raw["pocket"]) if "pocket" in raw else None,
            site=Site(**raw["site"]) if "site" in raw else None,
        )
    except (KeyError, TypeError) as error:
        raise ProfileError(
            f"instrument profile {source} lacks {error}; see the built-in ztf.toml for the form"
        ) from error
    _check_geometry(profile, source)
    _check_pocket(profile, source)
    _check_site(profile, source)
    return profile


def _check_geometry(profile: InstrumentProfile, source: str) -> None:
    start, stop = profile.overscan_used
    if not 0 <= start < stop <= profile.n_overscan_columns:
        raise ProfileError(
            f"instrument profile {source}: overscan_used {[start, stop]} does not lie within the "
            f"{profile.n_overscan_columns} overscan columns"
        )
    if not profile.quadrants:
        raise ProfileError(f"instrument profile {source} names no [[quadrants]]")
    if "row_rate_hz" not in profile.keywords:
        raise ProfileError(f"instrument profile {source}: [keywords] must name the header keyword of row_rate_hz")


def _check_pocket(profile: InstrumentProfile, source: str) -> None:
    if profile.pocket is not None and any(not value > 0 for value in vars(profile.pocket).values()):
        raise ProfileError(f"instrument profile {source}: [pocket] needs positive numbers, not {profile.pocket}")


def _check_site(profile: InstrumentProfile, source: str) -> None:
    for key, value in vars(profile.site).items() if profile.site else ():
        low, high = _SITE_LIMITS[key]
        if not low <= value <= high:
            raise ProfileError(f"instrument profile {source}: [site] {key} = {value} is not between {low} and {high}")


def _check_keys(mapping: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in mapping:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known keys are {sorted(known)}"
            raise ProfileError(f"instrument profile {where}: unknown key {key!r}{hint}")

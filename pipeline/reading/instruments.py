"""Load instrument profiles: TOML files that describe a camera's files, so that a new camera needs no code."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from shutterless.pipeline.events.kinds import EVENT_KINDS
from shutterless.pipeline.tokens import GridError, TokenGrid

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
    "right_ascension",
    "declination",
    "position_angle_deg",
)
CUBE_KEYWORDS = (
    *("cadence_d", "cadence_s", "exposure_s", "frame_exposure_s", "n_frames"),
    *(
        "image_hdu",
        "cosmic_rays_mitigated",
        "cosmic_ray_block",
        "unit",
        "gain_e_per_adu",
        "read_noise_e",
        "n_reads",
        "output",
    ),
    *("time_reference_d", "time_reference_fraction_d", "time_system", "time_place", "time_slice"),
    *("data_release", "processing"),
    *("first_exposure_utc", "sequence", "saturation_adu", "band", "zero_point_mag", "pixel_scale_arcsec"),
    "seeing_arcsec",
)
CUBE_COLUMNS = (
    *("time", "time_correction", "cadence_number", "flux", "flux_error", "cosmic_rays", "quality"),
    *("position_column", "position_row"),
)
_SITE_LIMITS = {"latitude_deg": (-90, 90), "longitude_deg": (-180, 360), "height_m": (-500, 10_000)}
_SHARED_SECTIONS = {
    "recognise": ("keywords", "values"),
    "site": tuple(_SITE_LIMITS),
    "tokens": tuple(field.name for field in fields(TokenGrid)),
    "events": EVENT_KINDS,
}
_FRAME_SECTIONS = {
    **_SHARED_SECTIONS,
    "geometry": ("n_columns", "n_overscan_columns", "overscan_used"),
    "keywords": READOUT_KEYWORDS,
    "defaults": (*READOUT_KEYWORDS, "amp_id_start"),
    "nonlinearity": ("a", "b"),
    "serial_trap": ("capacity_e", "exponent", "flux_exponent", "full_well_e"),
    "mosaic": ("n_ccds", "gap_columns_px", "gap_rows_px", "mirrored"),
}
_CUBE_SECTIONS = {
    **_SHARED_SECTIONS,
    "table": ("hdu", "aperture_hdu", "ignored_quality_bits"),
    "columns": CUBE_COLUMNS,
    "keywords": CUBE_KEYWORDS,
    "defaults": CUBE_KEYWORDS,
    "outputs": ("names",),
    "calibration": ("trend_s",),
    "times": ("corrected_scale", "last_slice_s", "slice_step_s", "n_slices"),
    "late_times": ("seconds", "last_release", "doubtful_releases", "processings"),
}
_LAYOUTS = ("frame", "cube")
TIME_SCALES = ("utc", "tai", "tt", "tdb")  # those with a conversion to UTC
_QUADRANT_KEYS = ("data_hdu", "overscan_hdu", "flip_columns", "flip_rows")
_Hdu = Annotated[int, Field(ge=0, le=10_000)]
_Width = Annotated[int, Field(ge=1, le=1 << 20)]
_Text = Annotated[str, Field(max_length=1000)]
_Plain = FiniteFloat | int | bool | _Text
# what the values of each section are; sections with keys of their own are named key by key
_FORMS: dict[str, Any] = {
    "name": _Text,
    "description": _Text,
    "recognise": {"keywords": list[_Text], "values": dict[str, _Plain]},
    "site": dict[str, FiniteFloat],
    "tokens": dict[str, Any],
    "events": dict[str, list[FiniteFloat]],
    "geometry": {
        "n_columns": _Width,
        "n_overscan_columns": _Width,
        "overscan_used": Annotated[list[int], Field(min_length=2, max_length=2)],
    },
    "quadrants": Annotated[list[dict[str, bool | _Hdu]], Field(max_length=1000)],
    "keywords": dict[str, _Text],
    "defaults": dict[str, _Plain],
    "nonlinearity": dict[str, FiniteFloat],
    "serial_trap": dict[str, FiniteFloat],
    "table": {"hdu": _Hdu, "aperture_hdu": _Text, "ignored_quality_bits": list[int]},
    "columns": dict[str, _Text],
    "outputs": {"names": list[_Text]},
    "calibration": {"trend_s": FiniteFloat},
    "times": {
        "corrected_scale": _Text,
        "last_slice_s": FiniteFloat,
        "slice_step_s": FiniteFloat,
        "n_slices": Annotated[int, Field(ge=1)],
    },
}


class ProfileError(ValueError):
    """An instrument profile that is missing, malformed or does not fit a file."""


@dataclass(frozen=True)
class SerialTrap:
    """Strength and shape of the serial trap of one camera.

    Parameters
    ----------
    capacity_e : float
        Charge that the serial trap can hold (electrons).
    exponent : float
        How release and capture depend on the serial trap's filling.
    flux_exponent, full_well_e : float
        How capture depends on the charge of the pixel.

    Notes
    -----
    Regnault et al. 2025 (arXiv:2509.04073). The serial trap is filled to ``x = q / capacity``, and a pixel has ``n``
    electrons. Then ``out = capacity x^exponent`` (at most ``q``) is released, ``in = capacity (1 - x)^exponent (n /
    full_well)^flux_exponent`` (at most ``n``) is captured, ``n + out - in`` is read, and ``q`` grows by ``in - out``.
    """

    capacity_e: float
    exponent: float
    flux_exponent: float
    full_well_e: float

    def scaled(self, strength: float) -> SerialTrap:
        """The same effect with a serial trap of ``strength`` times the capacity."""
        return SerialTrap(strength * self.capacity_e, self.exponent, self.flux_exponent, self.full_well_e)


@dataclass(frozen=True)
class Mosaic:
    """How the CCDs of a camera lie side by side, and how the sky falls on them.

    Parameters
    ----------
    n_ccds : int
        They fill ``ceil(√n)`` columns row by row, number 1 at the upper left.
    gap_columns_px, gap_rows_px : float
        Between neighbouring CCDs (pixels).
    mirrored : bool
        Whether east is to the right where north is up, in raw orientation, as an odd number of mirrors makes it.
    """

    n_ccds: int = 1
    gap_columns_px: float = 0.0
    gap_rows_px: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True)
class QuadrantLayout:
    """HDUs of one quadrant, and the flips that turn raw orientation into read order."""

    data_hdu: int
    overscan_hdu: int
    flip_columns: bool = False
    flip_rows: bool = False


@dataclass(frozen=True)
class Site:
    """Site of the telescope in WGS 84: latitude and longitude (degrees, east is positive) and height (m)."""

    latitude_deg: float
    longitude_deg: float
    height_m: float


@dataclass(frozen=True)
class TimeSlices:
    """Read times of the modules of a camera that reads them in turn, relative to the cadence.

    A module of slice ``n`` (from 1, read first) is ``last_slice_s + slice_step_s * (n_slices - n)`` seconds early.
    """

    last_slice_s: float
    slice_step_s: float
    n_slices: int

    def early_s(self, time_slice: int) -> float:
        """Seconds by which the end, and thus the middle, of a module's exposure precedes that of the cadence."""
        return self.last_slice_s + self.slice_step_s * (self.n_slices - time_slice)


@dataclass(frozen=True)
class LateTimes:
    """Data releases of an archive whose times are late.

    Parameters
    ----------
    seconds : float
        To be subtracted from the times.
    last_release : int
        Releases up to this one are late.
    doubtful_releases : tuple of int
        Releases that exist twice; those of ``processings`` are late.
    processings : tuple of str
        Versions of the pipeline.
    """

    seconds: float
    last_release: int
    doubtful_releases: tuple[int, ...] = ()
    processings: tuple[str, ...] = ()

    def is_late(self, release: int, processing: str) -> bool:
        """Whether the times of a release are late."""
        return release <= self.last_release or (release in self.doubtful_releases and processing in self.processings)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Fields that the profiles of all kinds of file share.

    Parameters
    ----------
    name, description : str
        Name used on the command line, and a description in one line.
    recognise : tuple of str
        Primary header keywords that together identify the instrument; empty means that it must be named.
    recognise_values : mapping of str to str
        Primary header keywords that must also have these values.
    keywords : mapping of str to str
        Header keyword of each value.
    defaults : mapping of str to Any
        Values used if the header has none.
    site : Site or None
        Needed only for barycentric times.
    serial_trap : SerialTrap or None
        None without a trap in the serial register.
    token_grid : mapping of str to Any
        Sizes of the `shutterless.pipeline.tokens.TokenGrid` for these files; empty means that of the settings.
    event_scales_s : mapping of str to (float, float)
        Kinds of event to search and the range of their scale (seconds); empty means those of the settings.
    """

    name: str
    description: str = ""
    recognise: tuple[str, ...] = ()
    recognise_values: Mapping[str, str] = field(default_factory=dict)
    keywords: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    site: Site | None = None
    serial_trap: SerialTrap | None = None
    token_grid: Mapping[str, Any] = field(default_factory=dict)
    event_scales_s: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def header_keywords(self) -> tuple[str, ...]:
        """Every header keyword that is read, in alphabetical order."""
        return tuple(sorted(set(self.keywords.values())))


@dataclass(frozen=True, kw_only=True)
class InstrumentProfile(Profile):
    """Everything particular to the continuous-readout frames of one camera.

    Parameters
    ----------
    n_columns, n_overscan_columns : int
        Widths of the data and overscan HDUs (pixels).
    overscan_used : (int, int)
        Half-open range of overscan columns, in read order, that carry the bias.
    quadrants : tuple of QuadrantLayout
        Quadrant 1 first.
    nonlinearity : (float, float) or None
        ``(a, b)`` of ``true = x / (a x^2 + b x + 1)`` in ADU.
    mosaic : Mosaic
        Where the CCDs stand around the pointing in the primary header; one CCD with the pointing in its middle if the
        profile has none.
    """

    n_columns: int
    n_overscan_columns: int
    overscan_used: tuple[int, int]
    quadrants: tuple[QuadrantLayout, ...]
    nonlinearity: tuple[float, float] | None = None
    mosaic: Mosaic = Mosaic()


@dataclass(frozen=True, kw_only=True)
class CubeProfile(Profile):
    """Everything particular to the image cubes of one camera or archive.

    Parameters
    ----------
    table_hdu : int or None
        HDU of the table whose columns hold times and pixels. None means that the pixels are the first 3-D image, and
        the times, if any, are in the first table with a column of times.
    aperture_hdu : str
        Name of the image HDU whose bit 2 marks the optimal aperture; empty if there is none.
    columns : mapping of str to str
        Column of each of `CUBE_COLUMNS`.
    ignored_quality_bits : tuple of int
        Bits of the quality column, the lowest being 1, that do not mask a cadence; all others do.
    outputs : tuple of str
        Letters appended to the keywords of gain and read noise in files that have them for every output of a CCD.
    corrected_scale : str
        Time scale (``utc``, ``tdb``) of the time column minus the correction; empty if it is in the header.
    time_slices : TimeSlices or None
        For a camera whose modules are read in turn.
    trend_s : float or None
        Window (seconds) of the slow trend that is subtracted; None means the default of the calibration.
    late_times : LateTimes or None
        For an archive some of whose releases have late times.
    """

    table_hdu: int | None
    columns: Mapping[str, str]
    aperture_hdu: str = ""
    ignored_quality_bits: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ()
    corrected_scale: str = ""
    time_slices: TimeSlices | None = None
    trend_s: float | None = None
    late_times: LateTimes | None = None

    @property
    def header_keywords(self) -> tuple[str, ...]:
        """Every header keyword that is read, with those of single outputs, in alphabetical order."""
        by_output = {
            self.keywords[name] + output
            for name in ("gain_e_per_adu", "read_noise_e")
            if name in self.keywords
            for output in self.outputs
        }
        return tuple(sorted(by_output | set(self.keywords.values())))


def builtin_profile_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    return list(_builtin_names())


@cache
def _builtin_names() -> tuple[str, ...]:
    folder = resources.files("shutterless.pipeline.reading.profiles")
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def describe_instrument(instrument: str | None) -> str | None:
    """Identity of a profile in fingerprints: its name, or the text of its TOML file."""
    return Path(instrument).read_text() if instrument and instrument.endswith(".toml") else instrument


@cache
def load_profile(name: str) -> InstrumentProfile | CubeProfile:
    """Load a built-in profile by name or a user's own by the path of its TOML file.

    Parameters
    ----------
    name : str
        ``"ztf"``, ``"kepler"``, ``"tess"``, ``"cube"``, or a path that ends in ``.toml``.

    Returns
    -------
    InstrumentProfile or CubeProfile
        By the file's ``layout``: ``"frame"``, which is the default, or ``"cube"``.

    Raises
    ------
    ProfileError
        If there is no such profile, or it is malformed (the message names the key and the nearest known one).
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ProfileError(f"instrument profile {name} does not exist")
        return _parse_profile(_read_text(path), source=name)
    if name not in builtin_profile_names():
        raise ProfileError(
            f"no built-in instrument profile {name!r}; built in are {builtin_profile_names()}, "
            "or give the path of your own ending in .toml"
        )
    text = resources.files("shutterless.pipeline.reading.profiles").joinpath(f"{name}.toml").read_text()
    return _parse_profile(text, source=name)


def load_frame_profile(name: str) -> InstrumentProfile:
    """Load a profile of continuous-readout frames.

    Raises
    ------
    ProfileError
        As `load_profile`, and if the profile is one of image cubes.
    """
    profile = load_profile(name)
    if isinstance(profile, CubeProfile):
        raise ProfileError(
            f"instrument profile {name} is one of image cubes, continuous-readout frames are needed; "
            'name another, such as "ztf"'
        )
    return profile


def recognise_profile(header: Mapping[str, Any]) -> InstrumentProfile | CubeProfile:
    """Choose the built-in profile whose identifying keywords and values are all in a primary header."""
    wanted = {}
    for name in builtin_profile_names():
        profile = load_profile(name)
        missing = _find_missing(profile, header)
        if not missing and (profile.recognise or profile.recognise_values):
            return profile
        wanted[name] = missing
    raise ProfileError(
        f"no built-in instrument profile recognises this header (missing keywords: {wanted}); "
        "name one with --instrument NAME or --instrument PROFILE.toml"
    )


def _find_missing(profile: Profile, header: Mapping[str, Any]) -> list[str]:
    """Keywords of a profile that a header lacks, with the required value if there is one."""
    missing = [keyword for keyword in profile.recognise if keyword not in header]
    values = profile.recognise_values.items()
    return missing + [f"{key} = {value}" for key, value in values if str(header.get(key, "")).strip() != value]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"instrument profile {path} cannot be read: {error}") from error


def _parse_profile(text: str, source: str) -> InstrumentProfile | CubeProfile:
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ProfileError(f"instrument profile {source} is not valid TOML: {error}") from error
    layout = raw.get("layout", "frame")
    if layout not in _LAYOUTS:
        raise ProfileError(f"instrument profile {source}: layout = {layout!r} is none of {list(_LAYOUTS)}")
    _check_forms(raw, source)
    try:
        return _parse_cubes(raw, source) if layout == "cube" else _parse_frames(raw, source)
    except (KeyError, TypeError) as error:
        example = "kepler.toml" if layout == "cube" else "ztf.toml"
        raise ProfileError(
            f"instrument profile {source} lacks {error}; see the built-in {example} for the form"
        ) from error


def _parse_frames(raw: Mapping[str, Any], source: str) -> InstrumentProfile:
    _check_sections(raw, _FRAME_SECTIONS, source, more=("quadrants",))
    quadrants = raw.get("quadrants", [])
    for entry in quadrants:
        _check_keys(entry, _QUADRANT_KEYS, f"{source} [[quadrants]]")
    geometry = raw["geometry"]
    start, stop = geometry["overscan_used"]
    profile = InstrumentProfile(
        **_shared_values(raw, source),
        n_columns=geometry["n_columns"],
        n_overscan_columns=geometry["n_overscan_columns"],
        overscan_used=(start, stop),
        quadrants=tuple(QuadrantLayout(**entry) for entry in quadrants),
        nonlinearity=(raw["nonlinearity"]["a"], raw["nonlinearity"]["b"]) if "nonlinearity" in raw else None,
        serial_trap=SerialTrap(**raw["serial_trap"]) if "serial_trap" in raw else None,
        mosaic=Mosaic(**raw.get("mosaic", {})),
    )
    _check_geometry(profile, source)
    _check_serial_trap(profile, source)
    return profile


def _parse_cubes(raw: Mapping[str, Any], source: str) -> CubeProfile:
    _check_sections(raw, _CUBE_SECTIONS, source)
    table, times = raw.get("table", {}), dict(raw.get("times", {}))
    profile = CubeProfile(
        **_shared_values(raw, source),
        table_hdu=table.get("hdu"),
        aperture_hdu=table.get("aperture_hdu", ""),
        ignored_quality_bits=tuple(table.get("ignored_quality_bits", ())),
        columns=raw["columns"],
        outputs=tuple(raw.get("outputs", {}).get("names", ())),
        corrected_scale=times.pop("corrected_scale", ""),
        time_slices=TimeSlices(**times) if times else None,
        trend_s=raw.get("calibration", {}).get("trend_s"),
        late_times=_parse_late_times(raw.get("late_times")),
    )
    _check_cubes(profile, source)
    return profile


def _parse_late_times(raw: Mapping[str, Any] | None) -> LateTimes | None:
    if raw is None:
        return None
    return LateTimes(
        float(raw["seconds"]),
        int(raw["last_release"]),
        tuple(raw.get("doubtful_releases", ())),
        tuple(raw.get("processings", ())),
    )


def _shared_values(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of `Profile`, which frames and cubes share."""
    recognise = raw.get("recognise", {})
    site = Site(**raw["site"]) if "site" in raw else None
    _check_site(site, source)
    return {
        "name": raw["name"],
        "description": raw.get("description", ""),
        "recognise": tuple(recognise.get("keywords", ())),
        "recognise_values": {key: str(value) for key, value in recognise.get("values", {}).items()},
        "keywords": raw["keywords"],
        "defaults": raw.get("defaults", {}),
        "site": site,
        "token_grid": _check_tokens(raw.get("tokens", {}), source),
        "event_scales_s": {
            kind: _check_range(scales, f"{source} [events] {kind}") for kind, scales in raw.get("events", {}).items()
        },
    }


def _check_forms(raw: Mapping[str, Any], source: str) -> None:
    """Refuse values of another kind than their key's; unknown keys are named elsewhere."""
    for section, form in _FORMS.items():
        if section not in raw:
            continue
        if not isinstance(form, dict):
            _check_form(section, raw[section], form, source)
            continue
        _check_form(section, raw[section], dict[str, Any], source)
        for key in form.keys() & raw[section].keys():
            _check_form(f"[{section}] {key}", raw[section][key], form[key], source)


def _check_form(where: str, value: Any, form: Any, source: str) -> None:
    try:
        TypeAdapter(form).validate_python(value, strict=True)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = "".join(f" {part}" for part in first["loc"] if str(part).isidentifier())
        raise ProfileError(
            f"instrument profile {source}: {where}{place} = {first['input']!r:.100}: {first['msg']}"
        ) from None


def _check_sections(
    raw: Mapping[str, Any], sections: Mapping[str, tuple[str, ...]], source: str, more: tuple[str, ...] = ()
) -> None:
    _check_keys(raw, ("name", "description", "layout", *more, *sections), source)
    for section, known in sections.items():
        _check_keys(raw.get(section, {}), known, f"{source} [{section}]")


def _check_tokens(tokens: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    try:
        TokenGrid(**tokens)
    except GridError as error:
        raise ProfileError(f"instrument profile {source} [tokens]: {error}") from error
    return tokens


def _check_range(scales: Any, where: str) -> tuple[float, float]:
    if not isinstance(scales, list) or len(scales) != 2 or not 0 < scales[0] <= scales[1]:
        raise ProfileError(f"instrument profile {where} = {scales} is not two rising positive numbers (seconds)")
    return float(scales[0]), float(scales[1])


def _check_cubes(profile: CubeProfile, source: str) -> None:
    if not {"cadence_d", "cadence_s"} & set(profile.keywords):
        raise ProfileError(
            f"instrument profile {source}: [keywords] must name the header keyword of cadence_s (seconds) "
            "or cadence_d (days)"
        )
    wanted = ("time",) if profile.table_hdu is None else ("time", "flux")
    for name in wanted:
        if name not in profile.columns:
            raise ProfileError(f"instrument profile {source}: [columns] must name the column of {name}")
    if profile.corrected_scale not in ("", *TIME_SCALES):
        raise ProfileError(
            f"instrument profile {source} [times]: corrected_scale = {profile.corrected_scale!r} is none of "
            f"{list(TIME_SCALES)}"
        )
    if profile.trend_s is not None and not profile.trend_s > 0:
        raise ProfileError(f"instrument profile {source} [calibration]: trend_s = {profile.trend_s} is not positive")
    for bit in profile.ignored_quality_bits:
        if not 1 <= bit <= 63:
            raise ProfileError(f"instrument profile {source}: ignored_quality_bits has {bit}, bits are 1 to 63")


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
    if profile.mosaic.n_ccds < 1:
        raise ProfileError(f"instrument profile {source}: [mosaic] n_ccds = {profile.mosaic.n_ccds} is below 1")


def _check_serial_trap(profile: InstrumentProfile, source: str) -> None:
    if profile.serial_trap is not None and any(not value > 0 for value in vars(profile.serial_trap).values()):
        raise ProfileError(
            f"instrument profile {source}: [serial_trap] needs positive numbers, not {profile.serial_trap}"
        )


def _check_site(site: Site | None, source: str) -> None:
    for key, value in vars(site).items() if site else ():
        low, high = _SITE_LIMITS[key]
        if not low <= value <= high:
            raise ProfileError(f"instrument profile {source}: [site] {key} = {value} is not between {low} and {high}")


def _check_keys(mapping: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in mapping:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known keys are {sorted(known)}"
            raise ProfileError(f"instrument profile {where}: unknown key {key!r}{hint}")

"""Write a finder page: the patch of sky of each candidate, drawn from the catalogue of the search."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from astropy.time import Time

from shutterless.pipeline.astrometry.sky_catalogue import magnitudes, positions_at, read_sky_catalogue
from shutterless.pipeline.files import write_text
from shutterless.pipeline.plots.sky_field import plot_sky_field
from shutterless.workflows.export.errors import ExportError
from shutterless.workflows.pages.drawings import new_figure, picture
from shutterless.workflows.pages.formats import number
from shutterless.workflows.pages.page import page
from shutterless.workflows.pages.parts import Card, Definitions, Paragraph, Section
from shutterless.workflows.pages.places import describe_mjd, describe_position, has_point, point_of, segment_ends

_HALF_WIDTH_DEG = 4 / 60  # of a patch, at least
_BEYOND_ENDS = 1.1  # a patch is so much longer than its segment
_WORDS = (
    "Black points are stars of the catalogue, the brighter the larger. A blue circle marks the candidate's star, or "
    "the place where two readouts saw it. A red line is the segment of sky on which the light fell, where it is on no "
    "star or on a star in doubt. North is up, east is left; great circles are straight."
)


def write_finder(candidates: pd.DataFrame, path: Path, catalogue: str | Path | None, top: int) -> int:
    """Write the page of the first candidates with a position, those with a veto last, and return their number.

    Parameters
    ----------
    candidates : DataFrame
    path : Path
    catalogue : path or None
        Stars on the sky.
    top : int
        Candidates that are drawn at most.

    Raises
    ------
    ExportError
        If no candidate has a position, or there is no catalogue.
    CatalogueError
        If the catalogue cannot be read.
    """
    placed = candidates[has_point(candidates) | candidates["segment_ra_1"].notna()]
    if placed.empty:
        raise ExportError("no candidate has a position; search with --catalogue and stars on the sky (ra, dec, mag)")
    if catalogue is None or not Path(catalogue).is_file():
        raise ExportError(f"no catalogue {catalogue}; give --catalogue FILE with the stars of the field")
    table = read_sky_catalogue(catalogue)
    table = table[np.isfinite(magnitudes(table, ""))]
    times = placed["time_read"].dropna()
    stars = positions_at(table, Time(times.iloc[0].to_pydatetime()) if len(times) else None)
    mag = magnitudes(table, "")
    order = placed.assign(_vetoed=placed["veto"].fillna("") != "").sort_values("_vetoed", kind="stable")
    chosen = order.drop(columns="_vetoed").head(top)
    cards = [_card(candidate, stars, mag) for _, candidate in chosen.iterrows()]
    words = f"{len(cards)} of {len(placed)} candidates with a position. {_WORDS}"
    section = Section("patches", "Patches of sky", [Paragraph(words, "note"), *cards])
    about = f"Written by shutterless {version('shutterless')}; stars of `{Path(catalogue).name}`."
    write_text(path, page("shutterless finder", about, [section]))
    return len(cards)


def _card(candidate: pd.Series, stars: SkyCoord, mag: np.ndarray) -> Card:
    """Picture and numbers of one candidate."""
    name, one = str(candidate["candidate_id"]), candidate.to_frame().T
    point = point_of(one) if has_point(one).all() else None
    ends = segment_ends(one) if pd.notna(candidate["segment_ra_1"]) else None
    centre, half_width = _patch(None if point is None else point[0], ends)
    drawing = new_figure(6.4, 5.6)
    plot_sky_field(
        centre, half_width, drawing.subplots(), stars=stars, mag=mag, points=point,
        segments=ends,
    )  # fmt: skip
    pairs = [
        *describe_position(candidate),
        ("Star", "–" if pd.isna(candidate["star_name"]) else str(candidate["star_name"])),
        ("Doubt", "–" if pd.isna(candidate["star_flag"]) else str(candidate["star_flag"])),
        ("Magnitude", number(candidate["star_mag"], "{:.2f}")),
        ("Read (UTC)", str(candidate["time_read_utc"] or "–")),
        ("MJD", describe_mjd(candidate)),
        ("Duration", f"{number(candidate['duration_s'])} s"),
        ("S/N", number(candidate["snr"], "{:.1f}")),
        ("File", str(candidate["file"])),
    ]
    shown = picture(
        drawing, f"Centre {centre.to_string('hmsdms', sep=':', precision=1)}.", alt=f"Sky around {name}", image=True
    )
    return Card(name, [shown, Definitions([pair for pair in pairs if pair[1] != "–"])])


def _patch(star: SkyCoord | None, ends: tuple[SkyCoord, SkyCoord] | None) -> tuple[SkyCoord, float]:
    """Centre and half width (deg) of a patch that holds a star and a segment."""
    if ends is None:
        assert star is not None, "a candidate with a position has a star or a segment"
        return star, _HALF_WIDTH_DEG
    first, last = (end[0] for end in ends)
    half_length = first.separation(last) / 2
    middle = first.directional_offset_by(first.position_angle(last), half_length)
    return middle, max(_HALF_WIDTH_DEG, _BEYOND_ENDS * half_length.deg)

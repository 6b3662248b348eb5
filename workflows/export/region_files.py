"""Write candidates as regions of DS9: boxes in the pixels of each HDU, and points and lines on the sky."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from shutterless.pipeline.files import written_whole
from shutterless.pipeline.results.file_places import region_box
from shutterless.workflows.export.errors import ExportError, require
from shutterless.workflows.pages.places import has_point, point_of, segment_ends

SKY_FILE = "sky.reg"
_COLOUR, _VETOED_COLOUR = "cyan", "red"


def write_region_files(candidates: pd.DataFrame, folder: Path) -> list[Path]:
    """Write a file for each HDU with candidates, in image coordinates, and `SKY_FILE`, where positions are known.

    Parameters
    ----------
    candidates : DataFrame
    folder : Path
        A file of an HDU is named after the FITS file, with ``_hduN.reg``.

    Returns
    -------
    list of Path
        The files, that of the sky last.

    Raises
    ------
    ExportError
        If the package regions is not installed, or the table does not say in which HDUs the candidates are.

    Notes
    -----
    Every region is tagged with the name of its candidate. Those with a veto are red.
    """
    regions = require("regions", "regions of DS9")
    if len(candidates) and candidates["hdu"].isna().all():
        raise ExportError("the table does not say in which HDUs the candidates are; search again with this version")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for (file, hdu), here in candidates.groupby(["file", "hdu"], sort=True):
        path = folder / f"{quote(str(file), safe='')}_hdu{hdu}.reg"
        _write(regions, [_pixel_region(regions, row) for _, row in here.iterrows()], path)
        written.append(path)
    on_sky = [region for _, row in candidates.iterrows() for region in _sky_regions(regions, row)]
    if on_sky:
        _write(regions, on_sky, folder / SKY_FILE)
        written.append(folder / SKY_FILE)
    return written


def _pixel_region(regions: Any, candidate: pd.Series) -> Any:
    """Box in the pixels of the file, which the package counts from 0."""
    x, y, width, height = region_box(candidate)
    return regions.RectanglePixelRegion(regions.PixCoord(x - 1, y - 1), width, height, **_labels(regions, candidate))


def _sky_regions(regions: Any, candidate: pd.Series) -> list[Any]:
    """Point of a candidate, and line along the segment on which it lies, as far as they are known."""
    found, one = [], candidate.to_frame().T
    if has_point(one).all():
        place = point_of(one)[0]
        found.append(regions.PointSkyRegion(place, **_labels(regions, candidate)))
    if pd.notna(candidate["segment_ra_1"]):
        line = (end[0] for end in segment_ends(one))
        found.append(regions.LineSkyRegion(*line, **_labels(regions, candidate)))
    return found


def _labels(regions: Any, candidate: pd.Series) -> dict[str, Any]:
    text = f"{candidate['snr']:.1f} sigma"
    colour = _COLOUR if candidate["veto"] in ("", None) or pd.isna(candidate["veto"]) else _VETOED_COLOUR
    return {
        "meta": regions.RegionMeta({"text": text, "tag": [str(candidate["candidate_id"])]}),
        "visual": regions.RegionVisual({"color": colour}),
    }


def _write(regions: Any, shapes: Sequence[Any], path: Path) -> None:
    with written_whole(path) as partial:
        regions.Regions(shapes).write(partial, format="ds9")

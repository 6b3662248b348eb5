"""Find boxes in images, and write them as a table, as DS9 regions and as a sheet of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.boxes.find import FOUND_COLUMNS, find_boxes
from shutterless.models.boxes.saved import load_boxes
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.oriented_boxes import GEOMETRY_COLUMNS, box_corners, group_boxes, scale_boxes
from shutterless.pipeline.reading.fits_files import FrameError, frame_stem
from shutterless.pipeline.reading.sky_images import SkyImage, read_sky_image, scale_image
from shutterless.workflows.boxes.labels import check_names, write_regions
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.pages.drawings import new_figure, window

BOX_TABLE, GROUP_TABLE, SHEET = "boxes.parquet", "groups.parquet", "sheet.png"
_GEOMETRY = list(GEOMETRY_COLUMNS)
_SHEET_COLUMNS, _MOST_PICTURES, _LEAST_PICTURE_PX = 6, 48, 64


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes found in many images.

    Parameters
    ----------
    boxes : DataFrame
        ``file``, `FOUND_COLUMNS`, and ``ra_deg`` and ``dec_deg`` of the centre, NaN without a world coordinate system.
    n_pixels : int
        That were searched.
    failures : list of str
        Files that could not be read, with the reason.
    notes : list of str
        What was scaled.
    """

    boxes: pd.DataFrame
    n_pixels: int
    failures: list[str]
    notes: list[str]


def find_in_files(
    files: Sequence[Path],
    *,
    model: Path,
    out: Path,
    least_score: float,
    kinds: Sequence[str] = (),
    progress: Progress | None = None,
) -> FoundBoxes:
    """Find boxes in images: the command ``shutterless boxes find``.

    Parameters
    ----------
    files : sequence of Path
        Two-dimensional FITS images.
    model : Path
        Folder of a box detector.
    out : Path
        For `BOX_TABLE`, `GROUP_TABLE`, `SHEET`, and a region file ``NAME.reg`` for each image.
    least_score : float
        Smallest probability of a box that is kept.
    kinds : sequence of str
        Kinds that are kept; all without any.
    progress : Progress, optional

    Raises
    ------
    ModelError, ValueError
        If there is no such detector, or it knows no such kind.
    BoxLabelError
        If two images have one name.
    """
    detector = load_boxes(model)
    unknown = sorted({*kinds} - {*(detector.config.kinds or ())})
    if unknown:
        raise ValueError(f"the detector in {model} knows no kind {unknown}; it knows {detector.config.kinds}")
    check_names(files)
    out.mkdir(parents=True, exist_ok=True)
    tables, groups, pictures, failures, notes, n_pixels = [], [], [], [], [], 0
    for path in (progress or Progress(quiet=True)).track(files, "images", len(files)):
        try:
            image = read_sky_image(path)
            found, note = find_in_image(detector, image, least_score)
        except FrameError as error:
            failures.append(str(error))
            continue
        found = found[found["kind"].isin(kinds or detector.config.kinds)]
        enclosing = group_boxes(found)
        write_regions(out / f"{frame_stem(path)}.reg", found, image.wcs)
        tables.append(found.assign(file=str(path), **_sky_places(found, image)))
        groups.append(enclosing.assign(file=str(path), **_sky_places(enclosing, image)))
        pictures += [_cut(image.pixels, row) for row in found.head(_MOST_PICTURES).to_dict("records")]
        notes += [note] if note else []
        n_pixels += image.pixels.size
    boxes = _join(tables, ["file", *FOUND_COLUMNS, "ra_deg", "dec_deg"])
    write_parquet(boxes, out / BOX_TABLE)
    write_parquet(_join(groups, [*boxes.columns, "n_boxes"]), out / GROUP_TABLE)
    best = sorted(pictures, key=lambda picture: -picture[1]["score"])[:_MOST_PICTURES]
    if best:
        draw_sheet(best).savefig(out / SHEET, dpi=110)
    return FoundBoxes(boxes, n_pixels, failures, notes)


def find_in_image(detector: BoxDetector, image: SkyImage, least_score: float) -> tuple[pd.DataFrame, str]:
    """Boxes in an image, in its own pixels, and how it was scaled; empty if it was not.

    Raises
    ------
    FrameError
        If its pixels are too unlike those of the detector's training.
    """
    pixels, factor = scale_image(image, detector.config.pixel_scale_arcsec)
    found = find_boxes(detector, pixels, least_score)
    if factor == 1:
        return found, ""
    found[_GEOMETRY] = scale_boxes(found[_GEOMETRY].to_numpy(dtype=np.float64), 1 / factor)
    return found, f"{image.path} was scaled by {factor:.3g} to the pixels that the detector learned from"


def _join(tables: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _sky_places(found: pd.DataFrame, image: SkyImage) -> dict[str, Any]:
    if image.wcs is None or not len(found):
        return {"ra_deg": np.nan, "dec_deg": np.nan}
    ra, dec = image.wcs.pixel_to_world_values(found["x"], found["y"])
    return {"ra_deg": ra, "dec_deg": dec}


def _cut(pixels: np.ndarray, box: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Pixels around a box, and the box within them."""
    side = int(max(1.4 * box["length"], _LEAST_PICTURE_PX))
    rows, columns = (window(round(box[axis]), side, n) for axis, n in zip("yx", pixels.shape, strict=True))
    return pixels[rows, columns].copy(), {**box, "x": box["x"] - columns.start, "y": box["y"] - rows.start}


def draw_sheet(pictures: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> Figure:
    """Sheet of pictures, each around its box, with kind and score.

    Parameters
    ----------
    pictures : sequence of (ndarray, dict)
        Pixels, and a box in them with ``kind`` and ``score``.
    """
    n_columns = min(len(pictures), _SHEET_COLUMNS)
    n_rows = -(-len(pictures) // n_columns)
    figure = new_figure(1.7 * n_columns, 1.85 * n_rows)
    for ax, (pixels, box) in zip(figure.subplots(n_rows, n_columns, squeeze=False).flat, pictures, strict=False):
        limit = max(3 * MAD_TO_SIGMA * float(np.nanmedian(np.abs(pixels))), 1e-6)
        ax.imshow(pixels, origin="lower", cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
        corners = box_corners(np.array([[box[name] for name in _GEOMETRY]]))[0]
        ax.plot(*np.vstack([corners, corners[:1]]).T, color="tab:orange", linewidth=0.9)
        ax.set(xlim=(-0.5, pixels.shape[1] - 0.5), ylim=(-0.5, pixels.shape[0] - 0.5))
        ax.set_title(f"{box['kind']} {box['score']:.2f}", fontsize=7)
    for ax in figure.axes:
        ax.set_axis_off()
    return figure

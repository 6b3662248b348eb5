"""Read and write boxes that people drew: COCO JSON, and DS9 regions beside the images.

In COCO, ``segmentation`` holds the four corners of a turned box, and ``attributes`` its confidence and group. In DS9
regions a box has its kind as text, and tags such as ``confidence=0.7`` and ``group=2``. Pieces of one object share a
group. The group box around them follows from them; it is written for other programs, in COCO as a crowd, in DS9 dashed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.files import write_text
from shutterless.pipeline.oriented_boxes import (
    GEOMETRY_COLUMNS,
    box_corners,
    box_overlaps,
    enclose_points,
    group_boxes,
    order_sides,
)
from shutterless.pipeline.reading.fits_files import frame_stem, has_fits_name
from shutterless.pipeline.simulation.difference_images import BOX_COLUMNS
from shutterless.pipeline.stored_files import read_json

COCO_SUFFIX, REGION_SUFFIX = ".json", ".reg"
_ENCLOSES = "encloses"  # attribute and tag of a group box: the number of its boxes
_MOSTLY = 0.5  # of a box that a group box holds


class BoxLabelError(ValueError):
    """Labels that cannot be read."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image and the boxes that a person drew.

    Parameters
    ----------
    path : Path
    field : str
        Images of one field are held out together; empty for the name in the image's header.
    boxes : DataFrame
        `BOX_COLUMNS`, in pixels of the image from 0; empty for an image that someone looked at and found empty.
    """

    path: Path
    field: str
    boxes: pd.DataFrame


def read_labels(path: str | Path) -> list[LabelledImage]:
    """Read a COCO file, or a folder with a region file ``NAME.reg`` beside each labelled image.

    Raises
    ------
    BoxLabelError
        If there are no labels, or one of them is no box.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == COCO_SUFFIX and path.is_file():
        return _read_coco(path)
    raise BoxLabelError(
        f"{path} is neither a COCO file ({COCO_SUFFIX}) nor a folder of images with {REGION_SUFFIX} files"
    )


def _read_folder(folder: Path) -> list[LabelledImage]:
    images = {frame_stem(path): path for path in sorted(folder.iterdir()) if has_fits_name(path)}
    found = [
        LabelledImage(images[region.stem], "", read_regions(region, images[region.stem]))
        for region in sorted(folder.glob(f"*{REGION_SUFFIX}"))
        if region.stem in images
    ]
    if not found:
        raise BoxLabelError(f"{folder} holds no {REGION_SUFFIX} file with the name of an image beside it")
    return found


def _read_coco(path: Path) -> list[LabelledImage]:
    stored = read_json(path)
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in stored["categories"]}
        boxes: dict[int, list[dict[str, Any]]] = {int(entry["id"]): [] for entry in stored["images"]}
        for entry in sorted(stored["annotations"], key=lambda entry: bool(entry.get("iscrowd"))):
            of_image = boxes[int(entry["image_id"])]
            if _ENCLOSES in entry.get("attributes", {}):
                continue
            box = _from_coco(entry, names)
            if not (entry.get("iscrowd") and _join_pieces(of_image, box)):
                of_image.append(box)
        return [
            LabelledImage(
                path.parent / str(entry["file_name"]),
                str(entry.get("field", "")),
                pd.DataFrame(boxes[int(entry["id"])], columns=list(BOX_COLUMNS)),
            )
            for entry in stored["images"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BoxLabelError(f"{path} is no COCO file of boxes: {type(error).__name__} {error}") from error


def _from_coco(entry: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    """One annotation; corners are those of pixels, the first of which has its outer corner at 0."""
    attributes = entry.get("attributes", {})
    corners = entry.get("segmentation") or []
    if len(corners) == 1 and len(corners[0]) == 8:
        x, y = np.array(corners[0], dtype=np.float64).reshape(4, 2).T - 0.5
        box = _box_of_corners(x, y)
    else:
        left, top, width, height = map(float, entry["bbox"])
        box = order_sides(np.array([[left + width / 2 - 0.5, top + height / 2 - 0.5, width, height, 0.0]]))[0]
    return box_row(
        box, names[int(entry["category_id"])], attributes.get("confidence", 1.0), attributes.get("group", -1)
    )


def _join_pieces(boxes: list[dict[str, Any]], enclosing: Mapping[str, Any]) -> bool:
    """Join the boxes of a kind in a group box of another program; whether there are any."""
    around = np.array([[enclosing[name] for name in GEOMETRY_COLUMNS]])
    pieces = [
        box
        for box in boxes
        if box["kind"] == enclosing["kind"]
        and box_overlaps(np.array([[box[name] for name in GEOMETRY_COLUMNS]]), around)[1].item() > _MOSTLY
    ]
    number = max((box["group"] for box in boxes), default=-1) + 1
    for box in pieces:
        box["group"] = number
    return bool(pieces)


def _box_of_corners(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The box with these corners, which stand in their order; another quadrangle is enclosed."""
    side, other = np.hypot(x[1] - x[0], y[1] - y[0]), np.hypot(x[2] - x[1], y[2] - y[1])
    box = order_sides(np.array([[x.mean(), y.mean(), side, other, np.arctan2(y[1] - y[0], x[1] - x[0])]]))[0]
    offsets = np.abs(box_corners(box[None])[0][:, None] - np.stack([x, y], -1)).sum(-1).min(0)
    return box if offsets.max() < 0.01 * (side + other) + 0.02 else enclose_points(x, y, half_pixel=0.0)


def box_row(box: np.ndarray, kind: str, confidence: Any, group: Any) -> dict[str, Any]:
    """Row of `BOX_COLUMNS` of a box (5,); a `ValueError` says what no box has."""
    values = [float(value) for value in box]
    if not np.isfinite(values).all() or min(values[2:4]) <= 0:
        raise ValueError(f"a box of the sides {values[2]:g} and {values[3]:g}")
    if not 0 <= float(confidence) <= 1:
        raise ValueError(f"a confidence of {confidence}, expected is 0 to 1")
    return dict(zip(BOX_COLUMNS, [*values, kind, float(confidence), int(group)], strict=True))


def write_coco(path: Path, images: list[LabelledImage], shapes: Mapping[Path, tuple[int, int]]) -> None:
    """Write labels as COCO JSON; file names are relative to its folder where they lie below it.

    Parameters
    ----------
    path : Path
    images : list of LabelledImage
    shapes : mapping of Path to (int, int)
        Height and width of each image.
    """
    kinds = sorted({kind for image in images for kind in image.boxes["kind"]})
    stored: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": kind} for number, kind in enumerate(kinds, 1)],
    }
    for number, image in enumerate(images, 1):
        height, width = shapes[image.path]
        name = image.path.resolve()
        folder = path.parent.resolve()
        name = name.relative_to(folder) if name.is_relative_to(folder) else name
        stored["images"].append(
            {"id": number, "file_name": name.as_posix(), "height": height, "width": width, "field": image.field}
        )
        for row in image.boxes.itertuples(index=False):
            stored["annotations"].append(_to_coco(row, number, kinds, len(stored["annotations"]) + 1))
        for row in group_boxes(image.boxes).itertuples(index=False):
            entry = _to_coco(row, number, kinds, len(stored["annotations"]) + 1)
            stored["annotations"].append(
                {**entry, "iscrowd": 1, "attributes": {**entry["attributes"], _ENCLOSES: int(row.n_boxes)}}
            )
    write_text(path, json.dumps(stored, indent=1))


def _to_coco(row: Any, image: int, kinds: list[str], number: int) -> dict[str, Any]:
    corners = box_corners(np.array([[row.x, row.y, row.length, row.width, row.angle]]))[0] + 0.5
    low, high = corners.min(0), corners.max(0)
    return {
        "id": number,
        "image_id": image,
        "category_id": kinds.index(row.kind) + 1,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "segmentation": [corners.ravel().tolist()],
        "area": float(row.length * row.width),
        "iscrowd": 0,
        "attributes": {"confidence": float(row.confidence), "group": int(row.group)},
    }


def check_names(images: Sequence[Path]) -> None:
    """Refuse images whose region files would be one."""
    names = [frame_stem(path) for path in images]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BoxLabelError(f"several images are named {twice[0]}: their region files would be one; rename them")


def read_regions(path: Path, image: Path) -> pd.DataFrame:
    """Boxes of a DS9 region file, in pixels of its image; regions on the sky are placed by the image's header.

    Raises
    ------
    BoxLabelError
        If it cannot be read, or holds something else than boxes, ellipses and circles.
    """
    regions = _import_regions()
    try:
        found = regions.Regions.read(path, format="ds9")
        wcs = None
        rows = []
        for region in found:
            if any(tag.startswith(f"{_ENCLOSES}=") for tag in region.meta.get("tag", [])):
                continue
            if isinstance(region, regions.SkyRegion):
                wcs = wcs or _wcs_of(image)
                region = region.to_pixel(wcs)
            rows.append(_from_region(region))
        return pd.DataFrame(rows, columns=list(BOX_COLUMNS))
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise BoxLabelError(f"{path} is no region file of boxes: {' '.join(str(error).split())}") from error


def _from_region(region: Any) -> dict[str, Any]:
    if hasattr(region, "width") and hasattr(region, "angle"):
        width, height, angle = region.width, region.height, region.angle.to_value("rad")
    elif hasattr(region, "radius"):
        width = height = 2 * region.radius
        angle = 0.0
    else:
        raise ValueError(f"{type(region).__name__}: expected are boxes, ellipses and circles")
    tags = dict(tag.split("=", 1) for tag in region.meta.get("tag", []) if "=" in tag)
    box = order_sides(np.array([[region.center.x, region.center.y, float(width), float(height), float(angle)]]))[0]
    return box_row(box, region.meta.get("text") or "object", tags.get("confidence", 1.0), tags.get("group", -1))


def write_regions(path: Path, boxes: pd.DataFrame, wcs: Any = None) -> None:
    """Write boxes as DS9 regions, on the sky if a world coordinate system is given; group boxes are dashed.

    Parameters
    ----------
    path : Path
    boxes : DataFrame
        ``x``, ``y``, ``length``, ``width``, ``angle``, ``kind`` and ``group``, and ``confidence`` or ``score``.
    wcs : WCS, optional
    """
    regions = _import_regions()
    import astropy.units as u

    grade = "confidence" if "confidence" in boxes else "score"
    written = []
    for row in [*boxes.to_dict("records"), *group_boxes(boxes).to_dict("records")]:
        tags = [f"{grade}={row[grade]:.3f}", f"group={row['group']}"]
        dashed = {"visual": regions.RegionVisual(linestyle="dashed")} if "n_boxes" in row else {}
        tags += [f"{_ENCLOSES}={row['n_boxes']}"] if dashed else []
        region = regions.RectanglePixelRegion(
            regions.PixCoord(row["x"], row["y"]), row["length"], row["width"], angle=row["angle"] * u.rad,
            meta={"text": row["kind"], "tag": tags}, **dashed,
        )  # fmt: skip
        written.append(region if wcs is None else region.to_sky(wcs))
    write_text(path, regions.Regions(written).serialize(format="ds9") if written else "# Region file format: DS9\n")


def _wcs_of(image: Path) -> Any:
    from shutterless.pipeline.reading.sky_images import read_sky_image

    wcs = read_sky_image(image).wcs
    if wcs is None:
        raise ValueError(f"its regions are on the sky, and {image} has no world coordinate system")
    return wcs


def _import_regions() -> Any:
    try:
        import regions
    except ImportError as error:
        raise BoxLabelError("DS9 regions need the package regions: pip install 'shutterless[export]'") from error
    return regions

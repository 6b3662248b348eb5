"""Images that a person draws boxes on, and the labels that are written after every change."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import image as pictures

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.oriented_boxes import GEOMETRY_COLUMNS
from shutterless.pipeline.reading.fits_files import frame_stem
from shutterless.pipeline.reading.sky_images import SkyImage, read_sky_image
from shutterless.pipeline.simulation.difference_images import BOX_COLUMNS
from shutterless.workflows.boxes.labels import (
    COCO_SUFFIX,
    REGION_SUFFIX,
    LabelledImage,
    box_row,
    check_names,
    read_labels,
    read_regions,
    write_coco,
    write_regions,
)

COCO_NAME = f"labels{COCO_SUFFIX}"
_SHOWN_SIGMA = 4.0
_MOST_BOXES = 10_000


class RefusedBoxError(ValueError):
    """Boxes of a page that cannot be kept."""

    status = 422


@dataclass
class BoxDesk:
    """Images in their order, with the boxes drawn so far.

    Parameters
    ----------
    images : list of Path
    out : Path
        Folder of `COCO_NAME` and of a region file for each image that was looked at.
    kinds : list of str
        Names that a box may have.
    """

    images: list[Path]
    out: Path
    kinds: list[str]
    boxes: dict[Path, pd.DataFrame] = field(default_factory=dict)
    _shapes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, images: Sequence[Path], out: Path, kinds: Sequence[str]) -> BoxDesk:
        """Images with the labels of ``out``, or, without, with the region files beside the images.

        Raises
        ------
        BoxLabelError
            If two images have one name, or labels are damaged.
        """
        check_names(images)
        boxes = {}
        known = {one.path.resolve(): one.boxes for one in read_labels(out / COCO_NAME)} if _has_labels(out) else {}
        for path in images:
            beside = path.with_name(frame_stem(path) + REGION_SUFFIX)
            if path.resolve() in known:
                boxes[path] = known[path.resolve()]
            elif not known and beside.is_file():
                boxes[path] = read_regions(beside, path)
        found = {kind for one in boxes.values() for kind in one["kind"]}
        return cls(list(images), out, [*kinds, *sorted(found - {*kinds})], boxes)

    def image(self, place: int) -> SkyImage:
        """Image of a page; its shape is kept for the labels."""
        image = read_sky_image(self.images[place])
        self._shapes[self.images[place]] = (image.pixels.shape[0], image.pixels.shape[1])
        return image

    def picture(self, place: int) -> bytes:
        """PNG of an image, the first row below, black and white at some σ of its own scatter."""
        pixels = self.image(place).pixels
        limit = max(_SHOWN_SIGMA * MAD_TO_SIGMA * float(np.nanmedian(np.abs(pixels))), 1e-12)
        stream = io.BytesIO()
        shown = np.nan_to_num(pixels[::-1], nan=-limit)
        pictures.imsave(stream, shown, cmap="gray", vmin=-limit, vmax=limit, format="png")
        return stream.getvalue()

    def state(self, place: int) -> dict[str, Any]:
        """What a page needs: number of rows, boxes, kinds, and whether someone looked at the image before."""
        path = self.images[place]
        boxes = self.boxes.get(path)
        height, width = self.image(place).pixels.shape
        return {
            "place": place,
            "width": width,
            "height": height,
            "kinds": self.kinds,
            "is_seen": boxes is not None,
            "boxes": [] if boxes is None else boxes.to_dict("records"),
        }

    def keep(self, values: Mapping[str, Any]) -> int:
        """Replace the boxes of an image by those of its page, and write all labels; the number of its boxes.

        Raises
        ------
        RefusedBoxError
            If one of them is no box of a known kind, or there is no such image.
        """
        place, drawn = values.get("place"), values.get("boxes")
        if not isinstance(place, int) or not 0 <= place < len(self.images):
            raise RefusedBoxError(f"place = {place!r} is none of 0 to {len(self.images) - 1}")
        if not isinstance(drawn, list) or len(drawn) > _MOST_BOXES:
            raise RefusedBoxError(f"boxes are no list of at most {_MOST_BOXES:,}")
        rows = [self._row(number, one) for number, one in enumerate(drawn)]
        with self._lock:
            if self.images[place] not in self._shapes:
                self.image(place)
            self.boxes[self.images[place]] = pd.DataFrame(rows, columns=list(BOX_COLUMNS))
            self._write(place)
        return len(rows)

    def _row(self, number: int, one: Any) -> dict[str, Any]:
        try:
            if one["kind"] not in self.kinds:
                raise ValueError(f"its kind {one['kind']!r} is none of {self.kinds}")
            box = np.array([float(one[name]) for name in GEOMETRY_COLUMNS])
            return box_row(box, one["kind"], one.get("confidence", 1.0), one.get("group", -1))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefusedBoxError(f"box {number} is none: {error}") from error

    def _write(self, place: int) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        for path in self.boxes:
            if path not in self._shapes:  # labelled by an earlier page
                self.image(self.images.index(path))
        seen = [LabelledImage(path, "", self.boxes[path]) for path in self.images if path in self.boxes]
        write_coco(self.out / COCO_NAME, seen, self._shapes)
        path = self.images[place]
        write_regions(self.out / f"{frame_stem(path)}{REGION_SUFFIX}", self.boxes[path])


def _has_labels(out: Path) -> bool:
    return (out / COCO_NAME).is_file()

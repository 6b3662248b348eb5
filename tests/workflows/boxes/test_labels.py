from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from shutterless.pipeline.simulation.difference_images import BOX_COLUMNS
from shutterless.workflows.boxes.labels import (
    BoxLabelError,
    LabelledImage,
    read_labels,
    read_regions,
    write_coco,
    write_regions,
)

BOXES = pd.DataFrame(
    [(20.0, 30.0, 18.0, 6.0, 0.4, "echo", 0.7, 2), (50.0, 12.0, 9.0, 9.0, 0.0, "artefact", 1.0, -1)],
    columns=list(BOX_COLUMNS),
)
HEADER = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0, "CRPIX1": 32.0, "CRPIX2": 32.0,
          "CDELT1": -1 / 3600, "CDELT2": 1 / 3600}  # fmt: skip


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.random.default_rng(1).normal(size=(64, 64)), fits.Header(HEADER)).writeto(path)
    return path


def check_equal(found, expected=BOXES):
    pd.testing.assert_frame_equal(found, expected, check_exact=False, atol=1e-4)


def test_boxes_survive_coco(tmp_path, image):
    empty = LabelledImage(tmp_path / "b.fits", "north", BOXES.iloc[:0])
    write_coco(
        tmp_path / "l.json", [LabelledImage(image, "south", BOXES), empty], {image: (64, 64), empty.path: (9, 9)}
    )
    first, second = read_labels(tmp_path / "l.json")
    assert (first.path, first.field) == (image, "south")
    check_equal(first.boxes)
    assert (second.path, second.field, len(second.boxes)) == (tmp_path / "b.fits", "north", 0)


def test_boxes_of_other_programs_lie_and_count_pixels_from_their_corner(tmp_path):
    stored = {
        "images": [{"id": 5, "file_name": "a.fits"}],
        "categories": [{"id": 3, "name": "echo"}],
        "annotations": [
            {"image_id": 5, "category_id": 3, "bbox": [0, 10, 4, 20]},
            {"image_id": 5, "category_id": 3, "bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 6, 0, 8, 4, 0, 4]]},
        ],
    }
    (tmp_path / "l.json").write_text(json.dumps(stored))
    (one,) = read_labels(tmp_path / "l.json")
    assert one.boxes.iloc[0, :4].tolist() == [1.5, 19.5, 20, 4]
    assert abs(one.boxes["angle"][0]) == pytest.approx(np.pi / 2)
    assert one.boxes["length"][1] >= 8  # no box: what encloses it


@pytest.mark.parametrize("on_sky", [False, True])
def test_boxes_survive_regions(tmp_path, image, on_sky):
    wcs = WCS(fits.Header(HEADER)) if on_sky else None
    write_regions(tmp_path / "a.reg", BOXES, wcs)
    assert ("image" in (tmp_path / "a.reg").read_text()) != on_sky
    check_equal(read_regions(tmp_path / "a.reg", image))
    (labelled,) = read_labels(tmp_path)
    check_equal(labelled.boxes)


def test_circles_and_ellipses_are_taken_and_no_region_is_an_empty_image(tmp_path, image):
    (tmp_path / "a.reg").write_text("image\ncircle(11,21,5) # text={echo}\nellipse(11,21,5,2,90)\n")
    found = read_regions(tmp_path / "a.reg", image)
    assert found[["x", "y", "length", "width", "kind"]].to_numpy().tolist() == [
        [10, 20, 10, 10, "echo"], [10, 20, 10, 4, "object"]
    ]  # fmt: skip
    write_regions(tmp_path / "a.reg", BOXES.iloc[:0])
    assert len(read_regions(tmp_path / "a.reg", image)) == 0


def test_labels_that_are_none_are_refused(tmp_path, image):
    with pytest.raises(BoxLabelError, match=r"is neither a COCO file \(.json\) nor a folder"):
        read_labels(tmp_path / "a.txt")
    with pytest.raises(BoxLabelError, match=r"holds no .reg file with the name of an image beside it"):
        read_labels(tmp_path)
    (tmp_path / "l.json").write_text('{"images": []}')
    with pytest.raises(BoxLabelError, match="is no COCO file of boxes: KeyError 'categories'"):
        read_labels(tmp_path / "l.json")
    (tmp_path / "a.reg").write_text("image\npolygon(1,1,2,2,3,1)\n")
    with pytest.raises(BoxLabelError, match="is no region file of boxes: PolygonPixelRegion: expected are boxes"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 0.0}, "a box of the sides 18 and 0"), ({"confidence": 1.5}, "a confidence of 1.5, expected is 0 to 1")],
)
def test_boxes_without_area_and_wrong_grades_are_refused(tmp_path, image, change, message):
    write_coco(tmp_path / "l.json", [LabelledImage(image, "", BOXES.assign(**change))], {image: (64, 64)})
    with pytest.raises(BoxLabelError, match=message):
        read_labels(tmp_path / "l.json")


def test_regions_on_the_sky_need_positions_in_the_image(tmp_path):
    fits.PrimaryHDU(np.random.default_rng(1).normal(size=(64, 64))).writeto(tmp_path / "a.fits")
    write_regions(tmp_path / "a.reg", BOXES, WCS(fits.Header(HEADER)))
    with pytest.raises(BoxLabelError, match=r"regions are on the sky, and .* has no world coordinate system"):
        read_labels(tmp_path)


PIECES = pd.concat([BOXES, BOXES.iloc[:1].assign(x=44.0, confidence=1.0)], ignore_index=True)


def test_a_group_box_is_written_for_other_programs_and_is_no_label(tmp_path, image):
    write_coco(tmp_path / "l.json", [LabelledImage(image, "", PIECES)], {image: (64, 64)})
    last = json.loads((tmp_path / "l.json").read_text())["annotations"][-1]
    assert (last["iscrowd"], last["attributes"]) == (1, {"confidence": 1.0, "group": 2, "encloses": 2})
    assert last["area"] > 18 * 6 * 2
    check_equal(read_labels(tmp_path / "l.json")[0].boxes, PIECES)
    write_regions(tmp_path / "a.reg", PIECES)
    assert (tmp_path / "a.reg").read_text().count("box(") == 4
    assert (tmp_path / "a.reg").read_text().count("dash") >= 1
    check_equal(read_regions(tmp_path / "a.reg", image), PIECES)


def test_a_crowd_of_another_program_joins_the_boxes_in_it(tmp_path):
    stored = {
        "images": [{"id": 5, "file_name": "a.fits"}],
        "categories": [{"id": 3, "name": "echo"}, {"id": 4, "name": "artefact"}],
        "annotations": [
            {"image_id": 5, "category_id": 3, "bbox": [0, 0, 60, 30], "iscrowd": 1},
            {"image_id": 5, "category_id": 3, "bbox": [0, 10, 20, 4]},
            {"image_id": 5, "category_id": 3, "bbox": [40, 10, 20, 4]},
            {"image_id": 5, "category_id": 3, "bbox": [80, 10, 20, 4]},
            {"image_id": 5, "category_id": 4, "bbox": [20, 10, 5, 4]},
            {"image_id": 5, "category_id": 4, "bbox": [200, 10, 9, 9], "iscrowd": 1},
        ],
    }
    (tmp_path / "l.json").write_text(json.dumps(stored))
    boxes = read_labels(tmp_path / "l.json")[0].boxes
    assert boxes["group"].tolist() == [0, 0, -1, -1, -1]
    assert boxes["x"].iloc[-1] == 204  # a crowd around nothing is a box

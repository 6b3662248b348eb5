from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import image as pictures

from shutterless.workflows.boxes.desk import COCO_NAME, BoxDesk, RefusedBoxError
from shutterless.workflows.boxes.labels import BoxLabelError, read_labels, read_regions

from .conftest import SHAPE, write_image

BOX = {"x": 39.5, "y": 29.5, "length": 30.0, "width": 6.0, "angle": 0.2, "kind": "echo"}


@pytest.fixture
def images(tmp_path):
    return [write_image(tmp_path / f"{name}.fits", seed) for seed, name in enumerate("ab")]


def test_boxes_are_written_after_every_change_and_are_there_again(images, tmp_path):
    out = tmp_path / "out"
    desk = BoxDesk.open(images, out, ["echo"])
    assert desk.state(0) == {"place": 0, "width": 100, "height": 64, "kinds": ["echo"], "is_seen": False, "boxes": []}
    assert desk.keep({"place": 1, "boxes": [BOX, {**BOX, "confidence": 0.4, "group": 0}]}) == 2
    (only,) = read_labels(out / COCO_NAME)
    assert only.path == images[1]
    assert only.boxes["confidence"].tolist() == [1.0, 0.4]
    assert read_regions(out / "b.reg", images[1])["angle"].tolist() == pytest.approx([0.2, 0.2])
    again = BoxDesk.open(images, out, ["artefact"])
    assert again.kinds == ["artefact", "echo"]
    assert len(again.state(1)["boxes"]) == 2
    assert again.keep({"place": 0, "boxes": []}) == 0
    assert [len(one.boxes) for one in read_labels(out / COCO_NAME)] == [0, 2]


def test_region_files_beside_the_images_are_where_a_person_begins(images, tmp_path):
    images[0].with_name("a.reg").write_text("image\nbox(11,21,30,6,0) # text={wisp}\n")
    desk = BoxDesk.open(images, tmp_path / "out", ["echo"])
    assert desk.kinds == ["echo", "wisp"]
    assert desk.state(0)["boxes"][0]["x"] == 10


def test_the_picture_has_the_first_row_below(images, tmp_path):
    shown = pictures.imread(io.BytesIO(BoxDesk.open(images, tmp_path, ["echo"]).picture(0)))[..., 0]
    assert shown.shape == SHAPE
    rows = shown[:, 25:55].mean(1)
    assert np.flatnonzero(rows > 0.9).tolist() == list(range(64 - 33, 64 - 27))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"place": 2, "boxes": []}, "place = 2 is none of 0 to 1"),
        ({"place": 0, "boxes": 3}, "boxes are no list"),
        ({"place": 0, "boxes": [{**BOX, "kind": "cat"}]}, r"box 0 is none: its kind 'cat' is none of \['echo'\]"),
        ({"place": 0, "boxes": [BOX, {**BOX, "width": -1}]}, "box 1 is none: a box of the sides 30 and -1"),
        ({"place": 0, "boxes": [{"kind": "echo"}]}, "box 0 is none: 'x'"),
    ],
)
def test_what_is_no_box_is_refused_and_nothing_is_written(images, tmp_path, values, message):
    desk = BoxDesk.open(images, tmp_path / "out", ["echo"])
    with pytest.raises(RefusedBoxError, match=message):
        desk.keep(values)
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_name_are_refused(images, tmp_path):
    (tmp_path / "other").mkdir()
    twin = write_image(tmp_path / "other" / "a.fits", 3)
    with pytest.raises(BoxLabelError, match="several images are named a: their region files would be one"):
        BoxDesk.open([*images, twin], tmp_path, ["echo"])

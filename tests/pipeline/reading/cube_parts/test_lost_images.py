"""Images without light of their own are masked, where they are few."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cubes import write_plain

from shutterless.pipeline.reading.cube_parts.lost_images import find_lost_images
from shutterless.pipeline.reading.cubes import read_cube

SKY = np.random.default_rng(2).poisson(100, (30, 6, 7)).astype(np.float32)


def test_images_that_are_alike_throughout_and_repetitions_are_found():
    images = SKY.copy()
    images[3], images[9], images[20] = 0, np.nan, 65535
    images[15] = images[14]
    lost, notes = find_lost_images(images)
    assert list(np.flatnonzero(lost)) == [3, 15, 20]
    assert notes == (
        "all pixels of an image are alike in 2 of 30 images, which are masked: 3, 20",
        "an image repeats the one before in 1 of 30 images, which are masked: 15",
    )


def test_many_places_are_not_all_listed():
    images = SKY.copy()
    images[::4] = 0
    assert find_lost_images(images)[1][0].endswith("masked: 0, 4, 8, 12, 16 and 3 more")


@pytest.mark.parametrize("images", [SKY, SKY[:, :2, :2] * 0, SKY[:1] * 0], ids=["good", "few pixels", "one image"])
def test_nothing_is_lost(images):
    lost, notes = find_lost_images(images)
    assert (lost.any(), notes) == (False, ())


def test_most_images_are_no_accident():
    images = SKY.copy()
    images[:20] = 0
    lost, (note,) = find_lost_images(images)
    assert not lost.any()
    assert "too many to be lost ones" in note


def test_cube_without_its_lost_images(tmp_path):
    images = SKY.copy()
    images[12] = 0
    cube = read_cube(write_plain(tmp_path / "c.fits", images.astype(np.uint16)))
    assert list(np.flatnonzero(np.isnan(cube.flux_e).all(axis=(0, 1)))) == [12]
    assert any("all pixels of an image are alike in 1 of 30 images" in note for note in cube.notes)

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
    images[15], images[25] = images[14], images[10]
    lost, notes = find_lost_images(images)
    assert list(np.flatnonzero(lost)) == [3, 15, 20, 25]
    assert notes == (
        "all pixels of an image are alike in 2 of 30 images, which are masked: 3, 20",
        "an image repeats an earlier one in 2 of 30 images, which are masked: 15, 25",
    )


def test_many_places_are_not_all_listed():
    images = SKY.copy()
    images[::4] = 0
    assert find_lost_images(images)[1][0].endswith("masked: 0, 4, 8, 12, 16 and 3 more")


@pytest.mark.parametrize("place", [0, 29])
@pytest.mark.parametrize("what", [np.mean, np.median, np.sum, lambda rest, axis: rest.mean(axis).round()])
def test_a_mean_or_sum_of_the_others_at_either_end_is_no_image(place, what):
    images = SKY.copy()
    images[place] = what(np.delete(SKY, place, axis=0), axis=0)
    lost, notes = find_lost_images(images)
    assert list(np.flatnonzero(lost)) == [place]
    assert notes == (f"image {place} is a mean or sum of the others, which has no noise of its own: it is masked",)


def test_a_star_that_is_as_bright_as_on_average_in_the_last_image_is_no_mean():
    light = np.zeros((6, 7))
    light[2:4, 3:5] = 1e5
    turning = 1 + 0.3 * np.cos(np.arange(1, 31) * np.pi / 2)  # 1 in the first and in the last image
    images = np.random.default_rng(3).poisson(100 + turning[:, None, None] * light)
    assert not find_lost_images(images)[0].any()


@pytest.mark.parametrize("is_sum", [False, True])
def test_images_without_a_sky_are_no_sums_unless_they_are(is_sum):
    images = np.random.default_rng(4).normal(0, 1, (400, 6, 7)).astype(np.float32)
    if is_sum:
        images[-1] = images[:-1].sum(axis=0)
    assert list(np.flatnonzero(find_lost_images(images)[0])) == ([399] if is_sum else [])


@pytest.mark.parametrize("rate", [0.03, 0.3, 2.0])
def test_images_of_few_photons_are_alike_by_chance(rate):
    images = np.random.default_rng(1).poisson(rate, (600, 6, 7))
    lost, notes = find_lost_images(images)
    assert (lost.any(), notes) == (False, ())


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

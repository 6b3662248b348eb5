"""Flags mask what has no light or no pointing; flags of unusual light do not, for a flare is that."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cubes import star_images, write_kepler, write_tess

from shutterless.pipeline.reading.cube_parts.quality import describe_flags, restore_cosmic_rays
from shutterless.pipeline.reading.cubes import read_cube


def test_masked_and_kept_cadences_are_counted_by_bit():
    quality = np.array([0, 4, 4 + 32, 2048, 2048 + 4, 128, 0])
    masked, kept = describe_flags(quality, (8, 12), "QUALITY")
    assert masked == "QUALITY flags 3 of 7 cadences, which are masked (bit 3: 3, bit 6: 1)"
    assert "QUALITY flags 2 cadences as outliers or cosmic rays" in kept
    assert kept.endswith("they are kept (bit 8: 1, bit 12: 1)")


def test_files_without_flags_say_so_where_they_should_have_them():
    assert describe_flags(None, (), "QUALITY") == ("there is no column QUALITY: no cadence is masked by a flag",)
    assert describe_flags(None, (), "") == describe_flags(np.zeros(3, np.int64), (), "QUALITY") == ()


@pytest.mark.parametrize(
    ("write", "values", "kept"),
    [
        (write_kepler, {"outlier": 2048, "cosmic ray": 128, "sensitivity": 1024}, True),
        (write_kepler, {"coarse point": 4, "thruster": 1 << 20, "collateral": 8192, "no data": 65536}, False),
        (write_tess, {"outlier": 512, "cosmic ray": 64, "discontinuity": 256}, True),
        (write_tess, {"coarse point": 4, "stray light": 2048, "scattered light": 4096, "collateral": 1024}, False),
    ],
)
def test_what_flags_of_archives_do(tmp_path, write, values, kept):
    quality = np.zeros(8, np.int32)
    quality[1 : 1 + len(values)] = list(values.values())
    cube = read_cube(write(tmp_path / "a.fits", star_images(8), columns={"QUALITY": quality}))
    masked = np.isnan(cube.flux_e).all(axis=(0, 1))
    assert masked.sum() == (0 if kept else len(values))


def test_light_taken_off_as_cosmic_rays_is_added_again(tmp_path):
    images = star_images(8)
    taken = np.full(images.shape, np.nan, np.float32)
    taken[3, 1:3, 2], taken[5, 0, 0] = 50.0, 7.0
    whole = read_cube(write_kepler(tmp_path / "whole.fits", images))
    columns = {"COSMIC_RAYS": taken, "FLUX_ERR": np.sqrt(np.abs(images)) / 40}
    less = read_cube(write_kepler(tmp_path / "less.fits", images - np.nan_to_num(taken), columns=columns))
    np.testing.assert_allclose(less.flux_e, whole.flux_e, rtol=1e-6)
    assert any("COSMIC_RAYS: what was taken off 3 pixels in 2 cadences" in note for note in less.notes)


@pytest.mark.parametrize(("shape", "value", "said"), [((4, 3, 3), 0, 0), ((4, 3, 3), np.nan, 0), ((4,), 1, 1)])
def test_empty_or_odd_columns_of_cosmic_rays_change_no_pixel(shape, value, said):
    removed = np.full(shape, value, np.float32)
    flux, notes = restore_cosmic_rays(np.ones((4, 3, 3), np.float32), removed, "COSMIC_RAYS")
    assert (flux == 1).all()
    assert len(notes) == said
    assert all(note == "COSMIC_RAYS is not read: it and the pixels have the shapes 4 and 4 × 3 × 3" for note in notes)

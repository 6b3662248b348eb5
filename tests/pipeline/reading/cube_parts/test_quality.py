"""Flags mask what has no light or no pointing; flags of unusual light do not, for a flare is that."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cubes import star_images, write_kepler, write_tess

from shutterless.pipeline.reading.cube_parts.quality import describe_flags
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

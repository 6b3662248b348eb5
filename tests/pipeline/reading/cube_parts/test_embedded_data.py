"""Numbers that programs write into the first or the last row are no light."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cubes import write_plain

from shutterless.pipeline.reading.cube_parts.embedded_data import find_embedded_data
from shutterless.pipeline.reading.cubes import read_cube

N = 300
COUNT = np.arange(N)
SKY = np.random.default_rng(5).poisson(100, (N, 8, 12)).astype(np.uint16)


def bytes_of_a_clock(width: int) -> np.ndarray:
    """Bytes (t, width) of a 32-bit count of milliseconds, 33 from image to image, highest byte first."""
    return (33 * COUNT[:, None] >> np.arange(8 * (width - 1), -1, -8)) & 255


@pytest.mark.parametrize(
    ("row", "columns", "values"),
    [
        (0, slice(0, 1), COUNT[:, None]),
        (0, slice(0, 12), COUNT[:, None] + 1000),
        (-1, slice(0, 12), 3 * COUNT[:, None] % 256),
        (0, slice(0, 4), bytes_of_a_clock(4)),
        (-1, slice(2, 10), np.full((N, 1), 20)),
        (0, slice(5, 6), COUNT[:, None] // 25),
        (0, slice(0, 12), np.random.default_rng(6).integers(0, 256, (N, 12))),
    ],
    ids=["counter", "row of counters", "bytes that begin again", "clock", "constants", "seconds", "random bytes"],
)
def test_numbers_are_found(row, columns, values):
    images = SKY.copy()
    images[:, row, columns] = values
    embedded, (note,) = find_embedded_data(images)
    expected = np.zeros((8, 12), dtype=bool)
    expected[row, columns] = True
    np.testing.assert_array_equal(embedded, expected)
    assert note.startswith(f"{expected.sum()} of 12 pixels of row {row % 8} hold no light but numbers")


def test_stars_at_the_border_and_other_images_hold_none():
    star = SKY.copy()
    star[:, 0, 4:7] += np.random.default_rng(7).poisson([300, 3000, 300], (N, 3)).astype(np.uint16)
    few_photons = np.random.default_rng(8).poisson(0.1, (N, 8, 12))
    for images in (SKY, star, few_photons, SKY[:, :3], SKY[:10], SKY + 0.25):
        embedded, notes = find_embedded_data(images)
        assert (embedded.any(), notes) == (False, ())


def test_cube_without_the_pixels_of_a_counter(tmp_path):
    images = SKY.copy()
    images[:, 0, :3] = COUNT[:, None]
    cube = read_cube(write_plain(tmp_path / "c.fits", images))
    assert np.isnan(cube.flux_e).any(axis=2).sum() == np.isnan(cube.flux_e[0, :3]).all(axis=1).sum() == 3
    assert any(note.startswith("3 of 12 pixels of row 0 hold no light") for note in cube.notes)

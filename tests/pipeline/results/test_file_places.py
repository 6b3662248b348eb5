"""Where a candidate is in its file: the pixel that a FITS viewer shows at these numbers is the one that was found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from shutterless.pipeline.reading.cubes import read_cube, read_cube_info
from shutterless.pipeline.reading.frames import read_amplifier, read_frame_info
from shutterless.pipeline.results.file_places import ArchiveImages, FilePlace

from ...fake_cubes import star_images, write_kepler, write_plain, write_tess

N_ROWS = 60


def detections(x, row):
    return pd.DataFrame({"x": [float(x)], "row_peak": [row]})


def no_y():
    return pd.Series([pd.NA], dtype="Int64")


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    """A frame of ZTF with one bright pixel in each raw quadrant, at another place in each."""
    rng = np.random.default_rng(1)
    primary = fits.PrimaryHDU()
    primary.header.update({"CCD_ID": 3, "ROWRATE": 300.0, "SHUTOPEN": "2026-03-04T05:06:07"})
    data = [rng.integers(500, 520, (N_ROWS, 3072)).astype(np.int32) for _ in range(4)]
    for quadrant, image in enumerate(data, start=1):
        image[10 * quadrant, 200 * quadrant] = 9000
    overscan = [rng.integers(100, 110, (N_ROWS, 30)).astype(np.int32) for _ in range(4)]
    hdus = [fits.ImageHDU(image, fits.Header({"AMP_ID": 1 + k % 4})) for k, image in enumerate([*data, *overscan])]
    path = tmp_path_factory.mktemp("raw") / "raw.fits"
    fits.HDUList([primary, *hdus]).writeto(path)
    return path


@pytest.mark.parametrize("quadrant", [1, 2, 3, 4])
def test_the_raw_pixel_of_each_quadrant(frame, quadrant):
    pixels = read_amplifier(frame, quadrant).pixels_adu
    row, x = np.unravel_index(np.argmax(pixels), pixels.shape)
    place = FilePlace.of(read_frame_info(frame), quadrant).columns(detections(x, int(row)), no_y())
    fits_x, fits_y = int(place["fits_x"][0]), int(place["fits_y"][0])
    assert (fits_x, fits_y) == (200 * quadrant + 1, 10 * quadrant + 1)
    with fits.open(place["path"]) as hdus:
        assert hdus[int(place["hdu"][0])].data[fits_y - 1, fits_x - 1] == 9000
    assert pd.isna(place["fits_z"][0])
    assert pd.isna(place["object"])


def test_the_hdu_is_the_one_in_the_file_also_where_others_stand_before_it(frame, tmp_path):
    """A table before the images shifts every HDU by one."""
    table = fits.BinTableHDU.from_columns([fits.Column("TEMP", "E", array=np.ones(2))])
    path = tmp_path / "shifted.fits"
    with fits.open(frame, memmap=False) as hdus:
        fits.HDUList([hdus[0].copy(), table, *(hdu.copy() for hdu in hdus[1:])]).writeto(path)
    place = FilePlace.of(read_frame_info(path), 3).columns(detections(3071 - 600, 30), no_y())
    with fits.open(path) as hdus:
        image = hdus[int(place["hdu"][0])].data
    assert place["hdu"].tolist() == [4]
    assert image[30, 600] == 9000


def test_a_place_between_columns_is_mirrored_exactly(frame):
    """x = 0.25 in read order lies a quarter of a pixel beyond the middle of the first column; flipped, before it."""
    info = read_frame_info(frame)
    assert FilePlace.of(info, 1).columns(detections(0.25, 0), no_y())["fits_x"].tolist() == [1.25]
    assert FilePlace.of(info, 2).columns(detections(0.25, 0), no_y())["fits_x"].tolist() == [3071.75]


@pytest.mark.parametrize(
    ("write", "target", "campaign", "first"),
    [(write_kepler, "EPIC 201", "campaign 18", 161969), (write_tess, "TIC 7", "sector 1", 90000)],
)
def test_a_cube_of_an_archive(tmp_path, write, target, campaign, first):
    """The star is in the middle of 5 × 7 pixels; two cadences are missing after the third image."""
    flux = star_images(20)
    numbers = np.array([*range(3), *range(5, 22)]) + first
    stretch, number = campaign.split()
    primary = {"OBJECT": target, stretch.upper(): int(number)}
    path = write(tmp_path / "target.fits", flux, numbers=numbers, primary=primary)
    cube, info = read_cube(path), read_cube_info(path)
    found = FilePlace.of(info, None, ArchiveImages.of(cube)).columns(detections(3.0, 7), pd.Series([2], dtype="Int64"))
    assert (found["object"], found["campaign"]) == (target, campaign)
    assert found["cadence_number"].tolist() == [7 + first]
    with fits.open(found["path"]) as hdus:
        table = hdus[int(found["hdu"][0])].data
        at = int(found["fits_z"][0]) - 1
        assert at == 5
        assert table["CADENCENO"][at] == found["cadence_number"][0]
        assert table["FLUX"][at][int(found["fits_y"][0]) - 1, int(found["fits_x"][0]) - 1] == table["FLUX"][at].max()


def test_a_row_that_the_file_lacks_has_no_image(tmp_path):
    path = write_kepler(tmp_path / "target.fits", star_images(10), numbers=[0, 1, 2, 5, 6, 7, 8, 9, 10, 11])
    place = FilePlace.of(read_cube_info(path), None, ArchiveImages.of(read_cube(path)))
    found = place.columns(detections(3.0, 4), pd.Series([2], dtype="Int64"))
    assert found["fits_z"].isna().all()
    assert found["cadence_number"].isna().all()


def test_images_that_stand_out_of_order_keep_their_numbers_in_the_file(tmp_path):
    """The second half first, and one image twice: rows follow the times, places the file."""
    path = write_kepler(tmp_path / "target.fits", star_images(10))
    with fits.open(path, memmap=False) as hdus:
        hdus[1].data = hdus[1].data[[5, 6, 7, 8, 9, 0, 1, 1, 2, 3, 4]]
        hdus.writeto(path, overwrite=True)
    found = FilePlace.of(read_cube_info(path), None, ArchiveImages.of(read_cube(path))).columns(
        pd.DataFrame({"x": [3.0, 3.0, 3.0], "row_peak": [0, 2, 7]}), pd.Series([2, 2, 2], dtype="Int64")
    )
    assert found["fits_z"].tolist() == [6, 9, 3]
    assert found["cadence_number"].tolist() == [161969, 161971, 161976]


def test_images_along_another_axis_have_the_pixel_of_the_image(tmp_path):
    light = np.moveaxis(star_images(30), 0, -1)
    path = write_plain(tmp_path / "turned.fits", light[np.newaxis], header={"CTYPE1": "TIME"}, in_extension=True)
    place = FilePlace.of(read_cube_info(path, "cube"), None, ArchiveImages.of(read_cube(path, "cube")))
    found = place.columns(detections(3.0, 4), pd.Series([2], dtype="Int64"))
    assert (found["hdu"].tolist(), found["fits_z"].tolist()) == ([1], [5])
    assert (found["fits_x"].tolist(), found["fits_y"].tolist()) == ([4], [3])


def test_a_cut_out_whose_cadences_are_all_numbered_zero_has_no_numbers(tmp_path):
    path = write_tess(tmp_path / "cut.fits", star_images(10))
    found = FilePlace.of(read_cube_info(path), None, ArchiveImages.of(read_cube(path))).columns(
        detections(3.0, 4), pd.Series([2], dtype="Int64")
    )
    assert found["cadence_number"].isna().all()
    assert (found["fits_z"].tolist(), found["campaign"]) == ([5], "sector 1")


@pytest.mark.parametrize("in_extension", [False, True])
def test_a_plain_cube_has_planes_and_no_cadence_numbers(tmp_path, in_extension):
    path = write_plain(tmp_path / "plain.fits", star_images(10), in_extension=in_extension)
    place = FilePlace.of(read_cube_info(path, "cube"), None, ArchiveImages.of(read_cube(path, "cube")))
    found = place.columns(detections(3.0, 4), pd.Series([2], dtype="Int64"))
    with fits.open(path) as hdus:
        plane = hdus[int(found["hdu"][0])].data[int(found["fits_z"][0]) - 1]
    assert plane[int(found["fits_y"][0]) - 1, int(found["fits_x"][0]) - 1] == plane.max()
    assert found["cadence_number"].isna().all()
    assert pd.isna(found["campaign"])


def test_without_headers_only_the_path_is_known():
    found = FilePlace("/night/a.fits").columns(detections(3.0, 4), no_y())
    assert found["path"] == "/night/a.fits"
    assert found["hdu"].isna().all()

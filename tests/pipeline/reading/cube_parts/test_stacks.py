"""Single images become one cube in the order of their times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from shutterless.pipeline.reading.cube_parts.stacks import plan_stack, write_stack
from shutterless.pipeline.reading.exposures import read_exposure, read_info
from shutterless.pipeline.reading.fits_files import FrameError

SKY = np.random.default_rng(9).poisson(100, (30, 6, 7)).astype(np.uint16)
CARDS = {"EXPTIME": 0.5, "GAIN": 2.0, "OBJECT": "field 1"}


def utc_of(k: int, step_s: float = 0.5) -> str:
    return f"2026-03-04T05:06:{7 + k * step_s:06.3f}"


def write_images(folder: Path, images=SKY, *, order=None, **cards) -> list[Path]:
    """One file for each image; names in another order than times if asked."""
    paths = []
    for k, image in enumerate(images):
        name = folder / f"i{(order or range(len(images)))[k]:03d}.fits"
        hdu = fits.PrimaryHDU(image)
        hdu.header.update({**CARDS, "DATE-OBS": utc_of(k), **cards})  # later, or the image is scaled by them
        hdu.writeto(name)
        paths.append(name)
    return sorted(paths)


def joined(paths, folder, **options):
    path, failures = write_stack(plan_stack(paths, {}), folder, **options)
    assert failures == []
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_images_of_many_files_in_the_order_of_their_times(tmp_path, kind):
    order = [(7 * k) % 30 for k in range(30)]
    paths = write_images(tmp_path, SKY.astype(kind), order=order)
    stack = plan_stack(paths, {})
    assert stack.notes == ("30 images of 30 files are one cube", "images are put into the order of their times")
    cube = read_exposure(write_stack(stack, tmp_path / "out")[0], None)
    np.testing.assert_array_equal(cube.flux_e, 2 * np.moveaxis(SKY, 0, -1).astype(np.float32))
    assert cube.readout.sequence == "field 1"
    assert str(cube.readout.read_utc(10)[0]) == "2026-03-04T05:06:12.250000"
    with fits.open(cube.path) as hdus:
        assert list(hdus["IMAGES"].data["FILE"]) == [f"i{k:03d}.fits" for k in order]


def test_missing_images_are_rows_without_light(tmp_path):
    paths = write_images(tmp_path)
    del paths[12:15]
    cube = read_exposure(joined(paths, tmp_path / "out"), None)
    assert list(np.flatnonzero(np.isnan(cube.flux_e).all(axis=(0, 1)))) == [12, 13, 14]


@pytest.mark.parametrize("kind", [fits.ImageHDU, fits.CompImageHDU])
def test_hdus_of_one_file(tmp_path, kind):
    first = fits.PrimaryHDU(header=fits.Header([("DATE-OBS", utc_of(0)), *CARDS.items()]))
    hdus = [kind(image.astype(np.int16)) for image in SKY]
    hdus.insert(7, fits.ImageHDU(np.ones((6, 7), np.int16), name="DQ"))
    fits.HDUList([first, *hdus]).writeto(tmp_path / "m.fits")
    path = joined([tmp_path / "m.fits"], tmp_path)
    cube = read_exposure(path, None)
    np.testing.assert_array_equal(cube.flux_e, 2 * np.moveaxis(SKY, 0, -1).astype(np.float32))
    assert str(cube.readout.read_utc(10)[0]) == "2026-03-04T05:06:12.250000"
    with fits.open(path) as hdus:
        assert list(hdus["IMAGES"].data["HDU"][5:9]) == [6, 7, 9, 10]


def test_times_to_a_second_are_taken_from_a_straight_line(tmp_path):
    paths = write_images(tmp_path)
    for path in paths:
        fits.setval(path, "DATE-OBS", value=fits.getval(path, "DATE-OBS")[:19])
    stack = plan_stack(paths, {})
    assert stack.notes[-1].startswith("several images have one time, to 1 s")
    info = read_info(write_stack(stack, tmp_path / "out")[0])
    assert (info.n_rows, info.readouts[None].row_rate_hz) == (30, pytest.approx(2, rel=0.01))


def test_images_without_times_stand_in_the_order_of_names(tmp_path):
    paths = write_images(tmp_path)
    for path in paths:
        fits.delval(path, "DATE-OBS")
    stack = plan_stack(paths, {})
    assert stack.notes[-1].startswith("not every image has a time of its own")
    info = read_info(write_stack(stack, tmp_path / "out")[0])
    assert (info.n_rows, info.readouts[None].row_rate_hz) == (30, 2)


def test_scaled_images_with_blank_keep_their_numbers(tmp_path):
    paths = write_images(tmp_path, SKY.astype(np.int16), BSCALE=0.5, BZERO=10.0, BLANK=int(SKY[3, 2, 2]))
    cube = read_exposure(joined(paths, tmp_path / "out"), None)
    expected = np.where(SKY[3, 2, 2] == SKY, np.nan, 2 * (0.5 * SKY + 10)).astype(np.float32)
    np.testing.assert_array_equal(cube.flux_e, np.moveaxis(expected, 0, -1))


def test_files_that_cannot_be_read_are_left_out_and_listed(tmp_path):
    paths = write_images(tmp_path)
    paths[4].write_bytes(paths[4].read_bytes()[:2890])
    (tmp_path / "z.fits").write_bytes(b"no FITS")
    stack = plan_stack([*paths, tmp_path / "z.fits"], {})
    assert [path.name for path, _ in stack.failures] == ["i004.fits", "z.fits"]
    assert stack.notes[0] == "29 images of 29 files are one cube"


def test_what_is_there_already_is_kept(tmp_path):
    paths = write_images(tmp_path)
    first = joined(paths, tmp_path / "out").stat().st_mtime_ns
    assert joined(paths, tmp_path / "out").stat().st_mtime_ns == first
    fits.setval(paths[0], "GAIN", value=3.0)
    assert joined(paths, tmp_path / "out").stat().st_mtime_ns != first


def test_images_of_two_sizes_or_one_image_are_no_stack(tmp_path):
    paths = write_images(tmp_path)
    fits.PrimaryHDU(SKY[0, :5]).writeto(tmp_path / "other.fits")
    with pytest.raises(FrameError, match=r"i000\.fits has an image \(6, 7\), .*other\.fits one of \(5, 7\): one stack"):
        plan_stack([*paths, tmp_path / "other.fits"], {})
    with pytest.raises(FrameError, match=r"a stack needs at least two images \(y, x\), there are 1"):
        plan_stack(paths[:1], {})
    fits.PrimaryHDU().writeto(tmp_path / "none.fits")
    with pytest.raises(FrameError, match=r"there are 0; FrameError: .*none\.fits: no HDU is an image \(y, x\)"):
        plan_stack([tmp_path / "none.fits"], {})


def test_headers_and_times_alone_say_what_the_cube_is(tmp_path):
    path = joined(write_images(tmp_path), tmp_path / "out", with_pixels=False)
    info = read_info(path)
    assert (info.n_rows, info.n_y, info.n_columns) == (30, 6, 7)
    with fits.open(path) as hdus:
        assert not hdus[0].data.any() or hdus[0].header["BZERO"] == 32768

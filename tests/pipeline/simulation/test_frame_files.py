from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from shutterless.pipeline.reading.instruments import QuadrantLayout
from shutterless.pipeline.simulation import frame_files
from shutterless.pipeline.simulation.frame_files import FrameFileError, create_frame_file

SUFFIXES = [".fits", ".fits.gz", ".fits.fz"]
FLIPS = [QuadrantLayout(1, 2, columns, rows) for columns in (False, True) for rows in (False, True)]


def noise(n_rows: int, n_columns: int, dtype: type = np.uint16, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).poisson(150, (n_rows, n_columns)).astype(dtype)


def write(path, images, blocks=(7, 1, 40), layout=FLIPS[0]) -> None:
    with create_frame_file(path, fits.Header([("CCD_ID", 3)])) as file:
        writers = [
            file.add_image(hdu, fits.Header([("GAIN", 6.2)]), image.shape, layout)
            for hdu, image in enumerate(images, start=1)
        ]
        for writer, image in zip(writers, images, strict=True):
            start = 0
            while start < len(image):
                size = blocks[start % len(blocks)]
                writer.append(image[start : start + size])
                start += size


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layout", FLIPS)
@pytest.mark.parametrize("n_rows", [120, 128, 5])
def test_blocks_become_the_image_that_astropy_reads(tmp_path, monkeypatch, suffix, layout, n_rows):
    monkeypatch.setattr(frame_files, "_PACKED_PIXELS", 50 * 32)  # several pieces of each image
    monkeypatch.setattr(frame_files, "_COPIED_TILES", 3)
    images = [noise(n_rows, 50), noise(n_rows, 6, seed=2)]
    write(tmp_path / f"a{suffix}", images, layout=layout)
    with fits.open(tmp_path / f"a{suffix}") as hdus:
        hdus.verify("exception")
        assert hdus[0].header["CCD_ID"] == 3
        for hdu, image in zip(hdus[1:], images, strict=True):
            raw = image[:: -1 if layout.flip_rows else 1, :: -1 if layout.flip_columns else 1]
            assert hdu.data.dtype == np.uint16
            np.testing.assert_array_equal(hdu.data, raw)
            assert hdu.header["GAIN"] == 6.2
    assert [entry.name for entry in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_signed_integers_are_kept(tmp_path, suffix, dtype):
    image = noise(30, 40, dtype) - dtype(140)
    write(tmp_path / f"a{suffix}", [image])
    with fits.open(tmp_path / f"a{suffix}") as hdus:
        np.testing.assert_array_equal(hdus[1].data, image)


def test_tiles_are_as_astropy_would_cut_them(tmp_path):
    image = noise(60, 50)
    write(tmp_path / "ours.fits.fz", [image])
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, tile_shape=(16, 50))]).writeto(
        tmp_path / "astropys.fits.fz"
    )
    tables = []
    for name in ("ours", "astropys"):
        with fits.open(tmp_path / f"{name}.fits.fz", disable_image_compression=True) as hdus:
            tables.append([bytes(row) for row in hdus[1].data["COMPRESSED_DATA"]])
            assert (hdus[1].header["ZTILE1"], hdus[1].header["ZTILE2"], hdus[1].header["ZCMPTYPE"]) == (
                50,
                16,
                "RICE_1",
            )
    assert tables[0] == tables[1]


def test_large_heaps_have_wide_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_files, "_LARGEST_32_BIT_HEAP", 1000)
    image = noise(60, 50)
    write(tmp_path / "a.fits.fz", [image])
    with fits.open(tmp_path / "a.fits.fz", disable_image_compression=True) as hdus:
        assert hdus[1].columns[0].format.startswith("1QB")
    with fits.open(tmp_path / "a.fits.fz") as hdus:
        np.testing.assert_array_equal(hdus[1].data, image)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_is_whole_or_absent(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, [noise(5, 8)])
    before = path.read_bytes()

    def fail_half_way() -> None:
        with create_frame_file(path, fits.Header()) as file:
            file.add_image(1, fits.Header(), (10, 8), FLIPS[0]).append(noise(5, 8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_images_that_lack_rows_or_have_too_many_are_refused(tmp_path, suffix):
    with (
        pytest.raises(FrameFileError, match=r"an image of 10 rows was given 5"),
        create_frame_file(tmp_path / f"a{suffix}", fits.Header()) as file,
    ):
        file.add_image(1, fits.Header(), (10, 8), FLIPS[0]).append(noise(5, 8))
    with create_frame_file(tmp_path / f"a{suffix}", fits.Header()) as file:
        image = file.add_image(1, fits.Header(), (10, 8), FLIPS[0])
        image.append(noise(9, 8))
        for wrong in (noise(2, 8), noise(1, 7), noise(1, 8)[0]):
            with pytest.raises(FrameFileError, match=r"does not fit behind 9 rows of an image of \(10, 8\)"):
                image.append(wrong)
        image.append(noise(1, 8))
    assert [entry.name for entry in tmp_path.iterdir()] == [f"a{suffix}"]


def test_a_gap_between_the_hdus_is_refused(tmp_path):
    def write_first_and_third() -> None:
        with create_frame_file(tmp_path / "a.fits", fits.Header()) as file:
            for hdu in (1, 3):
                file.add_image(hdu, fits.Header(), (5, 8), FLIPS[0]).append(noise(5, 8))

    with pytest.raises(FrameFileError, match=r"HDUs \[3\] do not follow on 1\.\.1"):
        write_first_and_third()


PEAK = """
import sys, tracemalloc
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.simulation.simulate import simulate_file
settings = SceneSettings(instrument=sys.argv[1], rows=int(sys.argv[2]), events=3, suffix=sys.argv[3],
    n_bright_stars=2_000, sky_mag=17.0, atmosphere=True, detector=True)
simulate_file(settings, 1, 0, sys.argv[4])  # compiled, imported, cached
tracemalloc.start()
simulate_file(settings, 1, 0, sys.argv[4])
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".fits", ".fits.fz"])
def test_memory_does_not_depend_on_the_number_of_rows(wide_profile, tmp_path, suffix):
    peaks = []
    for rows in ("2000", "20000"):
        command = [sys.executable, "-c", PEAK, wide_profile, rows, suffix, str(tmp_path)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < 1.1 * peaks[0]


@pytest.fixture
def wide_profile(tiny_profile, tmp_path) -> str:
    """The tiny camera with as many columns as ZTF."""
    path = tmp_path / "wide.toml"
    path.write_text(Path(tiny_profile).read_text().replace("n_columns = 64", "n_columns = 3072"))
    return str(path)

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from shutterless.models.boxes.fit import fit_boxes
from shutterless.models.boxes.saved import load_boxes
from shutterless.models.boxes.settings import BoxTrainingSettings
from shutterless.models.boxes.tiles import join_tiles
from shutterless.pipeline.reading.sky_images import read_sky_image
from shutterless.workflows.boxes.find import BOX_TABLE, SHEET, find_in_files
from shutterless.workflows.boxes.labels import BoxLabelError, read_labels, read_regions
from shutterless.workflows.boxes.train import read_images
from shutterless.workflows.cli import load_app

from .conftest import write_image


@pytest.fixture(scope="module")
def detector(labelled, small_detector, tmp_path_factory):
    """A detector that knows the bar of the labelled images by heart, whose pixels are of 1 arcsec."""
    model = load_boxes(small_detector)
    images, scale, _ = read_images(read_labels(labelled))
    tiles = join_tiles([image.cut(64) for image in images])
    fit_boxes(model, tiles, BoxTrainingSettings(epochs=60, learning_rate=1e-2, turn=False, batch_size=4))
    model.config.pixel_scale_arcsec = scale
    folder = tmp_path_factory.mktemp("detector")
    model.save_pretrained(folder)
    return folder


def test_boxes_are_found_in_good_files_beside_bad_ones(detector, tmp_path):
    files = [write_image(tmp_path / f"{seed}.fits", seed) for seed in (7, 8)]
    (tmp_path / "bad.fits").write_bytes(b"nothing")
    out = tmp_path / "out"
    result = find_in_files([files[0], tmp_path / "bad.fits", files[1]], model=detector, out=out, least_score=0.2)
    assert [line.split(":")[0] for line in result.failures] == [
        str(tmp_path / "bad.fits") + " is not a complete FITS file"
    ]
    found = pd.read_parquet(out / BOX_TABLE)
    pd.testing.assert_frame_equal(found, result.boxes)
    best = found.groupby("file").first()
    assert set(best.index) == set(map(str, files))
    assert (best["x"] - 39.5).abs().max() < 6
    assert (best["y"] - 29.5).abs().max() < 4
    ra, dec = read_sky_image(files[0]).wcs.pixel_to_world_values(best["x"].iloc[0], best["y"].iloc[0])
    assert (best["ra_deg"].iloc[0], best["dec_deg"].iloc[0]) == pytest.approx((float(ra), float(dec)))
    regions = read_regions(out / "7.reg", files[0])
    assert regions["x"].tolist() == pytest.approx(found.loc[found["file"] == str(files[0]), "x"].tolist(), abs=0.01)
    assert (out / SHEET).stat().st_size > 1000
    assert result.n_pixels == 2 * 6400


def test_boxes_in_an_image_of_finer_pixels_are_in_its_own_pixels(detector, tmp_path):
    path = write_image(tmp_path / "fine.fits", 5, scale_arcsec=0.5)
    result = find_in_files([path], model=detector, out=tmp_path / "out", least_score=0.02)
    (note,) = result.notes
    assert "was scaled by 0.5" in note
    assert result.boxes["x"].max() > 20


def test_an_image_of_much_coarser_pixels_is_refused_with_the_reason(detector, tmp_path):
    path = write_image(tmp_path / "coarse.fits", 5, scale_arcsec=6.0)
    result = find_in_files([path], model=detector, out=tmp_path / "out", least_score=0.02)
    assert "has pixels of 6 arcsec, the detector learned from 1" in result.failures[0]
    assert len(pd.read_parquet(tmp_path / "out" / BOX_TABLE)) == 0


def test_two_images_of_one_name_are_refused(detector, tmp_path):
    with pytest.raises(BoxLabelError, match="several images are named a: their region files would be one"):
        find_in_files(
            [tmp_path / "a.fits", tmp_path / "b" / "a.fits.gz"], model=detector, out=tmp_path, least_score=0.3
        )


def test_a_kind_that_the_detector_does_not_know_is_refused(detector, tmp_path):
    with pytest.raises(ValueError, match=r"knows no kind \['echo'\]; it knows \['bar', 'blob'\]"):
        find_in_files([], model=detector, out=tmp_path, least_score=0.3, kinds=["echo"])
    assert json.loads((detector / "config.json").read_text())["kinds"] == ["bar", "blob"]


def test_the_command_counts_kinds_and_names_what_it_could_not_read(detector, tmp_path):
    good, bad = write_image(tmp_path / "good.fits", 7), tmp_path / "bad.fits"
    bad.write_bytes(b"nothing")
    words = ["boxes", "find", good, bad, "--model", detector, "--out", tmp_path / "o", "--least-score", 0.2, "-q"]
    result = CliRunner().invoke(load_app(), [str(word) for word in words])
    assert result.exit_code == 1
    assert re.search(r"\d bar.* in 1 images: ", result.stdout)
    assert "1 failed:\n" in result.stderr
    assert "bad.fits is not a complete FITS file" in result.stderr

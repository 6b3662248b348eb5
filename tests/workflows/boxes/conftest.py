"""Three labelled images with a bright bar each, one without, and a small detector to start from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from shutterless.models.boxes.fit import build_box_detector
from shutterless.pipeline.simulation.difference_images import BOX_COLUMNS
from shutterless.workflows.boxes.labels import LabelledImage, write_coco

SHAPE = (64, 100)
HEADER = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0, "CRPIX1": 32.0, "CRPIX2": 32.0,
          "CDELT1": -1 / 3600, "CDELT2": 1 / 3600}  # fmt: skip


def write_image(path, seed, scale_arcsec=1.0):
    """An image of unsigned integers with a bar around (40, 30), 30 by 6 pixels of 1 arcsec."""
    sky = 1000 + 20 * np.random.default_rng(seed).standard_normal(SHAPE)
    sky[27:33, 25:55] += 120
    header = {**HEADER, "CDELT1": -scale_arcsec / 3600, "CDELT2": scale_arcsec / 3600}
    fits.PrimaryHDU(np.rint(sky).astype(np.uint16), fits.Header(header)).writeto(path)
    return path


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    box = pd.DataFrame([(39.5, 29.5, 30.0, 6.0, 0.0, "bar", 1.0, -1)], columns=list(BOX_COLUMNS))
    images = [
        LabelledImage(
            write_image(folder / f"{name}.fits", seed), f"field {seed // 2}", box if seed < 3 else box.iloc[:0]
        )
        for seed, name in enumerate("abcd")
    ]
    write_coco(folder / "labels.json", images, {image.path: SHAPE for image in images})
    return folder / "labels.json"


@pytest.fixture(scope="session")
def small_detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    model = build_box_detector(tile_px=64, channels=[8, 8, 16], n_layers=1, n_heads=2, kinds=["bar", "blob"])
    model.save_pretrained(folder)
    return folder

"""Fake frames in the true on-disk format, written without the package, and a small instrument of our own."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

# 64 columns, 4 overscan columns, two quadrants that flip differently, other keyword names than ZTF's
TINY_PROFILE = """
name = "tiny"
description = "a small camera for tests"
[recognise]
keywords = ["TINYCAM"]
[geometry]
n_columns = 64
n_overscan_columns = 30
overscan_used = [20, 30]
[[quadrants]]
data_hdu = 1
overscan_hdu = 3
[[quadrants]]
data_hdu = 2
overscan_hdu = 4
flip_columns = true
flip_rows = true
[keywords]
ccd = "CHIP"
amplifier = "AMPNO"
row_rate_hz = "CLOCK"
shutter_open_utc = "TOPEN"
sequence = "SEQ"
first_row = "ROW0"
n_transit = "NROWS"
gain_e_per_adu = "EGAIN"
read_noise_e = "RDN"
saturation_adu = "SATUR"
band = "BAND"
zero_point_mag = "ZP"
[defaults]
n_transit = 50
gain_e_per_adu = 2.0
read_noise_e = 5.0
saturation_adu = 60000.0
pixel_scale_arcsec = 1.0
seeing_arcsec = 2.0
"""

ZTF_PRIMARY = {
    "CCD_ID": 1,
    "ROWRATE": 300.0,
    "SHUTOPEN": "2026-03-04T05:06:07.000",
    "SEQID": "fake",
    "SEQROW0": 0,
    "FILTER": "r",
    "MAGZP1S": 24.49,
}
ZTF_AMPLIFIER = {"GAIN": 6.2, "READNOI": 10.0, "SATURATE": 48000.0}


@pytest.fixture
def tiny_profile(tmp_path: Path) -> str:
    """Path of the small instrument's profile."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_PROFILE)
    return str(path)


@pytest.fixture(scope="session")
def tiny_camera(tmp_path_factory) -> str:
    """Path of the small camera's profile; `tiny_profile` for fixtures of the whole session."""
    path = tmp_path_factory.mktemp("camera") / "tiny.toml"
    path.write_text(TINY_PROFILE)
    return str(path)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: those of models as small as ours wait for each other longer than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_frame(tmp_path: Path) -> Callable[..., Path]:
    """Write a ZTF-like frame: ``write_frame(name, data=[4 raw], overscan=[4], primary={}, amplifiers=[{}] * 4)``.

    ``None`` as a header value leaves the keyword out. Without data: noise of 20 rows, seed 1.
    """

    def write(
        name: str = "fake.fits",
        data: list[np.ndarray] | None = None,
        overscan: list[np.ndarray] | None = None,
        primary: dict[str, Any] | None = None,
        amplifiers: list[dict[str, Any]] | None = None,
    ) -> Path:
        rng = np.random.default_rng(1)
        if data is None:
            data = [rng.integers(100, 200, (20, 3072)).astype(np.uint16) for _ in range(4)]
        if overscan is None:
            overscan = [rng.integers(90, 110, (len(image), 30)).astype(np.uint16) for image in data]
        amplifiers = amplifiers or [{"AMP_ID": number} for number in (1, 2, 3, 4)]
        path = tmp_path / name
        kind = fits.CompImageHDU if name.endswith(".fz") else fits.ImageHDU
        hdus: list[Any] = [fits.PrimaryHDU(header=_header({**ZTF_PRIMARY, **(primary or {})}))]
        for images in (data, overscan):
            for image, cards in zip(images, amplifiers, strict=False):
                hdus.append(kind(image, header=_header({**ZTF_AMPLIFIER, **cards})))
        plain = path.with_suffix("") if name.endswith(".gz") else path
        fits.HDUList(hdus).writeto(plain, overwrite=True)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(plain.read_bytes()))
            plain.unlink()
        return path

    return write


def _header(cards: dict[str, Any]) -> fits.Header:
    return fits.Header([(key, value) for key, value in cards.items() if value is not None])

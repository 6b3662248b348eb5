"""Files that were damaged at random end in one line or are read: no other exception, no hang, nothing enormous.

The seeds are fixed. `SHUTTERLESS_MUTATIONS=100000` runs as many of each kind.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress

import numpy as np
import pytest
from astropy.io import fits
from fake_cubes import write_kepler, write_plain

from shutterless.pipeline.reading.exposures import read_exposure, read_info
from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.reading.instruments import ProfileError

N_MUTATIONS = int(os.environ.get("SHUTTERLESS_MUTATIONS", "60"))
IMAGES = np.random.default_rng(9).poisson(100, (12, 6, 7)).astype(np.int16)
VALUES = ["NaN", "T", "'", "-1", "0", "1e30", "99999999999", "'text'", "", "2.5", "()", "12:30:00", "µ°", "/", "= ="]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Bytes of a compressed cube, a plain one with times, a target pixel file and a compressed frame."""
    folder = tmp_path_factory.mktemp("bases")
    tiled = folder / "tiled.fits.fz"
    cards = fits.Header([("CADENCE", 2.0), ("BUNIT", "electron"), ("DATE-OBS", "2026-03-04T05:06:07")])
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(IMAGES, header=cards)]).writeto(tiled)
    plain = write_plain(folder / "plain.fits", IMAGES.astype(np.float32), times=np.arange(12) * 2.0)
    kepler = write_kepler(folder / "kepler.fits", IMAGES.astype(np.float32))
    return {path.name: path.read_bytes() for path in (tiled, plain, kepler)}


def change_card(content: bytearray, rng: np.random.Generator) -> None:
    """Another value in a card of any header."""
    starts = [at for at in range(0, len(content), 80) if content[at + 8 : at + 9] == b"="]
    at = int(rng.choice(starts)) + 10
    text = str(rng.choice(VALUES)).encode()
    content[at : at + 70] = text.ljust(70)[:70]


def rename_card(content: bytearray, rng: np.random.Generator) -> None:
    """Another keyword, so that one is missing and one is there twice or unknown."""
    starts = [at for at in range(0, len(content), 80) if content[at + 8 : at + 9] == b"="]
    one, other = (int(start) for start in rng.choice(starts, 2))
    content[one : one + 8] = content[other : other + 8]


def flip_bytes(content: bytearray, rng: np.random.Generator) -> None:
    for at in rng.integers(0, len(content), 20):
        content[int(at)] = int(rng.integers(256))


def cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(1, len(content))) :]


def move_block(content: bytearray, rng: np.random.Generator) -> None:
    one, other = (2880 * int(k) for k in rng.integers(0, len(content) // 2880, 2))
    content[one : one + 2880], content[other : other + 2880] = content[other : other + 2880], content[one : one + 2880]


@pytest.mark.parametrize("change", [change_card, rename_card, flip_bytes, cut, move_block])
@pytest.mark.parametrize("base", ["tiled.fits.fz", "plain.fits", "kepler.fits"])
def test_damage_ends_in_one_line_or_is_read(bases, tmp_path, base, change):
    path = tmp_path / base
    for seed in range(N_MUTATIONS):
        content = bytearray(bases[base])
        change(content, np.random.default_rng(seed))
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with suppress(FrameError, ProfileError):
                    if None in read_info(path).readouts:
                        read_exposure(path, None)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error

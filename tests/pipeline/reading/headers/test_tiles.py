"""Tiles of a compressed image that unpack to more than its header says."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from shutterless.pipeline.reading.cubes import read_cube
from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.reading.headers import tiles

IMAGES = np.random.default_rng(9).poisson(100, (24, 6, 7)).astype(np.int16)


def write_cube(path: Path, n_bytes: int, kind: str = "GZIP_1") -> Path:
    """A compressed cube whose first tile is a gzip stream of so many zeros."""
    cards = fits.Header([("CADENCE", 2.0), ("BUNIT", "electron")])
    hdu = fits.CompImageHDU(IMAGES, cards, compression_type=kind, tile_shape=(1, 6, 7))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    with fits.open(path, disable_image_compression=True) as hdus:
        info, header = hdus[1].fileinfo(), hdus[1].header
        heap = header["NAXIS1"] * header["NAXIS2"]
        size, old = heap + header["PCOUNT"], header["PCOUNT"]
    bomb = gzip.compress(bytes(n_bytes))
    content = bytearray(path.read_bytes())
    content[info["datLoc"] : info["datLoc"] + 8] = struct.pack(">2i", len(bomb), old)
    content[info["datLoc"] + size :] = bomb
    whole = bytes(content).replace(
        b"PCOUNT  = " + f"{old:>20}".encode(), b"PCOUNT  = " + f"{old + len(bomb):>20}".encode()
    )
    path.write_bytes(whole + bytes(-len(whole) % 2880))
    return path


def test_tile_that_fills_the_memory_is_refused_before_it_does(tmp_path, monkeypatch):
    """10 MB of zeros stand for 10 GB."""
    path = write_cube(tmp_path / "bomb.fits", 10_000_000)
    monkeypatch.setattr(tiles, "MOST_TILE_BYTES", 1_500_000)
    tracemalloc.start()
    with pytest.raises(
        FrameError, match=r"HDU 1: a tile of 9,\d\d\d bytes unpacks to more than 1,500,000 bytes, the header says 84"
    ):
        read_cube(path, "cube")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_tiles_that_are_short_or_no_gzip_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "_unpacks_beyond", lambda *_: pytest.fail("touched"))
    path = write_cube(tmp_path / "short.fits", 1000)
    with pytest.raises(FrameError, match=r"short\.fits"):  # the tile has too many bytes for its pixels
        read_cube(path, "cube")


@pytest.mark.parametrize(("n_members", "expected"), [(1, False), (3, True)])
def test_members_of_a_stream_add_up(n_members, expected):
    assert tiles._unpacks_beyond(gzip.compress(bytes(1000)) * n_members, 2500) == expected
    assert not tiles._unpacks_beyond(b"no gzip at all", 10)


@pytest.mark.parametrize(("at", "byte", "said"), [(0, 0, "0"), (2, 1, "117,440,554|100,663,338"), (5, 9, "63|54")])
def test_hcompress_tile_that_states_another_size_never_reaches_the_decoder(tmp_path, at, byte, said):
    """Its decoder would write as many pixels as the tile says."""
    path = tmp_path / "tile.fits"
    cards = fits.Header([("CADENCE", 2.0), ("BUNIT", "electron")])
    hdu = fits.CompImageHDU(IMAGES, cards, compression_type="HCOMPRESS_1", tile_shape=(1, 6, 7), hcomp_scale=0)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    read_cube(path, "cube")
    with fits.open(path, disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"] + hdus[1].header["NAXIS1"] * hdus[1].header["NAXIS2"]
    content = bytearray(path.read_bytes())
    content[start + at] = byte
    path.write_bytes(content)
    with pytest.raises(
        FrameError, match=rf"HDU 1: HCOMPRESS tile 1 is damaged: it holds ({said}) pixels by its own size, 42"
    ):
        read_cube(path, "cube")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({2: 9999}, "from 3 to 9,999 of"),
        ({1: 7, 2: -100, 3: 1, 4: 2}, "from 7 to 65,537 of"),
        ({1: -5, 2: -100}, "from -5 to"),
        ({-1: 0x1000}, r"from 7 to \d+ of"),  # its last word wants another one
    ],
)
def test_plio_tile_that_is_longer_than_its_bytes_never_reaches_the_decoder(tmp_path, words, said):
    """Its decoder would read behind them, which has ended a process."""
    path = tmp_path / "tile.fits"
    cards = fits.Header([("CADENCE", 2.0), ("BUNIT", "electron")])
    hdu = fits.CompImageHDU(IMAGES, cards, compression_type="PLIO_1", tile_shape=(1, 6, 7))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    read_cube(path, "cube")
    with fits.open(path, disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"] + hdus[1].header["NAXIS1"] * hdus[1].header["NAXIS2"]
        n_words = len(hdus[1].data["COMPRESSED_DATA"][0])
    content = bytearray(path.read_bytes())
    for at, word in words.items():
        struct.pack_into(">h", content, start + 2 * (at % n_words), word)
    path.write_bytes(content)
    with pytest.raises(FrameError, match=rf"HDU 1: PLIO tile 1 is damaged: by its own words it goes {said}"):
        read_cube(path, "cube")

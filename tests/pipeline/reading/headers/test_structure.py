"""Where the HDUs of a file are, and what is really short."""

from __future__ import annotations

import gzip
import io
import warnings

import numpy as np
import pytest
from astropy.io import fits
from fake_cubes import write_plain

from shutterless.pipeline.reading import fits_files
from shutterless.pipeline.reading.cubes import read_cube
from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.fits_files import FrameError, frame_stem, has_fits_name
from shutterless.pipeline.reading.headers.cards import HeaderError
from shutterless.pipeline.reading.headers.structure import read_first_header, read_structure, show_mended

IMAGES = np.random.default_rng(1).poisson(100, (30, 6, 7)).astype(np.float32)


@pytest.fixture
def plain(tmp_path):
    return write_plain(tmp_path / "c.fits", IMAGES)


def with_card(content: bytes, card: bytes) -> bytes:
    end = content.index(b"END" + b" " * 77)
    return content[:end] + card.ljust(80) + b"END".ljust(80) + content[end + 160 :]


HABITS = {
    "zeros behind": lambda raw: raw + bytes(2880),
    "some zeros behind": lambda raw: raw + bytes(1234),
    "text behind": lambda raw: raw + b"written by hand",
    "no padding": lambda raw: raw[: len(raw) - (-IMAGES.nbytes) % 2880],
    "blank on floats": lambda raw: with_card(raw, b"BLANK   =               -32768"),
    "no number": lambda raw: with_card(raw, b"CCDTEMP =                  NaN"),
    "a degree": lambda raw: with_card(raw, "COMMENT 20 °C".encode("latin-1")),
    "a quote": lambda raw: with_card(raw, b"OBSERVER= 'M. Wolf"),
    "packed": gzip.compress,
}


@pytest.mark.parametrize("habit", HABITS)
def test_harmless_habits_change_no_pixel(plain, habit):
    plain.write_bytes(HABITS[habit](plain.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_cube(plain).flux_e, np.moveaxis(IMAGES, 0, -1))


@pytest.mark.parametrize("name", ["C.FITS", "c.fit", "c.fts", "c.FITS.GZ", "c.fz", "c.fits.fz.gz", "c.gz"])
def test_first_bytes_decide_what_a_file_is(plain, name):
    for content in (plain.read_bytes(), gzip.compress(plain.read_bytes())):
        path = plain.with_name(name)
        path.write_bytes(content)
        assert read_info(path).n_rows == 30
    assert has_fits_name(name)
    assert frame_stem(name) == (
        "C" if name == "C.FITS" else "c" if ".f" in name.lower()[:3] and name != "c.fz" else name
    )


@pytest.mark.parametrize(("magic", "packer"), [(b"BZh9", "bzip2"), (b"PK\x03\x04", "zip"), (b"\xfd7zXZ\0", "xz")])
def test_other_packers_are_named(plain, magic, packer):
    plain.write_bytes(magic + bytes(5000))
    with pytest.raises(FrameError, match=rf"c\.fits is packed by {packer}; unpack it first"):
        read_info(plain)


def test_gzip_bomb_is_refused(plain, monkeypatch):
    monkeypatch.setattr(fits_files, "ALWAYS_UNPACKED", 1 << 20)
    plain.write_bytes(gzip.compress(plain.read_bytes() + bytes(8 << 20)))
    with pytest.raises(FrameError, match=r"c\.fits unpacks to more than .* bytes, 200 times its size"):
        read_info(plain)


def test_notes_say_what_stands_behind(plain):
    plain.write_bytes(plain.read_bytes() + bytes(1234))
    with plain.open("rb") as stream:
        structure = read_structure(stream)
        assert structure.notes == ("1,234 bytes behind the last HDU are not read",)
        shown = show_mended(stream, structure)
        assert len(shown.read()) == structure.whole == structure.size - 1234


def test_compressed_images_have_the_shape_of_the_image(tmp_path):
    hdus = [fits.PrimaryHDU(), fits.CompImageHDU(IMAGES.astype(np.int16)), fits.ImageHDU(IMAGES[0])]
    fits.HDUList([*hdus, fits.BinTableHDU.from_columns([fits.Column("A", "E", array=[1.0])])]).writeto(
        tmp_path / "a.fz"
    )
    with (tmp_path / "a.fz").open("rb") as stream:
        shapes = [hdu.image_shape for hdu in read_structure(stream).hdus]
    assert shapes == [(), (30, 6, 7), (6, 7), ()]


def test_data_changed_after_they_were_summed_are_noted(tmp_path):
    path = tmp_path / "sum.fits"
    header = fits.Header([("CADENCE", 0.1), ("BUNIT", "electron")])
    fits.PrimaryHDU(IMAGES, header).writeto(path, checksum=True)
    assert not any("DATASUM" in note for note in read_cube(path).notes)
    content = bytearray(path.read_bytes())
    content[4000] ^= 2
    path.write_bytes(content)
    (note,) = [note for note in read_cube(path).notes if "DATASUM" in note]
    assert note.startswith("HDU 0: DATASUM = ")
    assert note.endswith("damaged, or changed since")


def cards(*lines: str) -> bytes:
    return b"".join(line.encode().ljust(80) for line in (*lines, "END")).ljust(2880)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello".ljust(2880), r"it begins with b'hello   ' instead of SIMPLE"),
        (cards("SIMPLE  = T")[:160].replace(b"END", b"AND").ljust(2880), r"no END card within 2,880 bytes of a header"),
        (cards("SIMPLE  = T", "BITPIX  = 12", "NAXIS   = 0"), r"HDU 0: BITPIX = 12 is none of 8, 16"),
        (cards("SIMPLE  = T", "BITPIX  = 16"), r"HDU 0: NAXIS is missing"),
        (cards("SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 1"), r"HDU 0: NAXIS1 is missing"),
        (
            cards("SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 1000000", "NAXIS2  = 1000000"),
            r"truncated: HDU 0 needs 2,000,000,000,000 bytes of data, the file ends 2,000,000,000,000 bytes too early",
        ),
    ],
)
def test_what_is_no_file_is_named_before_memory_is_taken(content, message):
    with pytest.raises(HeaderError, match=message):
        read_structure(io.BytesIO(content))


def test_first_header_alone_is_mended():
    assert b"'NaN     '" in read_first_header(io.BytesIO(cards("SIMPLE  = T", "TEMP    = NaN")))
    with pytest.raises(HeaderError, match=r"instead of SIMPLE"):
        read_first_header(io.BytesIO(b"nothing"))


def test_compressed_image_that_cannot_be_so_large_is_refused():
    table = ["XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 8", "NAXIS2  = 2", "PCOUNT  = 0"]
    tiles = cards(
        *table, "GCOUNT  = 1", "TFIELDS = 1", "ZIMAGE  = T", "ZNAXIS  = 2", "ZNAXIS1 = 9999999", "ZNAXIS2 = 9"
    )
    content = cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0") + tiles + bytes(2880)
    with pytest.raises(HeaderError, match=r"HDU 1 asks for 89,999,991 pixels, more than its 16 bytes can hold"):
        read_structure(io.BytesIO(content))

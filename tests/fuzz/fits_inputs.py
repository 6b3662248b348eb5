"""FITS files by their structure: HDUs of cards and data, changed as writers and disks change them."""

from __future__ import annotations

import bz2
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from fake_cubes import star_images, write_kepler, write_plain, write_tess
from fuzz.surface import empty_folder
from fuzz.values import PLACES
from hypothesis import strategies as st
from tiny_frames import SKY_E, expose, write_tiny

CARD, BLOCK = 80, 2880
TILINGS = ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1")
FRAMES = ("frame", "frame float", "frame rice", "frame gzip")
CUBES = ("cube int16", "cube float32", "cube scaled", "cube flags", "kepler", "tess", *TILINGS)
VALUES = [
    *("NaN", "T", "F", "'", "''", "-1", "0", "1", "2", "3", "8", "-32", "64", "1e30", "-1e30", "1e400", "2.5", "1D3"),
    *("99999999999", "1000000000000", "1000000000", "9223372036854775808", "'text'", "'RICE_1  '", "'GZIP_2  '"),
    *("()", "(1, 2)", "12:30:00", "µ°", "/", "= =", "inf", "'1PB(0)  '", "'999999999E'", "'(7,6)   '", "'TDB     '"),
    *("'2026-03-04'", "'2026-03-04T05:06:07-0700'", "'26/07/98'", "'0001-01-01T00:00:00'", "58000.5", "'d       '"),
    *("'e-/s    '", "'MJy/sr  '", "'SOLARSYSTEM'", "'BINTABLE'", "'IMAGE   '", "'<script>alert(1)</script>'"),
]
KEYWORDS = [
    *("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "NAXIS4", "PCOUNT", "GCOUNT", "TFIELDS"),
    *("BZERO", "BSCALE", "BLANK", "EXTEND", "EXTNAME", "EXTVER", "GROUPS", "THEAP", "CHECKSUM", "DATASUM", "INHERIT"),
    *("ZIMAGE", "ZCMPTYPE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZNAXIS3", "ZTILE1", "ZTILE2"),
    *("ZNAME1", "ZVAL1", "ZNAME2", "ZVAL2", "ZBLANK", "ZQUANTIZ", "ZDITHER0", "ZSIMPLE", "ZTENSION", "ZSCALE", "ZZERO"),
    *(f"{name}{k}" for name in ("TTYPE", "TFORM", "TUNIT", "TDIM", "TNULL", "TSCAL", "TZERO") for k in (1, 4)),
    *("CADENCE", "BUNIT", "DATE-OBS", "TIME-OBS", "MJD-OBS", "TIMESYS", "TIMEREF", "TIMEUNIT", "BJDREFI", "BJDREFF"),
    *("INT_TIME", "NUM_FRM", "TIMEDEL", "GAIN", "READNOIS", "NREADOUT", "EXPTIME", "SEEING", "PIXSCALE", "TELESCOP"),
    *("CLOCK", "ROW0", "TOPEN", "CHIP", "NROWS", "EGAIN", "RDN", "SATUR", "ZP", "BAND", "SEQ", "AMPNO", "TINYCAM"),
    *("CRMITEN", "CRBLKSZ", "TIMSLICE", "TASSIGN", "CTYPE1", "CTYPE2", "CTYPE3", "CDELT3", "CUNIT3", "INSTRUME"),
]  # fmt: skip


@dataclass
class Hdu:
    """Cards of 80 bytes without END, and data with their padding."""

    cards: list[bytes]
    data: bytes

    def render(self) -> bytes:
        header = b"".join(self.cards) + b"END".ljust(CARD)
        return header + b" " * (-len(header) % BLOCK) + self.data


@dataclass(frozen=True)
class SetCard:
    """A value for a keyword, whether the header has it or not."""

    hdu: int
    keyword: str
    value: str

    def apply(self, hdus: list[Hdu]) -> None:
        cards = hdus[self.hdu % len(hdus)].cards
        text = f"{self.keyword:<8}= {self.value:>20}"[:CARD].encode("utf-8", "replace")[:CARD].ljust(CARD)
        found = [k for k, card in enumerate(cards) if card.startswith(f"{self.keyword:<8}=".encode())]
        if found:
            cards[found[0]] = text
        else:
            cards.append(text)


@dataclass(frozen=True)
class ChangeCard:
    """A card of the header with another value, another keyword, twice, elsewhere or left out."""

    hdu: int
    card: int
    how: str
    text: str

    def apply(self, hdus: list[Hdu]) -> None:
        cards = hdus[self.hdu % len(hdus)].cards
        if not cards:
            return
        at = self.card % len(cards)
        text = self.text.encode("utf-8", "replace")
        if self.how == "value":
            cards[at] = (cards[at][:10] + text)[:CARD].ljust(CARD)
        elif self.how == "keyword":
            cards[at] = text[:8].ljust(8) + cards[at][8:]
        elif self.how == "whole":
            cards[at] = text[:CARD].ljust(CARD)
        elif self.how == "last":
            cards.append(cards.pop(at))
        elif self.how == "twice":
            cards.append(cards[at])
        else:
            del cards[at]


@dataclass(frozen=True)
class Fill:
    """Bytes written again and again over a part of the data."""

    hdu: int
    start: int
    content: bytes
    times: int

    def apply(self, hdus: list[Hdu]) -> None:
        hdu = hdus[self.hdu % len(hdus)]
        at = self.start % max(len(hdu.data), 1)
        content = (self.content * self.times)[: len(hdu.data) - at]
        hdu.data = hdu.data[:at] + content + hdu.data[at + len(content) :]


@dataclass(frozen=True)
class SetNumber:
    """A number among the data: a time, a flag, the length or place of a tile."""

    hdu: int
    place: int
    kind: str
    value: float

    def apply(self, hdus: list[Hdu]) -> None:
        with np.errstate(all="ignore"):
            content = np.array([self.value]).astype(self.kind).tobytes()
        hdu = hdus[self.hdu % len(hdus)]
        at = self.place * len(content) % max(len(hdu.data), 1)
        hdu.data = hdu.data[:at] + content[: len(hdu.data) - at] + hdu.data[at + len(content) :]


@dataclass(frozen=True)
class MoveHdu:
    """An HDU put in the place of another, repeated or left out."""

    hdu: int
    other: int
    how: str

    def apply(self, hdus: list[Hdu]) -> None:
        one, other = self.hdu % len(hdus), self.other % len(hdus)
        if self.how == "swap":
            hdus[one], hdus[other] = hdus[other], hdus[one]
        elif self.how == "twice":
            hdus.insert(other, Hdu(list(hdus[one].cards), hdus[one].data))
        elif len(hdus) > 1:
            del hdus[one]


@dataclass(frozen=True)
class FitsInput:
    """A base, changes of its structure, what is cut from its end or put there, and how the file is packed."""

    base: str
    changes: tuple[Any, ...] = ()
    cut: int | None = None
    behind: bytes = b""
    packed: str = ""
    suffix: str = ".fits"

    def write(self, folder: Path, stem: str = "fuzzed") -> Path:
        hdus = [Hdu(list(hdu.cards), hdu.data) for hdu in _split(self.base)]
        for change in self.changes:
            change.apply(hdus)
        content = b"".join(hdu.render() for hdu in hdus)
        if self.cut is not None:
            content = content[: self.cut % len(content)]
        content = _pack(content + self.behind, self.packed)
        path = folder / f"{stem}{self.suffix}"
        path.write_bytes(content)
        return path


def _pack(content: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(content, 1)
    if how == "cut gzip":
        packed = gzip.compress(content, 1)
        return packed[: len(packed) * 2 // 3]
    if how == "bzip2":
        return bz2.compress(content, 1)
    return content


@cache
def _split(base: str) -> tuple[Hdu, ...]:
    with empty_folder() as folder:
        content = _write_base(base, folder).read_bytes()
    with fits.open(io.BytesIO(content), disable_image_compression=True) as hdus:
        places = [hdu.fileinfo() for hdu in hdus]
    parts = []
    for place in places:
        header = content[place["hdrLoc"] : place["datLoc"]]
        cards = [header[at : at + CARD] for at in range(0, len(header), CARD)]
        cards = cards[: cards.index(b"END".ljust(CARD))]
        parts.append(Hdu(cards, content[place["datLoc"] : place["datLoc"] + place["datSpan"]]))
    return tuple(parts)


def _write_base(base: str, folder: Path) -> Path:
    path = folder / "base.fits"
    if base in FRAMES:
        return _write_frame(base, path)
    if base in ("kepler", "tess"):
        write = write_kepler if base == "kepler" else write_tess
        return write(path, star_images(24, 5, 6))
    images = np.random.default_rng(3).poisson(100, (24, 6, 7))
    cards = fits.Header([("CADENCE", 2.0), ("BUNIT", "electron"), ("DATE-OBS", "2026-03-04T05:06:07")])
    if base in TILINGS:
        tiled = fits.CompImageHDU(images.astype(np.int16), cards, compression_type=base, tile_shape=(1, 6, 7))
        fits.HDUList([fits.PrimaryHDU(), tiled]).writeto(path)
        return path
    if base == "cube float32":
        return write_plain(
            path, images.astype(np.float32), times=np.arange(24) * 2.0, header={"DATE-OBS": "2026-03-04"}
        )
    image = fits.PrimaryHDU(images.astype(np.int16), cards)
    if base == "cube scaled":
        image.header.update(BSCALE=0.5, BZERO=10.0, BLANK=-32768)
    hdus = [image, fits.ImageHDU((images > 140).astype(np.int16), name="DQ")] if base == "cube flags" else [image]
    fits.HDUList(hdus).writeto(path)
    return path


def _write_frame(base: str, path: Path) -> Path:
    write_tiny(path, expose(np.full((96, 128), SKY_E), seed=5), 400)
    if base == "frame":
        return path
    with fits.open(path) as hdus:
        primary, images = hdus[0].copy(), [hdu.data.copy() for hdu in hdus[1:]]
    if base == "frame float":
        others = [fits.ImageHDU(image.astype(np.float32)) for image in images]
    else:
        kind = "RICE_1" if base == "frame rice" else "GZIP_1"
        others = [fits.CompImageHDU(image, compression_type=kind) for image in images]
    fits.HDUList([primary, *others]).writeto(path, overwrite=True)
    return path


_HDUS = st.integers(0, 4)
_CARD_TEXTS = st.sampled_from(VALUES) | st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)
CHANGES = st.one_of(
    st.builds(SetCard, _HDUS, st.sampled_from(KEYWORDS), _CARD_TEXTS),
    st.builds(
        ChangeCard, _HDUS, PLACES, st.sampled_from(["value", "keyword", "whole", "last", "twice", "gone"]), _CARD_TEXTS
    ),
    st.builds(Fill, _HDUS, PLACES, st.binary(min_size=1, max_size=8), st.sampled_from([1, 1, 30, 10**4])),
    st.builds(
        SetNumber, _HDUS, st.integers(0, 400) | PLACES, st.sampled_from([">i4", ">i8", ">f4", ">f8", ">i2", "u1"]),
        st.sampled_from([0.0, -1.0, 1.0, 7.0, 255.0, 1e9, -1e9, 2.0**31, 1e18, 1e38, float("nan"), float("inf")]),
    ),
    st.builds(MoveHdu, _HDUS, _HDUS, st.sampled_from(["swap", "twice", "gone"])),
)  # fmt: skip


def fits_inputs(bases: Sequence[str]) -> st.SearchStrategy[FitsInput]:
    """Files that begin as one of some bases."""
    rarely = st.sampled_from([False, False, False, True])
    return st.builds(
        FitsInput,
        st.sampled_from(list(bases)),
        st.lists(CHANGES, max_size=4).map(tuple),
        rarely.flatmap(lambda cut: PLACES if cut else st.none()),
        rarely.flatmap(lambda more: st.binary(max_size=40) if more else st.just(b"")),
        st.sampled_from(["", "", "", "", "", "gzip", "cut gzip", "bzip2"]),
        st.sampled_from([".fits", ".fits", ".fits.fz", ".fits.gz", ".FIT"]),
    )

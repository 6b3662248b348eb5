"""Frames of another program give the same candidates however their writer spells them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from another_program import GAIN, Pulse, write_frame
from astropy.io import fits

from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import SearchSettings

N_ROWS = 256
PULSES = [Pulse(1, 700.2, 120, 4.0, 900.0), Pulse(2, 2100.0, 60, 9.0, -260.0), Pulse(4, 1500.5, 190, 3.0, 1500.0)]
SAME = ["quadrant", "x", "row_start", "row_stop", "row_peak", "snr", "amplitude_e", "time_read_utc", "veto"]


def card(text: str) -> bytes:
    return text.encode("latin-1").ljust(80)


def with_cards(*cards: bytes):
    """Put cards before the END of the first header, in place of the blanks behind it."""

    def change(path: Path) -> Path:
        data = path.read_bytes()
        end = data.index(card("END"))
        block = b"".join([*cards, card("END")])
        assert data[end + 80 : end + len(block)].strip() == b""
        path.write_bytes(data[:end] + block + data[end + len(block) :])
        return path

    return change


def with_values(hdu_keys: dict[str, object], numbers=(0,)):
    def change(path: Path) -> Path:
        with fits.open(path, mode="update") as hdus:
            for number in numbers:
                hdus[number].header.update(hdu_keys)
        return path

    return change


def with_images(convert):
    """Write every image anew."""

    def change(path: Path) -> Path:
        with fits.open(path, memmap=False) as hdus:
            kept = [fits.PrimaryHDU(header=hdus[0].header), *(convert(hdu) for hdu in hdus[1:])]
            fits.HDUList(kept).writeto(path, overwrite=True)
        return path

    return change


def packed(kind: str, rows: int = 1):
    def convert(hdu: fits.ImageHDU) -> fits.CompImageHDU:
        tile = (rows, hdu.data.shape[1])
        return fits.CompImageHDU(hdu.data, header=hdu.header, compression_type=kind, tile_shape=tile)

    return with_images(convert)


def as_floats_with_blank(path: Path) -> Path:
    def convert(hdu: fits.ImageHDU) -> fits.ImageHDU:
        made = fits.ImageHDU(hdu.data.astype(np.float32))
        made.header.update({"GAIN": GAIN, "READNOI": 10.0, "SATURATE": 58000.0, "BLANX": -1})
        return made

    with_images(convert)(path)
    path.write_bytes(path.read_bytes().replace(b"BLANX   =", b"BLANK   ="))  # astropy would warn
    return path


def named_and_turned(path: Path) -> Path:
    """HDUs in another order, with a table between them and names that say which is which."""
    with fits.open(path, memmap=False) as hdus:
        for k, hdu in enumerate(hdus[1:]):
            hdu.name = f"{'DATA' if k < 4 else 'BIAS'}{k % 4 + 1}"
        table = fits.BinTableHDU.from_columns([fits.Column("TEMP", "E", array=np.zeros(3))])
        order = [hdus[0], table, *(hdus[k] for k in (8, 7, 6, 5, 3, 4, 1, 2))]
        fits.HDUList(order).writeto(path, overwrite=True)
    return path


def renamed(ending: str, pack=bytes):
    def change(path: Path) -> Path:
        data = pack(path.read_bytes())
        path.unlink()
        other = path.with_name(f"frame{ending}")
        other.write_bytes(data)
        return other

    return change


HABITS = {
    "none": lambda path: path,
    "NaN without quotes": with_cards(card("CCDTEMP = NaN"), card("AIRMASS = inf / no sky")),
    "unit behind the number": with_cards(card("EXPTIME =                 30.0 s"), card("RA      = 05:06:07.8")),
    "open quote": with_cards(card("OBSERVER= 'O'Brien"), card("NOTE    = 'never closed")),
    "bytes that are no ASCII": with_cards(card("COMMENT 25 °C, 3 µm"), card("PLACE   = 'São Pedro'")),
    "long cards": with_cards(card("HIERARCH ESO DET CHIP NAME = 3"), card("LONGSTR = 'a&'"), card("CONTINUE  'b'")),
    "date that was never set": with_cards(card("DATE    = '0001-01-01T00:00:00'"), card("DATE-OBS= 2026-03-04")),
    "bytes behind the end": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 999) and path,
    "no padding": lambda path: path.write_bytes(path.read_bytes().rstrip(b"\0")) and path,
    "upper case": renamed(".FIT"),
    "packed without saying so": renamed(".fits", gzip.compress),
    "called packed": renamed(".fits.gz"),
    "blank for the T": with_values({"SHUTOPEN": "2026-03-04 05:06:07.000Z"}),
    "TAI": with_values({"SHUTOPEN": "2026-03-04T05:06:44.000", "TIMESYS": "TAI"}),
    "GPS": with_values({"SHUTOPEN": "2026-03-04T05:06:25.000", "TIMESYS": "GPS"}),
    "offset from UTC": with_values({"SHUTOPEN": "2026-03-03T22:06:07.000-0700"}),
    "saturation below the sky": with_values({"SATURATE": 50.0}, range(1, 5)),
    "checksum of another file": with_values({"DATASUM": "12345"}, range(1, 9)),
    "HDUs in another order": named_and_turned,
    "floats with BLANK": as_floats_with_blank,
    "Rice": packed("RICE_1"),
    "GZIP": packed("GZIP_2", 16),
    "HCOMPRESS": packed("HCOMPRESS_1", 16),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Candidates of one frame written with every habit, by habit; all in one search."""
    folder = tmp_path_factory.mktemp("habits")
    base = write_frame(folder / "base.fits", first_row=20_000, n_rows=N_ROWS, stars=[], pulses=PULSES)
    paths = {}
    for number, (habit, change) in enumerate(HABITS.items()):
        own = folder / f"{number:02d}"
        own.mkdir()
        with fits.open(base) as hdus:
            hdus[0].header["SEQID"] = f"S{number:02d}"
            hdus.writeto(own / "frame.fits")
        paths[habit] = change(own / "frame.fits")
    result = search_files(
        list(paths.values()), reference="template-bank", out=folder / "out",
        settings=SearchSettings(own_rates=False), executor=SerialExecutor(),
    )  # fmt: skip
    assert list(result.failures["reason"]) == []
    tables = result.candidates.sort_values(["quadrant", "x", "row_peak"], kind="stable")
    return {habit: tables[tables["path"] == str(path)][SAME].reset_index(drop=True) for habit, path in paths.items()}


def test_pulses_are_found(found):
    expected = [(pulse.quadrant, round(pulse.x), pulse.row) for pulse in PULSES]
    places = [(row.quadrant, round(row.x), row.row_peak) for row in found["none"].itertuples()]
    for quadrant, x, row in expected:
        assert any(q == quadrant and abs(a - x) <= 1 and abs(b - row) <= 4 for q, a, b in places), (quadrant, x, row)


@pytest.mark.parametrize("habit", list(HABITS)[1:])
def test_candidates_are_the_same(found, habit):
    same, expected = found[habit], found["none"]
    assert len(same) == len(expected) >= len(PULSES)
    np.testing.assert_array_equal(same.drop(columns="time_read_utc"), expected.drop(columns="time_read_utc"))
    assert list(same["time_read_utc"].str[:23]) == list(expected["time_read_utc"].str[:23])

"""Cards that no parser reads cost nothing but themselves."""

from __future__ import annotations

import pytest
from astropy.io import fits

from shutterless.pipeline.reading.headers.cards import HeaderError, is_end, mend_header, text_value, whole_number


def header(*cards: bytes) -> bytes:
    return b"".join(card.ljust(80) for card in (b"SIMPLE  =                    T", b"BITPIX  =  16", *cards, b"END"))


def parse(*cards: bytes) -> fits.Header:
    return fits.Header.fromstring(mend_header(header(*cards)).decode("ascii"))


@pytest.mark.parametrize(
    ("card", "keyword", "value"),
    [
        (b"CCDTEMP =                  NaN", "CCDTEMP", "NaN"),
        (b"FOCUS   = 12.5 mm", "FOCUS", "12.5 mm"),
        (b"FILTNAM = None", "FILTNAM", "None"),
        (b"DATE-OBS= 2026-03-04T05:06:07 / start", "DATE-OBS", "2026-03-04T05:06:07"),
        (b"RA      = 12:34:56.7", "RA", "12:34:56.7"),
        (b"OBJECT  = 'Barnard", "OBJECT", "Barnard"),
        (b"AIRMASS = inf", "AIRMASS", "inf"),
        (b"NOTE    = O'Neill's", "NOTE", "O'Neill's"),
        (b"CADENCE =0.1", "CADENCE", 0.1),
        (b"TTYPE1  =                    T", "TTYPE1", "T"),
        (b"NAXIS1  = '3072    '", "NAXIS1", 3072),
        (b"NAXIS2  =                 20.0", "NAXIS2", 20),
        (b"BZERO   = '32768'", "BZERO", 32768),
        (b"GAIN    =                  6.2 / e-/ADU", "GAIN", 6.2),
        (b"EXPTIME =                1.5D2", "EXPTIME", 150.0),
        (b"HIERARCH ESO DET DIT = 0.1 s", "ESO DET DIT", "0.1 s"),
    ],
)
def test_value_is_kept_or_becomes_text(card, keyword, value):
    assert parse(card)[keyword] == value


def test_good_cards_stay_as_they_are():
    good = header(
        b"NAXIS   =                    2 / number of axes", b"OBJECT  = 'O''Neill' / name", b"COMMENT any = thing"
    )
    assert mend_header(good) == good


def test_other_characters_become_question_marks():
    assert parse("COMMENT 5 µm at 20°".encode("latin-1"))["COMMENT"][0] == "5 ?m at 20?"


@pytest.mark.parametrize("card", [b"********= 1", b"A*      = 1", b"WHAT?   = 1", b"HIERARCH A... = 1"])
def test_keyword_that_reads_like_a_pattern_is_plain(card):
    found = parse(card)
    assert not any(set("*?") & set(key) or "..." in key for key in found)
    assert len(dict(found)) == len(found)


def test_blank_of_floats_is_taken_out_and_that_of_integers_stays():
    assert parse(b"BLANK   =  -32768")["BLANK"] == -32768
    floats = header(b"BLANK   =  -32768").replace(b"BITPIX  =  16", b"BITPIX  = -32")
    assert "BLANK" not in fits.Header.fromstring(mend_header(floats).decode("ascii"))


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (b"NAXIS1  = many", r"NAXIS1 = 'many' is not a whole number"),
        (b"NAXIS1  = 1.5", r"NAXIS1 = '1\.5' is not a whole number"),
        (b"NAXIS1  = -4", r"NAXIS1 = '-4' is negative"),
        (b"NAXIS2  = 1e300", r"NAXIS2 = '1e300' is not a whole number"),
        (b"TFIELDS = 1000000000", r"TFIELDS = '1000000000' is more than 999"),
        (b"NAXIS   = 1000", r"NAXIS = '1000' is more than 99"),
        (b"BZERO   = zero", r"BZERO = 'zero' is not a number"),
    ],
)
def test_what_the_data_cannot_be_found_without_is_named(card, message):
    with pytest.raises(HeaderError, match=message):
        mend_header(header(card))


def test_values_are_read_from_bytes():
    cards = mend_header(header(b"NAXIS2  = 20", b"DATASUM = '123     '"))
    assert (whole_number(cards, "NAXIS2"), whole_number(cards, "NAXIS3")) == (20, None)
    assert (text_value(cards, "DATASUM"), text_value(cards, "CHECKSUM")) == ("123", "")
    assert is_end(b"END".ljust(80))
    assert is_end(b"END\0".ljust(80, b"\0"))
    assert not is_end(b"ENDTIME = 1".ljust(80))

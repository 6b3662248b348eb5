"""Mend the cards of a FITS header that no parser reads, so that one odd card costs nothing but itself."""

from __future__ import annotations

import re

CARD_BYTES = 80  # bytes
# columns of a table (FITS standard 4.0, section 7.3.1), and axes, over which readers loop
_LIMITS = {b"TFIELDS": 999, b"NAXIS": 99, b"ZNAXIS": 99}
_NUMBER = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[EDed][+-]?\d+)?"
_WHOLE = re.compile(rb" *[+-]?\d+ *(?:/.*)?")
_NUMERIC = re.compile(rb" *(" + _NUMBER + rb") *(?:/.*)?")
_TEXT = re.compile(rb" *('(?:[^']|'')*') *(?:/.*)?")
_VALUE = re.compile(
    rb" *(?:'(?:[^']|'')*'|[TF]|" + _NUMBER + rb"|\( *" + _NUMBER + rb" *, *" + _NUMBER + rb" *\))? *(?:/.*)?"
)
_PRINTABLE = bytes(byte if 32 <= byte < 127 else (32 if byte in (0, 9, 10, 13) else 63) for byte in range(256))
# what readers take for text, for a whole number or for a number without asking
_TEXT_KEYS = re.compile(rb"(?:TTYPE|TFORM|TUNIT|TDIM|ZNAME|CTYPE|CUNIT)\d+|XTENSION|EXTNAME|ZCMPTYPE|ZQUANTIZ")
_WHOLE_KEYS = re.compile(rb"Z?NAXIS\d*|Z?BITPIX|Z?PCOUNT|Z?GCOUNT|TFIELDS|ZTILE\d+|THEAP|BLANK")
_NUMBER_KEYS = re.compile(rb"BZERO|BSCALE|TZERO\d+|TSCAL\d+")


class HeaderError(ValueError):
    """A header that no image or table can be read by."""


def mend_header(header: bytes) -> bytes:
    """Header that every parser reads, of the same length.

    Parameters
    ----------
    header : bytes
        Whole cards, from the first one to END or beyond.

    Returns
    -------
    bytes
        A value that is none (``NaN``, a date without quotes, ``12.5 mm``) is put between quotes, so that whoever needs
        it can name it. Bytes that are no printable ASCII become question marks. ``BLANK`` of floats is taken out.

    Raises
    ------
    HeaderError
        If a value without which the data cannot be found is not a number.
    """
    cards = [header[at : at + CARD_BYTES] for at in range(0, len(header), CARD_BYTES)]
    mended = []
    for position, card in enumerate(cards):
        if is_end(card):
            mended.append(b"END".ljust(len(header) - position * CARD_BYTES))
            break
        mended.append(_mend_card(card))
    if any(card.startswith(b"BLANK   =") for card in mended):
        mended = _without_idle_blank(mended)
    return b"".join(mended)


def is_end(card: bytes) -> bool:
    """Whether a card ends its header."""
    return card[:8].translate(_PRINTABLE).rstrip() == b"END" and card[8:9] != b"="


def whole_number(header: bytes, keyword: str) -> int | None:
    """Value of a keyword of a mended header that is a whole number; None if it is not there."""
    found = _NUMERIC.fullmatch(_field(header, keyword))
    return int(found[1]) if found else None


def text_value(header: bytes, keyword: str) -> str:
    """Value of a keyword of a mended header that is text; empty if it is not there."""
    found = _TEXT.fullmatch(_field(header, keyword))
    return found[1][1:-1].decode().strip() if found else ""


def _field(header: bytes, keyword: str) -> bytes:
    """Bytes behind the equals sign of the first card of a keyword."""
    wanted = keyword.encode().ljust(8) + b"="
    at = header.find(wanted)
    while at % CARD_BYTES and at >= 0:
        at = header.find(wanted, at + 1)
    return header[at + 9 : at + CARD_BYTES] if at >= 0 else b""


def _mend_card(card: bytes) -> bytes:
    card = card.translate(_PRINTABLE)
    if card.startswith(b"HIERARCH "):
        start = card.find(b"=") + 1
        card = _plain_keyword(card[:start]) + card[start:]
    else:
        card = _plain_keyword(card[:8]) + card[8:]
        if card[8:9] == b"=" and card[9:10] != b" ":  # KEYWORD =1 is meant as KEYWORD = 1
            card = card[:9] + b" " + card[9 : CARD_BYTES - 1]
        start = 9 if card[8:10] == b"= " else 0
    if not start:
        return card
    keyword, field = card[:8].rstrip(), card[start:]
    if _WHOLE_KEYS.fullmatch(keyword):
        mended = _whole_card(keyword, field)
        return card if _WHOLE.fullmatch(field) else mended
    if _NUMBER_KEYS.fullmatch(keyword):
        return card if _NUMERIC.fullmatch(field) else _number_card(keyword, field)
    must_be_text = _TEXT_KEYS.fullmatch(keyword) and not _TEXT.fullmatch(field)
    if must_be_text or not _VALUE.fullmatch(field):
        return card[:start] + _quoted(field, CARD_BYTES - start)
    return card


def _plain_keyword(keyword: bytes) -> bytes:
    """Keyword without the signs that astropy takes for a pattern, as in a line of asterisks."""
    return keyword.replace(b"*", b"_").replace(b"?", b"_").replace(b"...", b"___")


def _quoted(field: bytes, size: int) -> bytes:
    """Text of a value that is none, between quotes, in so many bytes."""
    text = _bare(field).replace(b"'", b"''")[: size - 3]
    if (len(text) - len(text.rstrip(b"'"))) % 2:  # the cut went through a doubled quote
        text = text[:-1]
    return (b" '" + text.ljust(8 if size > 11 else 0) + b"'").ljust(size)[:size]


def _bare(field: bytes) -> bytes:
    """Value without its comment, blanks and quotes."""
    text = field.strip()
    if text.startswith(b"'"):
        return text[1:].split(b"'")[0].rstrip()
    return text.split(b" /")[0].strip()


def _whole_card(keyword: bytes, field: bytes) -> bytes:
    text = _bare(field)
    if keyword == b"BLANK" and not text:
        return b"COMMENT BLANK".ljust(CARD_BYTES)
    try:
        number = float(text)
        if number != int(number) or abs(number) > 2**62:
            raise ValueError
        exact = int(text) if re.fullmatch(rb"[+-]?\d+", text) else int(number)
    except (ValueError, OverflowError):
        raise HeaderError(f"{_show(keyword, text)} is not a whole number") from None
    if exact < 0 and keyword not in (b"BITPIX", b"ZBITPIX", b"BLANK"):
        raise HeaderError(f"{_show(keyword, text)} is negative")
    if exact > _LIMITS.get(keyword, exact):
        raise HeaderError(f"{_show(keyword, text)} is more than {_LIMITS[keyword]}")
    return (keyword.ljust(8) + b"= " + str(exact).rjust(20).encode()).ljust(CARD_BYTES)


def _number_card(keyword: bytes, field: bytes) -> bytes:
    text = _bare(field)
    if not re.fullmatch(_NUMBER, text):
        raise HeaderError(f"{_show(keyword, text)} is not a number")
    return (keyword.ljust(8) + b"= " + text.rjust(20)).ljust(CARD_BYTES)


def _show(keyword: bytes, text: bytes) -> str:
    return f"{keyword.decode()} = {text.decode()!r}"


def _without_idle_blank(cards: list[bytes]) -> list[bytes]:
    """Cards without the BLANK of an image of floats, for which it means nothing."""
    bits = next((whole_number(card, "BITPIX") for card in cards if card.startswith(b"BITPIX  =")), None)
    if bits is None or bits > 0:
        return cards
    return [b"COMMENT BLANK".ljust(CARD_BYTES) if card.startswith(b"BLANK   =") else card for card in cards]

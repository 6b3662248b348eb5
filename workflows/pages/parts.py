"""Define the parts of a page as plain values. A macro of ``templates/parts.html``, named by the kind, lays each out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

_LONGEST_WORD = 26  # characters of a time stamp
_EXPONENT = re.compile(r"(?<=\d)e[−+-]?\d+")
_DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?")


class Part:
    """A part of a section; parts stand one below the other."""

    @property
    def kind(self) -> str:
        """Name of the part's macro."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Paragraph(Part):
    """Text; its style is a class of ``page.css``: ``note``, ``left-out`` or ``verdict``.

    Words between backticks are set as code, as in bullets and captions.
    """

    text: str
    style: str = ""


@dataclass(frozen=True)
class Heading(Part):
    """Heading within a section."""

    text: str


@dataclass(frozen=True)
class Preformatted(Part):
    """Preformatted text."""

    text: str


@dataclass(frozen=True)
class Bullets(Part):
    """List of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Definitions(Part):
    """List of names and values."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Picture(Part):
    """Image as a data URI, with its caption and its text for readers who cannot see it."""

    source: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Cell:
    """Cell of a table, its classes of ``page.css``, and where its link leads; empty without a link."""

    text: str
    style: str
    target: str = ""


@dataclass(frozen=True)
class Table(Part):
    """Table of formatted text; columns of numbers are set flush right.

    Cells in ``marked`` (row and column, from 0) are highlighted, those in ``links`` lead somewhere. A ``sortable``
    table scrolls in a box of its own; a click on a heading sorts it, and a field above it filters its rows, which
    ``hint`` explains.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Collection[tuple[int, int]] = ()
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    sortable: bool = False
    hint: str = "Filter: some words"

    @property
    def head(self) -> list[Cell]:
        """Cells of the header."""
        return self._style(self.header)

    @property
    def body(self) -> list[list[Cell]]:
        """Cells of all rows."""
        return [self._style(row, place) for place, row in enumerate(self.rows)]

    def _style(self, texts: Sequence[str], place: int = -1) -> list[Cell]:
        """Numbers flush right; dates and words as long as a time stamp are not broken, longer words anywhere."""
        cells = []
        for i, (text, right) in enumerate(zip(texts, self._numeric, strict=True)):
            is_long = len(text) > _LONGEST_WORD and " " not in text
            is_word = (not is_long and " " not in text) or bool(_DATE.fullmatch(text))
            styles = {"marked": (place, i) in self.marked, "number": right, "word": is_word and not right}
            styles["long"] = is_long and not right
            style = " ".join(style for style, wanted in styles.items() if wanted)
            cells.append(Cell(text, style, self.links.get((place, i), "")))
        return cells

    @cached_property
    def _numeric(self) -> list[bool]:
        """Whether a column holds only numbers."""
        return [bool(self.rows) and all(_looks_numeric(row[i]) for row in self.rows) for i in range(len(self.header))]


def _looks_numeric(text: str) -> bool:
    text = _EXPONENT.sub("", text)
    first = text.lstrip("−-+ ")[:1]
    return text in ("", "–") or (first.isdigit() and text.count("-") < 2 and not any(c.isalpha() for c in text))


@dataclass(frozen=True)
class Card(Part):
    """Parts in a frame, with a heading and, for links to it, an anchor; the first two stand beside each other.

    One ``on_demand`` is hidden until a link leads to it.
    """

    heading: str
    parts: Sequence[Part]
    anchor: str = ""
    wide: bool = False  # all parts below each other
    on_demand: bool = False


@dataclass(frozen=True)
class Folded(Part):
    """Parts that a reader unfolds by their heading."""

    heading: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Links(Part):
    """Words, and the files beside the page or the places on it to which they lead."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """Section of a page: anchor, heading and parts."""

    anchor: str
    heading: str
    parts: Sequence[Part]

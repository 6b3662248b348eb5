"""Define the parts of a page as plain values. A macro of ``templates/parts.html``, named by the kind, lays each out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

_LONGEST_WORD = 26  # characters of a time stamp


class Part:
    """A part of a section; parts stand one below the other."""

    @property
    def kind(self) -> str:
        """Name of the part's macro."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Paragraph(Part):
    """Text; its style is a class of ``page.css``: ``note``, ``left-out`` or ``verdict``."""

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
    """Cell of a table, and its classes of ``page.css``."""

    text: str
    style: str


@dataclass(frozen=True)
class Table(Part):
    """Table of formatted text; columns of numbers are set flush right.

    Cells in ``marked`` (row and column, from 0) are highlighted.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Collection[tuple[int, int]] = ()

    @property
    def head(self) -> list[Cell]:
        """Cells of the header."""
        return self._style(self.header)

    @property
    def body(self) -> list[list[Cell]]:
        """Cells of all rows."""
        return [self._style(row, place) for place, row in enumerate(self.rows)]

    def _style(self, texts: Sequence[str], place: int = -1) -> list[Cell]:
        """Numbers flush right; single words as long as a time stamp or shorter are not broken."""
        cells = []
        for i, (text, right) in enumerate(zip(texts, self._numeric, strict=True)):
            is_word = len(text) <= _LONGEST_WORD and " " not in text
            styles = {"marked": (place, i) in self.marked, "number": right, "word": is_word and not right}
            cells.append(Cell(text, " ".join(style for style, wanted in styles.items() if wanted)))
        return cells

    @cached_property
    def _numeric(self) -> list[bool]:
        """Whether a column holds only numbers."""
        return [bool(self.rows) and all(_looks_numeric(row[i]) for row in self.rows) for i in range(len(self.header))]


def _looks_numeric(text: str) -> bool:
    first = text.lstrip("−-+ ")[:1]
    return text in ("", "–") or (first.isdigit() and text.count("-") < 2 and not any(c.isalpha() for c in text))


@dataclass(frozen=True)
class Card(Part):
    """Parts in a frame, with a heading."""

    heading: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Section:
    """Section of a page: anchor, heading and parts."""

    anchor: str
    heading: str
    parts: Sequence[Part]

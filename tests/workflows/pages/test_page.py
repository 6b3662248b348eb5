"""Values on a page: escaped text, layout of cells, and the piece of an array that is drawn."""

import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

import shutterless.workflows.pages.page as page_module
from shutterless.workflows.pages.drawings import new_figure, picture, window
from shutterless.workflows.pages.formats import tabulate
from shutterless.workflows.pages.page import fill_template, page
from shutterless.workflows.pages.parts import (
    Bullets,
    Card,
    Definitions,
    Folded,
    Heading,
    Links,
    Paragraph,
    Part,
    Picture,
    Preformatted,
    Section,
    Table,
)

NASTY = """<script src="x">'&amp;'</script>"""
NASTY_PARTS = [
    Paragraph(NASTY, NASTY),
    Heading(NASTY),
    Preformatted(NASTY),
    Bullets([NASTY]),
    Definitions([(NASTY, NASTY)]),
    Picture(NASTY, NASTY, NASTY),
    Table([NASTY], [[NASTY]], links={(0, 0): NASTY}),
    Links([(NASTY, NASTY)]),
]
N_TEXTS, N_ATTRIBUTES = 10, 5  # Picture has one text and two attributes; Paragraph, Links and the cell one of each


class Reader(HTMLParser):
    """Elements, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [value for _, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def read(*parts):
    return Reader(page("title", "subtitle", [Section("anchor", "heading", parts)]))


def test_every_text_of_every_part_is_escaped_and_comes_back_as_it_was():
    assert {type(part) for part in NASTY_PARTS} | {Card, Folded} == set(Part.__subclasses__())
    found = read(*NASTY_PARTS, Card(NASTY, NASTY_PARTS, NASTY), Folded(NASTY, NASTY_PARTS))
    assert "script" not in found.tags
    assert found.texts.count(NASTY) == 3 * N_TEXTS + 2
    assert found.attributes.count(NASTY) == 3 * N_ATTRIBUTES + 1


def test_words_between_backticks_are_code_and_stay_escaped():
    html = page("", "", [Section("a", "A", [Paragraph("run `shutterless report <b>` now, or ` alone")])])
    assert "run <code>shutterless report &lt;b&gt;</code> now, or ` alone" in html


def test_only_a_page_with_a_list_to_sort_has_a_script_and_that_is_its_own():
    table = Table(["n"], [["1"]], sortable=True, hint=NASTY)
    found = read(table)
    assert found.tags.count("script") == 1
    assert NASTY in found.attributes
    assert "src" not in page("", "", [Section("a", "A", [table])]).split("<script")[1].split(">")[0]
    assert "script" not in read(Table(["n"], [["1"]])).tags


def test_numbers_with_an_exponent_are_numbers_and_names_are_none():
    table = Table(["rate", "name", "span"], [["5.5e−06", "7e", "2026-03-04"], ["12", "8", "1"]])
    assert [cell.style for cell in table.head] == ["number", "word", "word"]


def test_dates_are_not_broken():
    styles = [cell.style for cell in Table(["a", "b"], [["2026-03-04 05:06", "4 May 2026"]]).body[0]]
    assert styles == ["word", ""]


def test_titles_and_headings_are_escaped():
    found = Reader(page(NASTY, NASTY, 2 * [Section(NASTY, NASTY, [])]))
    assert "script" not in found.tags
    assert found.texts.count(NASTY) == 7  # title twice, subtitle, each heading twice
    assert (found.attributes.count(NASTY), found.attributes.count(f"#{NASTY}")) == (2, 2)


def test_the_style_is_inlined_as_it_stands():
    css = (Path(page_module.__file__).parent / "templates/page.css").read_text(encoding="utf-8")
    assert '"Segoe UI"' in css
    assert f"<style>\n{css}</style>" in page("title", "subtitle", [])


def test_text_as_it_stands_keeps_its_lines():
    assert "<pre>a = 1\n  b = 2</pre>" in page("", "", [Section("a", "A", [Preformatted("a = 1\n  b = 2")])])


def test_a_value_that_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="'endpoints' is undefined"):
        fill_template("serving.html", title="shutterless")


def test_numbers_are_set_flush_right_words_unbroken_and_marked_cells_set_off():
    rows = [["1", "word", "two words", "−2.5"], ["12,000", "2026-03-04T05:06:07.000000", "x" * 27, "–"]]
    table = Table(["n", "b", "c", "per cent"], rows, marked={(0, 0), (0, 1), (0, 2)})
    assert [cell.style for cell in table.head] == ["number", "word", "word", "number"]
    assert [[cell.style for cell in row] for row in table.body] == [
        ["marked number", "marked word", "marked", "number"],
        ["number", "word", "long", "number"],
    ]
    html = page("", "", [Section("a", "A", [table])])
    assert '<tr><td class="marked number">1</td><td class="marked word">word</td>' in html
    assert html.count('class="marked') == 3
    assert [cell.style for cell in Table(["1"], []).head] == ["word"]  # no rows, no numbers


def test_cells_hold_texts_numbers_by_a_pattern_and_what_functions_make():
    frame = pd.DataFrame({"name": ["a", "b"], "x": [1.25, np.nan], "n": [3, -4]})
    table = tabulate(frame, {"who": "name", "place": ("x", "{:.1f}"), "square": lambda row: str(row["n"] ** 2)})
    assert list(table.header) == ["who", "place", "square"]
    assert [list(row) for row in table.rows] == [["a", "1.2", "9"], ["b", "–", "16"]]
    with pytest.raises(KeyError, match="y"):
        tabulate(frame, {"place": ("y", "{:.1f}")})


def test_columns_that_hold_nothing_but_dashes_are_left_out_on_request():
    columns = {"n": str, "none": lambda n: "–", "some": lambda n: "–" if n < 2 else "x", "blank": lambda n: ""}
    assert list(tabulate([1, 2], columns).header) == ["n", "none", "some", "blank"]
    assert list(tabulate([1, 2], columns, drop_empty=True).header) == ["n", "some"]
    assert tabulate([], columns).rows == []


def test_pictures_of_pixels_are_png_and_all_others_svg_the_same_each_time():
    def draw(**options):
        drawing = new_figure(2, 1)
        drawing.subplots().plot([0, 1])
        return picture(drawing, "caption", alt="line", **options)

    assert draw(image=True).source.startswith("data:image/png;base64,")
    assert draw().source.startswith("data:image/svg+xml;base64,")
    assert draw() == draw()


def test_window_lies_inside():
    assert [window(middle, 3, 7) for middle in (0, 3, 6)] == [slice(0, 3), slice(2, 5), slice(4, 7)]
    assert window(2, 15, 5) == slice(0, 5)


def test_templates_are_loaded_by_pages_alone():
    code = "import sys; import shutterless.workflows.report.report; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_all_templates_are_installed():
    root = Path(__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    pages = root / "workflows/pages"
    installed = {path for pattern in patterns["shutterless.workflows.pages"] for path in pages.glob(pattern)}
    assert installed == {path for path in (pages / "templates").rglob("*") if path.is_file()}
    assert len(installed) >= 4

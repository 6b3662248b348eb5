"""Write HTML pages from templates: text is escaped, style and pictures are inlined, nothing else is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from shutterless.workflows.pages.parts import Section, Table

if TYPE_CHECKING:
    from jinja2 import Environment

_CODE = re.compile("`([^`]+)`")


def fill_template(template: str, **values: Any) -> str:
    """Fill a template of ``templates/``; a missing value is an error, not a blank."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here, so that commands without a page start sooner

    environment = Environment(
        loader=PackageLoader("shutterless.workflows.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _mark_code
    return environment


def _mark_code(text: str) -> str:
    """Escape a text, and set what stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def page(title: str, subtitle: str, sections: Iterable[Section]) -> str:
    """Return the whole document of a report or a comparison, with links to its sections."""
    sections = list(sections)
    has_lists = any(isinstance(part, Table) and part.sortable for section in sections for part in section.parts)
    return fill_template("page.html", title=title, subtitle=subtitle, sections=sections, has_lists=has_lists)

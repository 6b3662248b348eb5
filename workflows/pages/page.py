"""Write HTML pages from templates: text is escaped, style and pictures are inlined, nothing else is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

    from shutterless.workflows.pages.parts import Section


def fill_template(template: str, **values: Any) -> str:
    """Fill a template of ``templates/``; a missing value is an error, not a blank."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here, so that commands without a page start sooner

    return Environment(
        loader=PackageLoader("shutterless.workflows.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def page(title: str, subtitle: str, sections: Iterable[Section]) -> str:
    """Return the whole document of a report or a comparison, with links to its sections."""
    return fill_template("page.html", title=title, subtitle=subtitle, sections=list(sections))

"""Formulae as MathML: docutils translates the TeX, the browser draws it, and nothing is fetched or bundled for it."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError


def translate(tex: str, *, as_block: bool) -> str:
    """MathML of a formula in TeX.

    Raises
    ------
    ExtensionError
        Where docutils knows no MathML for it, so that no page shows half a formula.
    """
    try:
        return tex2mathml(tex, as_block=as_block)
    except MathError as error:
        raise ExtensionError(f"formula {tex!r} has no translation to MathML: {error}") from error


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(translate(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula that stands alone; it scrolls where the page is too narrow for it."""
    translator.body.append(f'<div class="formula">{translate(node.astext(), as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer for ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Parts of pages that are made when the site is built, so that a new command, setting or module appears by itself.

A page holds an HTML comment where such a part belongs:

``<!-- commands -->``
    every command with its options, from the application itself
``<!-- settings -->``
    every section and key of the configuration, from the pydantic models
``<!-- kinds -->``, ``<!-- vetoes -->``
    kinds of event and artefact, and vetoes, from their tables
``<!-- modules: pipeline.reading.frames pipeline.reading.* -->``
    reference of these modules, from their docstrings; ``.*`` stands for all modules of a folder that no page names
``<!-- file: CHANGELOG.md -->``
    a Markdown file from outside docs/, its links put right
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from typing import Any

from command_reference import command_reference
from settings_reference import settings_reference
from table_reference import kinds_reference, vetoes_reference

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
ROOMS = ("pipeline", "models", "workflows")
# Markdown files from outside docs/ that are pages of the site
PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "README.md": "project/readme.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "mlflow/README.md": "project/tracking.md",
    "models/weights/README.md": "project/bundled-model.md",
}
# parts that need no argument
WHOLE_PARTS = {
    "commands": command_reference,
    "settings": settings_reference,
    "kinds": kinds_reference,
    "vetoes": vetoes_reference,
}
_PART = re.compile(r"<!-- (commands|settings|kinds|vetoes|modules|file)(?:: ([^>]*?))? -->")
_CHANGING = re.compile(r"<!-- (commands|settings|kinds|vetoes|modules: [^>]*\.\*[^>]*|file: [^>]*) -->")
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s]+)\)")


def expand(text: str, page: Path) -> str:
    """Text of a page with its generated parts filled in and its links out of docs/ turned to pages of the site."""
    return _PART.sub(lambda found: _make_part(found, page), redirect_links(text, page, page))


def _make_part(found: re.Match[str], page: Path) -> str:
    what, argument = found.groups()
    if what in WHOLE_PARTS:
        return WHOLE_PARTS[what]()
    if what == "modules":
        return "\n\n".join(module_section(name) for name in expand_modules(argument.split()))
    source = ROOT / argument
    return redirect_links(source.read_text(encoding="utf-8"), source, page)


def redirect_links(text: str, source: Path, page: Path) -> str:
    """Links of a file as they must read on a page of the site, which may stand elsewhere; a folder has no page."""
    return _LINK.sub(lambda found: _redirect(found, source, page), text)


def _redirect(found: re.Match[str], source: Path, page: Path) -> str:
    words, target = found.groups()
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return found[0]
    absolute = (source.parent / path).resolve()
    if absolute.is_dir():
        return words
    if absolute.is_relative_to(ROOT):
        absolute = DOCS / PAGES.get(absolute.relative_to(ROOT).as_posix(), absolute)
    return f"[{words}]({Path(relpath(absolute, page.parent)).as_posix()}{hash_}{anchor})"


def all_modules() -> list[str]:
    """Every public module of the three rooms, such as ``pipeline.frames``."""
    return sorted(name for room in ROOMS for name in _modules_of(room))


def _modules_of(room: str) -> Iterator[str]:
    for path in (ROOT / room).rglob("*.py"):
        if not path.name.startswith("_"):
            yield path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def expand_modules(names: list[str]) -> list[str]:
    """Modules of a page, every ``folder.*`` replaced by those of the folder itself that no page names."""
    named = set(_written_names())
    parts = [
        [n for n in _folder_modules(name[:-2]) if n not in named] if name.endswith(".*") else [name] for name in names
    ]
    return [name for part in parts for name in part]


def _folder_modules(folder: str) -> list[str]:
    return [name for name in all_modules() if name.rpartition(".")[0] == folder]


def _written_names() -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference" / "api").glob("*.md"))]
    return [
        name for text in texts for found in _PART.finditer(text) if found[1] == "modules" for name in found[2].split()
    ]


def placed_modules() -> list[str]:
    """Modules that stand on the pages of the reference, in their order."""
    return expand_modules(_written_names())


def module_section(name: str) -> str:
    """Heading and reference of one module."""
    return f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: shutterless.{name}\n   :members:\n```"


def _fill(app: Any, docname: str, source: list[str]) -> None:
    source[0] = expand(source[0], Path(app.env.doc2path(docname)))


def _always_outdated(app: Any, env: Any, added: Any, changed: Any, removed: Any) -> list[str]:
    pages = {docname: Path(env.doc2path(docname)) for docname in env.found_docs}
    return [name for name, path in pages.items() if path.suffix == ".md" and _CHANGING.search(path.read_text("utf-8"))]


def setup(app: Any) -> dict[str, bool]:
    """Fill pages as they are read, those that change without their own file every time."""
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _always_outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

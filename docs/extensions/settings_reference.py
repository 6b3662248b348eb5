"""The reference of the settings in Markdown, from the classes that hold them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from itertools import groupby
from typing import Any, get_type_hints

from numpydoc.docscrape import NumpyDocString

from shutterless.models.configuration import CnnConfig, MlpConfig, TransformerConfig
from shutterless.pipeline.settings import json_schema
from shutterless.workflows.execution.slurm import SlurmSettings
from shutterless.workflows.settings.settings import Settings

ARCHITECTURES = {"transformer": TransformerConfig, "cnn": CnnConfig, "mlp": MlpConfig}
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def settings_reference() -> str:
    """Every section of the configuration with its keys, those of ``--slurm`` last."""
    sections = [*_sections(Settings, ""), ("--slurm FILE.toml", _describe_class(SlurmSettings))]
    return "\n\n".join(f"## `{title}`\n\n{text}" for title, text in sections)


def _sections(settings: type, prefix: str) -> Iterator[tuple[str, str]]:
    """Titles and texts of the sections in a class; of several of one class only the first, for all."""
    seen: dict[Any, list[str]] = {}  # by class, or by the name of a family
    for name, annotation in get_type_hints(settings).items():
        kind = name if name in ARCHITECTURES else annotation
        seen.setdefault(kind, []).append(f"{prefix}{name}")
    for kind, names in seen.items():
        title = f"[{names[0]}]" if len(names) == 1 else f"[{prefix}NAME]"
        if isinstance(kind, str):
            yield title, _describe_architecture(kind)
        elif is_dataclass(kind):
            yield title, _list_names(names) + _describe_class(kind)
            yield from _sections(kind, f"{names[0]}.")


def _list_names(names: list[str]) -> str:
    return f"{', '.join(f'`[{name}]`' for name in names)}\n\n" if len(names) > 1 else ""


def _describe_class(settings: type) -> str:
    meanings = parameter_texts(settings)
    keys = [
        (_written(name, entry.get("default")), f"{allowed[0].upper()}{allowed[1:]}. {meanings.get(name, '')}")
        for name, entry in json_schema(settings)["properties"].items()
        if (allowed := allowed_values(entry)) and name != "architecture"  # which has sections of its own
    ]
    return "\n\n".join([to_markdown(inspect.getdoc(settings) or ""), *_definitions(keys)])


def _describe_architecture(family: str) -> str:
    config, meanings = ARCHITECTURES[family], parameter_texts(ARCHITECTURES[family])
    built = config()
    keys = [(_written(name, getattr(built, name)), meanings[name]) for name in config.arch_names()]
    return "\n\n".join([f"Sizes of the {family}; what is left out has these values.", *_definitions(keys)])


def _written(name: str, default: Any) -> str:
    return f"`{name}`" if default is None else f"`{name} = {json.dumps(default, ensure_ascii=False)}`"


def _definitions(keys: list[tuple[str, str]]) -> list[str]:
    """Entries of a definition list; neighbours with one meaning share an entry."""
    groups = groupby(keys, key=lambda entry: entry[1])
    return [f"{', '.join(name for name, _ in group)}\n: {text.strip()}" for text, group in groups]


def allowed_values(entry: Mapping[str, Any]) -> str:
    """What a key may be, in words, from its JSON schema; empty for a section of its own."""
    if "$ref" in entry or "allOf" in entry:
        return ""
    if "enum" in entry:
        return " or ".join(f'"{value}"' for value in entry["enum"])
    if "anyOf" in entry:
        return " or ".join(allowed_values(one) for one in entry["anyOf"] if one.get("type") != "null")
    if entry["type"] == "object":
        return "table"
    if entry["type"] == "array":
        each = entry.get("prefixItems", [entry.get("items", {})])
        kind, space, limit = allowed_values(each[0]).partition(" ≥")
        kinds = kind.replace("number", "numbers").replace("text", "texts")
        return f"{'list of' if len(each) == 1 else 'pair of'} {kinds}{space}{limit}"
    limits = [f"{sign} {entry[key]:g}" for key, sign in _LIMITS.items() if key in entry]
    return " ".join([_TYPES[entry["type"]], " and ".join(limits)]).strip()


def parameter_texts(documented: type) -> dict[str, str]:
    """Meaning of each parameter in the docstrings of a class and of those it extends; one entry may be for several."""
    docstrings = [inspect.cleandoc(vars(cls).get("__doc__") or "") for cls in reversed(documented.__mro__[:-1])]
    entries = [entry for docstring in docstrings for entry in NumpyDocString(docstring)["Parameters"]]
    return {name.strip(): to_markdown(" ".join(e.desc)) for e in entries for name in e.name.split(",")}


def to_markdown(text: str) -> str:
    """Inline markup of docstrings as Markdown."""
    text = text.partition("\nParameters\n")[0].strip()
    return re.sub(r"``([^`]*)``", r"`\1`", text).replace("<", r"\<").replace("*", r"\*")

"""The reference of the settings in Markdown, from the pydantic models that read them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from numpydoc.docscrape import NumpyDocString
from pydantic import BaseModel

from shutterless.models.configuration import CnnConfig, MlpConfig, TransformerConfig
from shutterless.pipeline.simulation.scene import SceneSettings
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.execution.slurm import SlurmSettings
from shutterless.workflows.settings.settings import GridSettings, SceneSection, Settings, default_toml

# sections whose keys are explained where they are used
EXPLAINED_BY: dict[type, type] = {SceneSection: SceneSettings, GridSettings: TokenGrid}
ARCHITECTURES = {"transformer": TransformerConfig, "cnn": CnnConfig, "mlp": MlpConfig}
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_COMMENTED = re.compile(r"^(\w+) = [^#\n]*#\s*(.+)$", re.MULTILINE)


def settings_reference() -> str:
    """Every section of the configuration with its keys, those of ``--slurm`` last."""
    sections = [*_sections(Settings, ""), ("--slurm FILE.toml", _describe_model(SlurmSettings, {}))]
    return "\n\n".join(f"## `{title}`\n\n{text}" for title, text in sections)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    """Titles and texts of a model's sections; of several of one class only the first, for all."""
    seen: dict[Any, list[str]] = {}  # by class, or by the name of a family
    for name, field in model.model_fields.items():
        kind = name if name in ARCHITECTURES else field.annotation
        seen.setdefault(kind, []).append(f"{prefix}{name}")
    for kind, names in seen.items():
        title = f"[{names[0]}]" if len(names) == 1 else f"[{prefix}NAME]"
        if isinstance(kind, str):
            yield title, _describe_architecture(kind)
        elif inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield title, _list_names(names) + _describe_model(kind, toml_comments(names[0]))
            yield from _sections(kind, f"{names[0]}.")


def _list_names(names: list[str]) -> str:
    return f"{', '.join(f'`[{name}]`' for name in names)}\n\n" if len(names) > 1 else ""


def _describe_model(model: type[BaseModel], comments: Mapping[str, str]) -> str:
    meanings = {**comments, **parameter_texts(EXPLAINED_BY.get(model, model))}
    keys = [
        (_written(name, entry.get("default")), f"{allowed[0].upper()}{allowed[1:]}. {meanings.get(name, '')}")
        for name, entry in model.model_json_schema()["properties"].items()
        if (allowed := allowed_values(entry)) and name != "architecture"  # which is told by sections of its own
    ]
    return "\n\n".join([to_markdown(inspect.getdoc(model) or ""), *_definitions(keys)])


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
    """Meaning of each parameter in a numpydoc docstring; of names that share an entry, the same for all."""
    entries = NumpyDocString(inspect.getdoc(documented) or "")["Parameters"]
    return {name.strip(): to_markdown(" ".join(e.desc)) for e in entries for name in e.name.split(",")}


def toml_comments(section: str) -> dict[str, str]:
    """What the packaged configuration says behind the keys of a section."""
    text = default_toml().partition(f"\n[{section}]\n")[2].partition("\n[")[0]
    return {key: f"{comment[0].upper()}{comment[1:]}." for key, comment in _COMMENTED.findall(text)}


def to_markdown(text: str) -> str:
    """Inline markup of docstrings as Markdown."""
    text = text.partition("\nParameters\n")[0].strip()
    return re.sub(r"``([^`]*)``", r"`\1`", text).replace("<", r"\<").replace("*", r"\*")

"""The table of kinds: values derived from it do not change, and no other module lists kinds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from shutterless.pipeline.events import kinds
from shutterless.pipeline.events.kinds import (
    DEFAULT_KINDS,
    EITHER_KINDS,
    ENDLESS_KINDS,
    EVENT_KINDS,
    EVENT_TABLE,
    KIND_TABLE,
    KINDS,
    STAR_KINDS,
    UNCOUNTED_KINDS,
)
from shutterless.pipeline.events.light_curves import _CURVES
from shutterless.pipeline.injection.amplifiers import InjectionSettings

ROOT = Path(__file__).resolve().parents[3]
# the table; the light curve of each kind, which a test below holds against it; one picture of each light that moves;
# what people call them when they label candidates
MAY_LIST_KINDS = {
    "pipeline/events/kinds.py",
    "pipeline/events/light_curves.py",
    "pipeline/results/labels.py",
    "pipeline/simulation/sky/sky_examples.py",
}
MOST_NAMES = 2  # kinds that code may name together without listing them


def listed_kinds(text: str) -> list[set[str]]:
    """Kinds in literals of a module that hold more than `MOST_NAMES` of them."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            names = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            split = {part for name in names for part in name.split(",")}
            found += [split & set(KINDS)] if len(split & set(KINDS)) > MOST_NAMES else []
    return found


def test_order_of_kinds_is_the_class_index():
    assert KINDS[:7] == ("noise", "flare", "burst", "occultation", "glint", "cosmic_ray", "pickup")
    assert KINDS[7:11] == ("eclipse", "pulsar", "flickering", "qpo")
    assert KINDS[11:] == ("satellite", "aircraft", "meteor", "ghost", "hot_column", "trap", "dropped_rows")


def test_lists_follow_from_the_table():
    assert EVENT_KINDS == ("flare", "burst", "occultation", "glint", "eclipse", "pulsar", "flickering", "qpo")
    assert DEFAULT_KINDS == ("flare", "burst", "occultation", "glint")  # their order is part of what is drawn
    assert ENDLESS_KINDS == ("eclipse", "pulsar", "flickering", "qpo")
    assert ("glint", *ENDLESS_KINDS) == UNCOUNTED_KINDS
    assert STAR_KINDS == ("flare", "burst", "occultation", "eclipse", "flickering", "qpo")
    assert EITHER_KINDS == ("burst",)
    assert InjectionSettings().kinds == (("flare", 0.3), ("burst", 0.4), ("occultation", 0.2), ("glint", 0.1))


def test_what_has_no_end_has_no_optimum_to_be_counted_against():
    assert set(ENDLESS_KINDS) < set(UNCOUNTED_KINDS)


def test_every_event_and_nothing_else_has_a_light_curve():
    assert set(_CURVES) == set(EVENT_KINDS)


@pytest.mark.parametrize("kind", KIND_TABLE.values(), ids=KIND_TABLE)
def test_every_kind_has_its_words_and_its_signs(kind):
    assert kind.what
    assert set(kind.signs) <= {-1, 1}
    assert len(set(kind.signs)) == len(kind.signs) > 0
    assert kind.is_event == (kind.name in EVENT_KINDS)


@pytest.mark.parametrize("kind", EVENT_TABLE.values(), ids=EVENT_TABLE)
def test_ranges_rise(kind):
    for low, high in filter(None, (kind.scale_s, kind.relative_amplitude, kind.cube_scale_rows)):
        assert 0 <= low < high
    assert min(kind.extent) >= 0


def test_the_table_needs_no_library():
    """Commands read their defaults from the table, so it must import quickly for ``--help``."""
    tree = ast.parse(Path(kinds.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "dataclasses", "enum"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


def test_no_other_module_lists_kinds():
    paths = [path for room in ("pipeline", "models", "workflows") for path in sorted((ROOT / room).rglob("*.py"))]
    named = {path.relative_to(ROOT).as_posix(): path for path in paths}
    listing = {name for name, path in named.items() if listed_kinds(path.read_text(encoding="utf-8"))}
    assert listing == MAY_LIST_KINDS


def test_lists_of_kinds_are_found():
    assert listed_kinds('A = ("flare", "burst", "qpo")') == [{"flare", "burst", "qpo"}]
    assert listed_kinds('A = {"sharp": "cosmic_ray", "wide": "pickup", "": "noise"}') != []
    assert listed_kinds('def f(kinds=["flare,burst,glint"]): ...') != []
    assert listed_kinds('A = ("flickering", "qpo"), B = "flare"'.replace(", B", "; B")) == []

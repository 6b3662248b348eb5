"""Settings: frozen values that check themselves, and errors that name key, value and limit in one line.

An example::

    @settings_class(GridError)
    class TokenGrid:
        n_rows: Count = 256

    TokenGrid(n_rows=0)  # GridError: TokenGrid: [n_rows] = 0: input should be greater than or equal to 1

A class stands where its values are used, with its limits and its defaults; whoever reads a file reads it into that
class. Nothing slow is imported here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, to_jsonable_python

_Value = TypeVar("_Value")

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
InnerShare = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountFrom0 = Annotated[int, Field(ge=0)]

# an unknown key, as a dataclass and as its constructor see it
_UNKNOWN = "unexpected_keyword_argument"


class SettingsError(ValueError):
    """A configuration that cannot be used; the message names section and key."""


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings_class(error: type[ValueError] = SettingsError) -> Callable[[type[_Value]], type[_Value]]:
    """Make a class a frozen dataclass whose values are checked, and converted where nothing is lost (lists to tuples).

    Parameters
    ----------
    error : type of ValueError
        Raised by the constructor and by `dataclasses.replace`; the message names every key that is wrong.
    """

    def decorate(cls: type[_Value]) -> type[_Value]:
        made: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
        construct = made.__init__

        @wraps(construct)
        def check(self: _Value, /, *args: Any, **values: Any) -> None:
            try:
                construct(self, *args, **values)
            except ValidationError as wrong:
                raise error(f"{made.__name__}: {explain(wrong, made)}") from None

        made.__init__ = check
        return made

    return decorate


def validate_settings(kind: type[_Value], values: Mapping[str, Any], where: str) -> _Value:
    """Settings made of plain values; a `SettingsError` names ``where`` they come from and every key that is wrong."""
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as wrong:
        raise SettingsError(f"{where}: {explain(wrong, kind)}") from None


def plain_values(settings: Any, kind: type | None = None, *, with_none: bool = True) -> dict[str, Any]:
    """Values of settings as JSON knows them (tuples as lists); with ``kind`` only those that this class has."""
    values: dict[str, Any] = to_jsonable_python(settings, exclude_none=not with_none)
    return values if kind is None else {field.name: values[field.name] for field in fields(kind)}


def json_schema(kind: type) -> dict[str, Any]:
    """JSON schema of a settings class: type, limits and default of every key."""
    return TypeAdapter(kind).json_schema()


def explain(wrong: ValidationError, kind: type) -> str:
    """One line that names every key that is wrong: its section, what was given, what it should be."""
    entries = wrong.errors()
    places = [entry["loc"] for entry in entries]
    # what is wrong in a part is wrong in the whole, too (a list is too short without its wrong entries): said once
    parted = {place[:n] for place in places for n in range(len(place))}
    return "; ".join(_explain(entry, kind) for entry in entries if entry["loc"] not in parted)


def _explain(entry: ErrorDetails, kind: type) -> str:
    given, message = entry["input"], entry["msg"].removeprefix("Value error, ")
    if not entry["loc"]:
        return message
    *sections, key = names = _names(entry["loc"], _keys(kind))
    where = f"[{'.'.join(sections)}] {_shown(key)}" if sections else f"[{_shown(key)}]"
    if entry["type"] == _UNKNOWN:
        return f"{where}: unknown key{nearest_key(key, _keys(kind, sections))}"
    if entry["type"] == "missing" or isinstance(given, Mapping):
        return f"{where}: {message}"
    where += "".join(f" entry {part}" for part in entry["loc"][len(names) :])
    return f"{where} = {given!r}: {message[0].lower()}{message[1:]}"


def _shown(key: str) -> str:
    """A key as it is, or quoted if it would break the line."""
    return key if key.isprintable() and key else repr(key)


def _names(place: Sequence[str | int], keys: Sequence[str]) -> list[str]:
    """Names of the sections and the key at a place, which may begin with the position of a constructor's argument."""
    first, *others = place
    if isinstance(first, int) and first < len(keys):
        first = keys[first]
    return [str(first), *(part for part in others if isinstance(part, str))]


def _keys(kind: Any, sections: Sequence[str] = ()) -> list[str]:
    """Keys of a settings class, or of the section in it at a path such as ``["simulate", "training"]``."""
    for name in sections:
        kind = kind.__pydantic_fields__[name].annotation
    return [field.name for field in fields(kind)]


def nearest_key(key: str, known: Sequence[str]) -> str:
    """What to add to the refusal of an unknown key: the nearest known one, or all of them."""
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known are {sorted(known)}"

"""Values that a writer may put where another is expected, and changes of documents, arrays and bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

HUGE = (-(2**63), 2**31, 2**40, 10**9, 10**12, 10**18, 2**70)
NUMBERS = st.integers(-3, 300) | st.sampled_from(HUGE) | st.floats(width=64)
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", " ", "../../etc", "/dev/zero", "\0", "<script>alert(1)</script>", "é" * 300, "\ud800", "\u202e", "a\nb"]
)
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS
JSON_VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
PLACES = st.integers(0, 10**6)  # counted around, so that every number is a place


@dataclass(frozen=True)
class Put:
    """Another value at a place of a document; `Gone` takes it out."""

    place: int
    value: Any


class Gone:
    """Nothing."""

    def __repr__(self) -> str:
        return "GONE"


GONE = Gone()
PUTS = st.builds(Put, PLACES, JSON_VALUES | st.just(GONE))


def change_document(document: Any, changes: Sequence[Put]) -> Any:
    """A deep copy with changes, whose places are counted over all keys and entries."""
    document = json.loads(json.dumps(document))
    for change in changes:
        spots = list(_spots(document))
        if not spots:
            break
        holder, key = spots[change.place % len(spots)]
        if change.value is GONE:
            del holder[key]
        else:
            holder[key] = change.value
    return document


def _spots(document: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield document, key
        yield from _spots(document[key])


def to_json_text(document: Any) -> bytes:
    """JSON as Python writes it: NaN and half of a surrogate pair are possible."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


def to_toml(document: dict[str, Any]) -> bytes:
    """TOML with tables in one line each."""
    lines = [f"{json.dumps(key)} = {_toml_value(value)}" for key, value in document.items() if value is not None]
    return "\n".join(lines).encode("utf-8", "replace")


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(one) for one in value if one is not None) + "]"
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=True).replace("\\ud", "\\uf")  # TOML has no half pairs


@dataclass(frozen=True)
class Damage:
    """Bytes written over others at a place, or everything behind it cut."""

    place: int
    content: bytes | None


DAMAGES = st.builds(Damage, PLACES, st.none() | st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 8))


def damage(content: bytes, damages: Sequence[Damage]) -> bytes:
    """Content with the damages in their order."""
    for one in damages:
        at = one.place % max(len(content), 1)
        content = content[:at] if one.content is None else content[:at] + one.content + content[at + len(one.content) :]
    return content


@dataclass(frozen=True)
class OtherArray:
    """A .npy header that says something else than the bytes behind it, which are kept."""

    descr: str
    shape: tuple[int, ...]

    def write(self, content: bytes) -> bytes:
        with io.BytesIO(content) as stream:
            np.lib.format.read_magic(stream)
            np.lib.format.read_array_header_1_0(stream)
            data = stream.read()
        header = repr({"descr": self.descr, "fortran_order": False, "shape": self.shape}) + "\n"
        return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


OTHER_ARRAYS = st.builds(
    OtherArray,
    st.sampled_from(["<f2", "<f4", "<f8", ">i4", "|O", "|b1", "<U9", "|V7", "<M8[s]"]),
    st.lists(st.integers(0, 70) | st.sampled_from([10**6, 10**12, 2**62]), max_size=4).map(tuple),
)

"""Tables of the code as tables of the pages: kinds of event and artefact, and vetoes."""

from __future__ import annotations

from collections.abc import Sequence

from shutterless.pipeline.detection.vetoes import VETOES
from shutterless.pipeline.events.kinds import (
    DEFAULT_KINDS,
    ENDLESS_KINDS,
    KIND_TABLE,
    NOISE,
    UNCOUNTED_KINDS,
    EventKind,
    Kind,
)

_SIGNS = {(1,): "+", (-1,): "−", (-1, 1): "±"}


def kinds_reference() -> str:
    """Every kind but noise, and which are drawn by default, go on without end, and are not counted."""
    header = ("kind", "what", "stands on", "light", "scale", "ΔF/F", "source")
    kinds = [kind for name, kind in KIND_TABLE.items() if name != NOISE]
    events_first = sorted(kinds, key=lambda kind: not kind.is_event)
    notes = (
        f"Drawn unless others are asked for: {_names(DEFAULT_KINDS)}. Without end in a file, and so without an "
        f"optimum: {_names(ENDLESS_KINDS)}. Events that completeness does not count: {_names(UNCOUNTED_KINDS)}."
    )
    return f"{_table(header, [_kind_row(kind) for kind in events_first])}\n\n{notes}"


def vetoes_reference() -> str:
    """Every veto in the order in which they are tried."""
    rows = [("(empty)", "nothing speaks against an event", "", "")]
    rows += [(f"`{veto.name}`", veto.meaning, veto.limit, veto.cause) for veto in VETOES]
    return _table(("veto", "what it says", "when", "typical cause"), rows)


def _kind_row(kind: Kind) -> tuple[str, ...]:
    first, last = (f"`{kind.name}`", kind.what), (kind.source or "a choice",)
    if not isinstance(kind, EventKind):
        return (*first, "artefact", _SIGNS[kind.signs], "", "", *last)
    has_limits = kind.relative_amplitude[1] < float("inf")
    limits = _range(kind.relative_amplitude) if has_limits else ""
    return (*first, kind.place.value, _SIGNS[kind.signs], f"{kind.scale}: {_range(kind.scale_s)} s", limits, *last)


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.2g}–{pair[1]:.3g}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

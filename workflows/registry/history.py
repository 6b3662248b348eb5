"""Record every change of a registered model's aliases in its tags: one tag per entry, written before and after.

An entry is written as pending, then the alias is moved, then the entry is written again as done. An interruption in
between leaves a pending entry, and the version of the alias shows whether it was moved.
"""

from __future__ import annotations

import getpass
import json
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from shutterless.workflows.registry.store import RegistryError

PREFIX = "shutterless.history."
REASON_LENGTH = 1000
GATE_LENGTH = 110  # characters of a value or limit, so that nine gates and a reason fit into one tag
PENDING, CARRIED_OUT, REFUSED, CUT_OFF = "pending", "done", "refused", "interrupted"
REGISTER, PROMOTE, ROLLBACK, OUTSIDE = "register", "promote", "rollback", "outside"


@dataclass(frozen=True)
class Entry:
    """One change of an alias, or one that was refused.

    Parameters
    ----------
    number : int
        Order in the history, from 1.
    action : str
        `REGISTER`, `PROMOTE`, `ROLLBACK`, or `OUTSIDE`: another program moved the alias.
    state : str
        `PENDING` at first; then `CARRIED_OUT`, `REFUSED` by gates, or `CUT_OFF` before the alias moved.
    alias : str
    old, new : str or None
        Versions before and after (None: the alias is not set).
    who, when : str
        User and host, and time (UTC, ISO 8601).
    reason : str
    gates : list of dict
        ``name``, ``value``, ``limit``, ``passed`` of each gate.
    data : dict of str
        Hashes of the frozen validation store and its truth table.
    token : str
        Random text that makes the tag's key unique.
    """

    number: int
    action: str
    state: str
    alias: str
    old: str | None
    new: str | None
    who: str
    when: str
    reason: str = ""
    gates: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def key(self) -> str:
        """Name of the entry's tag."""
        return f"{PREFIX}{self.number:06d}.{self.token}"

    def encode(self) -> str:
        """Value of the entry's tag."""
        values = {name: value for name, value in asdict(self).items() if name not in ("number", "token")}
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def new_entry(number: int, action: str, state: str, alias: str, old: str | None, new: str | None, **more: Any) -> Entry:
    """Entry with the present time and the user of this process."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Entry(number, action, state, alias, old, new, whoami(), now, **more)


def whoami() -> str:
    """User and host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def check_reason(reason: str) -> str:
    """Refuse a reason that is too long for the history, before anything is done."""
    if len(reason) > REASON_LENGTH:
        raise RegistryError(f"the reason has {len(reason)} characters, and {REASON_LENGTH} are kept; shorten it")
    return reason


def read_alias_history(tags: Mapping[str, str]) -> list[Entry]:
    """Entries in the tags of a registered model, the oldest first.

    Raises
    ------
    RegistryError
        If a tag of the history cannot be read, because it was changed by hand; the message names it.
    """
    return sorted(
        (_decode(key, value) for key, value in tags.items() if key.startswith(PREFIX)),
        key=lambda entry: (entry.number, entry.when, entry.token),
    )


def _decode(key: str, value: str) -> Entry:
    number, _, token = key.removeprefix(PREFIX).partition(".")
    try:
        return Entry(number=int(number), token=token, **json.loads(value))
    except (TypeError, ValueError) as error:
        raise RegistryError(
            f"tag {key} of the registered model is no entry of a history ({error}): it was changed by hand; set it "
            "right or delete it"
        ) from error


def next_number(entries: Sequence[Entry]) -> int:
    """Number of the next entry."""
    return max((entry.number for entry in entries), default=0) + 1


def champions(entries: Sequence[Entry], alias: str) -> list[str | None]:
    """Versions that an alias has had, without those rolled back; None where it was not set.

    A promotion adds its version at the end. A rollback removes versions from the end until its target is the last.
    A rollback to a version that is no longer in the list adds it like a promotion.
    """
    path: list[str | None] = []
    for entry in entries:
        if entry.alias != alias or entry.state != CARRIED_OUT:
            continue
        if entry.action == ROLLBACK and entry.new in path[:-1]:
            path.pop()
            while path[-1] != entry.new:
                path.pop()
        else:
            path.append(entry.new)
    return path


def settle(entries: Sequence[Entry], aliases: Mapping[str, str], alias: str) -> list[Entry]:
    """Entries that make the history agree with an alias: pending entries closed, moves from outside added.

    Parameters
    ----------
    entries : sequence of Entry
        The whole history of the registered model.
    aliases : mapping of str to str
        Versions of its aliases.
    alias : str

    Returns
    -------
    list of Entry
        To be written in this order; empty where both agree.
    """
    stands = aliases.get(alias)
    closed = [
        replace(entry, state=CARRIED_OUT if entry.new == stands else CUT_OFF)
        for entry in entries
        if entry.alias == alias and entry.state == PENDING
    ]
    own = {entry.key: entry for entry in closed}
    path = champions([own.get(entry.key, entry) for entry in entries], alias)
    known = path[-1] if path else None
    if stands == known:
        return closed
    reason = "found so; it was set in MLflow's pages or by another program"
    moved = new_entry(next_number(entries), OUTSIDE, CARRIED_OUT, alias, known, stands, reason=reason)
    return [*closed, moved]


def describe_entry(entry: Entry) -> str:
    """Describe one entry in lines for a terminal."""
    move = f"{entry.old or 'none'} → {entry.new or 'none'}"
    lines = [f"{entry.number:>4}  {entry.when}  {entry.action} {entry.alias}: {move}  {entry.state}  by {entry.who}"]
    if entry.reason:
        lines.append(f"      why: {entry.reason}")
    for gate in entry.gates:
        result = "pass" if gate["passed"] else "FAIL"
        lines.append(f"      {result}  {gate['name']} {gate['value']}  {gate['limit']}")
    lines += [f"      {name}: {value}" for name, value in entry.data.items()]
    return "\n".join(lines)

"""Promote a version that passes the gates, roll back, and read the history. An alias moves with its record."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.registry.gates import Judgement, judge_challenger
from shutterless.workflows.registry.history import (
    CARRIED_OUT,
    PENDING,
    PROMOTE,
    REFUSED,
    ROLLBACK,
    Entry,
    champions,
    check_reason,
    describe_entry,
    new_entry,
    next_number,
    read_alias_history,
    settle,
    whoami,
)
from shutterless.workflows.registry.policy import FrozenFrames, Policy, open_frozen
from shutterless.workflows.registry.store import LOCK, RegistryError, RegistryStore
from shutterless.workflows.tracking.logged_model import finds_boxes
from shutterless.workflows.tracking.tracking import Tracking, resolve_model

CHAMPION = "champion"


@dataclass(frozen=True)
class Promotion:
    """Result of an attempt: the gates, and the entry of the history (None for a dry run)."""

    judgement: Judgement
    alias: str
    old: str | None
    new: str
    entry: Entry | None

    @property
    def promoted(self) -> bool:
        """Whether the alias was moved."""
        return self.entry is not None and self.entry.state == CARRIED_OUT

    def text(self) -> str:
        """Return the table of gates and the action taken, for a terminal."""
        failed = [gate.name for gate in self.judgement.gates if not gate.passed]
        move = f"{self.alias} from version {self.old} to {self.new}" if self.old else f"{self.alias} to {self.new}"
        if self.entry is None:
            last = f"dry run: would {'refuse' if failed else 'move'} {move}; nothing was changed"
        elif self.promoted:
            last = f"moved {move}"
        elif failed:
            last = f"refused to move {move}: {', '.join(failed)}"
        else:
            last = f"refused to move {move}: {self.entry.reason}"
        return f"{self.judgement.table()}\n{last}"


@dataclass(frozen=True)
class History:
    """Entries of a registered model, and their disagreements with its aliases."""

    name: str
    entries: list[Entry]
    aliases: dict[str, str]
    notes: list[str]

    def text(self) -> str:
        """Return everything in lines for a terminal."""
        lines = [describe_entry(entry) for entry in self.entries] or [f"{self.name}: no entry"]
        lines += [f"{alias} is version {version}" for alias, version in sorted(self.aliases.items())]
        return "\n".join([*lines, *(f"NOTE {note}" for note in self.notes)])


def promote_version(
    tracking: Tracking,
    name: str,
    reference: str,
    *,
    policy: Policy,
    alias: str = CHAMPION,
    store: Path | None = None,
    truth: Path | None = None,
    reason: str = "",
    dry_run: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Promotion:
    """Judge a version on the frozen frames and, if it passes every gate, point an alias at it.

    Parameters
    ----------
    tracking : Tracking
    name : str
        Name in the registry.
    reference : str
        A version, an alias, or the run that logged it.
    policy : Policy
    alias : str
    store, truth : Path, optional
        Frozen frames; they take the place of those in the policy.
    reason : str
        Written to the history.
    dry_run : bool
        Judge only.
    executor, progress : optional

    Raises
    ------
    RegistryError
        If the version does not exist or already has the alias, or the frames are not the frozen ones.
    """
    registry = RegistryStore(tracking, name)
    check_reason(reason)
    new = registry.find_version(reference)
    aliases, tags = registry.read()
    old = aliases.get(alias)
    if old == new:
        raise RegistryError(f"version {new} of {name} is its {alias} already")
    challenger = _version(registry, new)
    frozen = open_frozen(policy, store, truth, _last_frozen(read_alias_history(tags), alias))
    with tempfile.TemporaryDirectory(prefix="shutterless-") as scratch:
        folder = Path(scratch)
        judgement = judge_challenger(
            challenger, _version(registry, old) if old else None, frozen, policy, folder,
            executor=executor, progress=progress,
        )  # fmt: skip
        if dry_run:
            return Promotion(judgement, alias, old, new, None)
        _attach(registry, new, judgement, folder / "attached")
    entry = _record(registry, alias, old, new, reason, judgement, frozen)
    return Promotion(judgement, alias, old, new, entry)


def _version(registry: RegistryStore, version: str) -> tuple[str, Path]:
    folder = resolve_model(f"models:/{registry.name}/{version}", registry.tracking)
    assert folder is not None
    if finds_boxes(folder):
        raise RegistryError(
            f"version {version} of {registry.name} is a detector of boxes, and the gates count events in frames; "
            "give it an alias by `shutterless register --alias`"
        )
    return f"{registry.name}-v{version}", folder


def _last_frozen(entries: Sequence[Entry], alias: str) -> dict[str, str]:
    """Hashes of the frames of the last promotion."""
    judged = [e.data for e in entries if e.alias == alias and e.action == PROMOTE and e.state == CARRIED_OUT and e.data]
    return judged[-1] if judged else {}


def _attach(registry: RegistryStore, version: str, judgement: Judgement, folder: Path) -> None:
    judgement.write(folder)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    registry.attach(version, folder, f"evaluation/{now}")


def _record(
    registry: RegistryStore,
    alias: str,
    old: str | None,
    new: str,
    reason: str,
    judgement: Judgement,
    frozen: FrozenFrames,
) -> Entry:
    """Move the alias with an entry before and after, or record why not."""
    judged: dict[str, Any] = {"gates": [gate.to_dict() for gate in judgement.gates], "data": frozen.hashes}
    with registry.locked(whoami()) as lease:
        entries, aliases = settle_history(registry, alias)
        number = next_number(entries)
        if not judgement.passed:
            refused = new_entry(number, PROMOTE, REFUSED, alias, old, new, reason=reason, **judged)
            registry.write_tag(refused.key, refused.encode())
            return refused
        if aliases.get(alias) != old:
            why = f"{alias} became version {aliases.get(alias)} while the gates were measured against {old}; try again"
            late = new_entry(number, PROMOTE, REFUSED, alias, old, new, reason=why, **judged)
            registry.write_tag(late.key, late.encode())
            return late
        lease.check()
        return move(registry, new_entry(number, PROMOTE, PENDING, alias, old, new, reason=reason, **judged))


def move(registry: RegistryStore, entry: Entry) -> Entry:
    """Write a pending entry, move its alias, write the entry as done. The caller holds the lock."""
    assert entry.new is not None
    registry.write_tag(entry.key, entry.encode())
    registry.set_alias(entry.alias, entry.new)
    done = replace(entry, state=CARRIED_OUT)
    registry.write_tag(done.key, done.encode())
    return done


def settle_history(registry: RegistryStore, alias: str) -> tuple[list[Entry], dict[str, str]]:
    """History and aliases, after adding the missing entries to the history. The caller holds the lock."""
    aliases, tags = registry.read()
    entries = {entry.key: entry for entry in read_alias_history(tags)}
    for entry in settle(list(entries.values()), aliases, alias):
        registry.write_tag(entry.key, entry.encode())
        entries[entry.key] = entry
    return list(entries.values()), aliases


def roll_back(
    tracking: Tracking, name: str, *, alias: str = CHAMPION, version: str | None = None, reason: str = ""
) -> Entry:
    """Point an alias back at its previous version, without gates: a bad champion must go at once.

    Parameters
    ----------
    tracking : Tracking
    name : str
    alias : str
    version : str, optional
        A version that had the alias before; by default the last of these that still exists. Each rollback goes one
        step further back: after promotions of 1, 2 and 3, two rollbacks end at 1.
    reason : str

    Raises
    ------
    RegistryError
        If there is nothing to go back to.
    """
    registry = RegistryStore(tracking, name)
    check_reason(reason)
    with registry.locked(whoami()) as lease:
        entries, aliases = settle_history(registry, alias)
        target = _rollback_target(registry, entries, alias, version)
        lease.check()
        old = aliases.get(alias)
        return move(registry, new_entry(next_number(entries), ROLLBACK, PENDING, alias, old, target, reason=reason))


def _rollback_target(registry: RegistryStore, entries: Sequence[Entry], alias: str, version: str | None) -> str:
    existing = registry.versions()
    path = champions(entries, alias)
    now = path[-1] if path else None
    if version is None:
        before = [number for number in path[:-1] if number in existing and number != now]
        if not before:
            raise RegistryError(
                f"{registry.name} had no other {alias} before version {now} that still exists; promote one, or see "
                f"`shutterless history {registry.name}`"
            )
        return str(before[-1])
    had = {entry.new for entry in entries if entry.alias == alias and entry.state == CARRIED_OUT}
    if version not in existing or version not in had:
        been = sorted((number for number in had if number in existing), key=int)
        raise RegistryError(f"version {version} of {registry.name} was never its {alias}; these were: {been}")
    if version == now:
        raise RegistryError(f"version {version} of {registry.name} is its {alias} already")
    return version


def read_registry_history(tracking: Tracking, name: str) -> History:
    """Read the history of a registered model, and find where it disagrees with its aliases; nothing is written.

    Notes
    -----
    The next `promote_version` or `roll_back` records disagreements. A pending entry becomes done or interrupted,
    depending on the version that has the alias. A move by another program gets its own entry.
    """
    registry = RegistryStore(tracking, name)
    aliases, tags = registry.read()
    entries = read_alias_history(tags)
    locks = [json.loads(value)["who"] for key, value in tags.items() if key.startswith(LOCK)]
    busy = f"; {', '.join(locks)} may be at it now" if locks else ""
    notes = []
    for alias in sorted({entry.alias for entry in entries} | ({CHAMPION} & aliases.keys())):
        for found in settle(entries, aliases, alias):
            if found.key in tags:
                half = "the alias was moved" if found.state == CARRIED_OUT else "the alias was not moved"
                notes.append(f"entry {found.number} was interrupted: {half}{busy}")
            else:
                notes.append(
                    f"{alias} stands at version {found.new or 'none'}, the history at {found.old or 'none'}: it was "
                    "set outside of shutterless"
                )
    return History(name, entries, aliases, notes)

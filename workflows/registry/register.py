"""Register a model under a name with its card and its evaluation, after a check that it loads."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from shutterless.models.boxes.saved import load_boxes
from shutterless.models.families import load_model
from shutterless.workflows.registry.box_card import write_box_card
from shutterless.workflows.registry.history import PENDING, REGISTER, check_reason, new_entry, next_number, whoami
from shutterless.workflows.registry.model_card import CARD, gather_facts, read_evaluation, write_card
from shutterless.workflows.registry.promotion import CHAMPION, move, settle_history
from shutterless.workflows.registry.store import RegistryError, RegistryStore
from shutterless.workflows.tracking.logged_model import finds_boxes, has_signature
from shutterless.workflows.tracking.tracking import BUNDLED, Tracking, TrackingError, register_model, resolve_model


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    name: str
    version: str
    alias: str | None

    @property
    def reference(self) -> str:
        """Address of the version: by alias if it has one."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def register_version(
    tracking: Tracking,
    reference: str | Path,
    name: str,
    alias: str | None = None,
    *,
    evaluation: Path | None = None,
    trained_on: str = "",
    reason: str = "",
    ungated: bool = False,
) -> Registered:
    """Register a model with its card and evaluation, and give it an alias.

    Parameters
    ----------
    tracking : Tracking
    reference : str or path
        A model folder, run id, ``models:/…`` address or ``"bundled-transformer"``.
    name, alias : str
        Name in the registry, and alias of the new version, which the history records. The first champion of a name
        may be set here; later ones pass the gates of `promote`, if they are no detectors of boxes, which have none.
    evaluation : Path, optional
        Output of `evaluate_detectors` with this model among its detectors; its tables are attached to the version.
    trained_on : str
        Text for the card: the frames of the training, above all whether they were real.
    reason : str
        Written to the history if an alias is given.
    ungated : bool
        Let this version take `CHAMPION` from another without gates; the history records it. For a run that is repeated
        in its own registry.

    Raises
    ------
    TrackingError
        If there is no such model, or it has no weights to register.
    ModelError
        If it does not load, or brings pickles or code along.
    RegistryError
        If the alias is `CHAMPION` and another version has it.
    """
    check_reason(reason)
    folder = resolve_model(reference, tracking)
    if folder is None:
        raise TrackingError(
            f"{reference} has no weights and cannot be registered; it can be used by that name anywhere"
        )
    boxes = finds_boxes(folder)
    if boxes:
        load_boxes(folder)
        ungated = True
    else:
        load_model(folder)
    registry = RegistryStore(tracking, name)
    if alias == CHAMPION and not ungated:
        _check_no_champion(registry)
    judged = None if evaluation is None else read_evaluation(evaluation, str(reference), folder)
    whole = str(reference) not in BUNDLED and has_signature(folder)
    version = register_model(tracking, reference if whole or folder == Path(reference) else folder, name)
    if boxes:
        card = write_box_card(registry, version, folder, str(reference), trained_on)
    else:
        card = write_card(gather_facts(registry, version, folder, str(reference), judged, trained_on))
    with tempfile.TemporaryDirectory(prefix="shutterless-") as scratch:
        (Path(scratch) / CARD).write_text(card, encoding="utf-8")
        if judged is not None:
            judged.write(Path(scratch) / "evaluation" / "registered")
        registry.attach(version, Path(scratch), "")
    registry.describe(version, card)
    if alias:
        _give_alias(registry, alias, version, reason, ungated)
    return Registered(name, version, alias)


def _check_no_champion(registry: RegistryStore) -> None:
    if not registry.exists():
        return
    present = registry.read()[0].get(CHAMPION)
    if present is not None:
        raise RegistryError(
            f"{registry.name} has a {CHAMPION}, version {present}, and another must pass the gates: register without "
            f"--alias {CHAMPION}, then run `shutterless promote {registry.name} VERSION`"
        )


def _give_alias(registry: RegistryStore, alias: str, version: str, reason: str, ungated: bool) -> None:
    with registry.locked(whoami()) as lease:
        entries, aliases = settle_history(registry, alias)
        lease.check()
        old = aliases.get(alias)
        if alias == CHAMPION and old is not None and not ungated:
            _check_no_champion(registry)
        why = reason or "given at registration, without gates"
        move(registry, new_entry(next_number(entries), REGISTER, PENDING, alias, old, version, reason=why))

"""Put a model into the registry under a name, once it has been shown to load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shutterless.models.families import load_model
from shutterless.workflows.tracking import BUNDLED, Tracking, TrackingError, register_model, resolve_model


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    name: str
    version: str
    alias: str | None

    @property
    def reference(self) -> str:
        """How to ask for it: by alias where it has one."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def register(tracking: Tracking, reference: str | Path, name: str, alias: str | None = None) -> Registered:
    """Register a model and give it an alias.

    Parameters
    ----------
    reference : str or path
        A model folder, run id, ``models:/…`` address or ``"bundled"``.
    name, alias : str
        Name in the registry, and alias to point at the new version.

    Raises
    ------
    TrackingError
        If there is no such model, or it has no weights to register.
    ModelError
        If it does not load.
    """
    folder = resolve_model(reference, tracking)
    if folder is None:
        raise TrackingError(
            f"{reference} has no weights and cannot be registered; it can be used by that name anywhere"
        )
    load_model(folder)
    source = folder if str(reference) == BUNDLED else reference
    return Registered(name, register_model(tracking, source, name, alias), alias)

"""Read the policy of a registry: the gates of an alias, and the frozen frames on which every model is judged."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from shutterless.pipeline.settings import CountFrom0, NotNegative, Positive, Share, settings_class, validate_settings
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.frames.ingest import find_truth
from shutterless.workflows.registry.store import RegistryError
from shutterless.workflows.settings.settings import merge_tables, read_toml


@settings_class()
class ValidationSection:
    """The frozen frames and their hashes (empty: those of the last promotion)."""

    store: Path | None = None
    truth: Path | None = None
    manifest_hash: str = ""
    truth_sha256: str = ""


@settings_class()
class FloorsSection:
    """Least values."""

    completeness: Share
    live_hours: NotNegative
    strips_per_second: NotNegative


@settings_class()
class CeilingsSection:
    """Greatest values."""

    false_alarms_per_hour: Positive
    calibration_error: Share


@settings_class()
class ThresholdSection:
    """False alarms per amplifier-hour at which a model's own threshold is read."""

    false_alarms_per_hour: Positive


@settings_class()
class ChampionSection:
    """How far a challenger may be behind the champion, and how small the error of the difference must be."""

    standard_errors: NotNegative
    largest_standard_error: Positive
    bootstrap: Annotated[int, Field(ge=100)]
    seed: CountFrom0


@settings_class()
class Policy:
    """All sections of ``registry.toml``; the packaged file alone holds the default of every gate."""

    floors: FloorsSection
    ceilings: CeilingsSection
    threshold: ThresholdSection
    champion: ChampionSection
    validation: ValidationSection = ValidationSection()


def make_policy(changes: Mapping[str, Any], where: str) -> Policy:
    """Change values of the packaged policy; a `SettingsError` names ``where`` the changes come from."""
    packaged = resources.files("shutterless.workflows.settings.configs").joinpath("registry.toml")
    values = tomllib.loads(packaged.read_text(encoding="utf-8"))
    return validate_settings(Policy, merge_tables(values, changes), where)


def load_policy(path: Path | None = None) -> Policy:
    """Read the packaged policy with the changes of a file, if one is given; paths relative to it become absolute.

    Raises
    ------
    SettingsError
        If it cannot be read, or a key is misspelt or out of range.
    """
    if path is None:
        return make_policy({}, "registry.toml")
    policy = make_policy(read_toml(path), str(path))
    beside = path.resolve().parent
    found = {name: beside / where for name in ("store", "truth") if (where := getattr(policy.validation, name))}
    return replace(policy, validation=replace(policy.validation, **found))


@dataclass(frozen=True)
class FrozenFrames:
    """A validation store and its truth table, with the hashes of both."""

    store: Path
    truth: Path
    manifest_hash: str
    truth_sha256: str

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes that the history records."""
        return {"manifest_hash": self.manifest_hash, "truth_sha256": self.truth_sha256}


def open_frozen(policy: Policy, store: Path | None, truth: Path | None, recorded: dict[str, str]) -> FrozenFrames:
    """Find the frozen frames and check their hashes.

    Parameters
    ----------
    policy : Policy
    store, truth : Path or None
        From the command line; they take precedence over the policy's.
    recorded : dict of str
        Hashes of the last promotion, used where the policy gives none; may be empty.

    Raises
    ------
    RegistryError
        If no store is named, or a hash differs; the message shows both.
    """
    store = store or policy.validation.store
    if store is None:
        raise RegistryError(
            "no frozen validation frames: give --store STORE (and --truth), or name them under [validation] of a "
            "policy file and pass --policy FILE"
        )
    truth = truth or policy.validation.truth or find_truth(store)
    if not Path(truth).is_file():
        raise RegistryError(f"truth table {truth} does not exist; name it with --truth")
    frozen = FrozenFrames(Path(store), Path(truth), manifest_hash(read_manifest(store)), _hash_file(Path(truth)))
    for name, (what, where) in {"manifest_hash": ("store", store), "truth_sha256": ("truth table", truth)}.items():
        wanted = getattr(policy.validation, name) or recorded.get(name, "")
        found = getattr(frozen, name)
        if wanted and wanted != found:
            source = "the policy" if getattr(policy.validation, name) else "the last promotion"
            raise RegistryError(
                f"validation {what} {where} has {name} {found}, but {wanted} was frozen by {source}: judge on the "
                f"frozen {what}, or freeze this one by writing {name} = {found!r} under [validation] of the policy file"
            )
    return frozen


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

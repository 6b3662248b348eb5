"""Read the policy of a registry: the gates of an alias, and the frozen frames on which every model is judged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.frames.ingest import find_truth
from shutterless.workflows.registry.store import RegistryError
from shutterless.workflows.settings.settings import read_toml, validate_settings

_Positive = Annotated[float, Field(gt=0)]
_Strength = Annotated[float, Field(ge=0)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ValidationSection(_Section):
    """The frozen frames and their hashes (empty: those of the last promotion)."""

    store: Path | None = None
    truth: Path | None = None
    manifest_hash: str = ""
    truth_sha256: str = ""


class FloorsSection(_Section):
    """Least values."""

    completeness: _Fraction = 0.5
    live_hours: _Strength = 0.1
    strips_per_second: _Strength = 50.0


class CeilingsSection(_Section):
    """Greatest values."""

    false_alarms_per_hour: _Positive = 100.0
    calibration_error: _Fraction = 0.1


class ThresholdSection(_Section):
    """False alarms per amplifier-hour at which a model's own threshold is read."""

    false_alarms_per_hour: _Positive = 50.0


class ChampionSection(_Section):
    """How far a challenger may be behind the champion, and how small the error of the difference must be."""

    standard_errors: _Strength = 1.0
    largest_standard_error: _Positive = 0.03
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    seed: Annotated[int, Field(ge=0)] = 1


class Policy(_Section):
    """All sections of ``registry.toml``."""

    validation: ValidationSection = ValidationSection()
    floors: FloorsSection = FloorsSection()
    ceilings: CeilingsSection = CeilingsSection()
    threshold: ThresholdSection = ThresholdSection()
    champion: ChampionSection = ChampionSection()


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file, or the one of the package; paths relative to the file become absolute.

    Raises
    ------
    SettingsError
        If it cannot be read, or a key is misspelt or out of range.
    """
    if path is None:
        with resources.as_file(
            resources.files("shutterless.workflows.settings.configs").joinpath("registry.toml")
        ) as packaged:
            return validate_settings(Policy, read_toml(packaged), "registry.toml")
    policy = validate_settings(Policy, read_toml(path), str(path))
    beside = path.resolve().parent
    found = {name: beside / where for name in ("store", "truth") if (where := getattr(policy.validation, name))}
    return policy.model_copy(update={"validation": policy.validation.model_copy(update=found)})


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

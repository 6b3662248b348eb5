"""Read and change one name in MLflow's registry: versions, aliases, tags, attached files, and a lock for writers.

Every call works over HTTP and on a SQLite file. A tag can be overwritten but not compared and swapped, so two writers
never write the same one: each key ends in a random part.
"""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shutterless.workflows.tracking.tracking import Tracking, load_mlflow, quiet_mlflow

LOCK = "shutterless.lock."
LEASE_S = 30.0  # work under the lock takes tenths of a second; an older lock was left by a crash
LOCK_PATIENCE_S = 120.0
DESCRIPTION_LENGTH = 5000  # columns of MLflow's tables: description of a version, tag of a registered model
TAG_LENGTH = 5000

_LOGGED_MODEL = re.compile(r"models:/(m-[0-9a-f]+)")


class RegistryError(ValueError):
    """A name, version or alias that is not in the registry, or a change that cannot be made."""


@dataclass(frozen=True)
class Lease:
    """A held lock. Call `check` before every change that must not come late."""

    key: str
    started: float

    def check(self) -> None:
        """Raise once other processes may take this lock for abandoned."""
        held = time.monotonic() - self.started
        if held > LEASE_S / 2:
            raise RegistryError(
                f"the registry answered so slowly that its lock was held for {held:.0f} s of at most "
                f"{LEASE_S / 2:.0f}; nothing more was changed: see `shutterless history` and try again"
            )


@dataclass(frozen=True)
class RegistryStore:
    """A registered model by name in a tracking store.

    Parameters
    ----------
    tracking : Tracking
    name : str
    """

    tracking: Tracking
    name: str

    @cached_property
    def client(self) -> Any:
        """MLflow's client of this store."""
        return load_mlflow().MlflowClient(self.tracking.uri, self.tracking.uri)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn errors of the registry into `RegistryError`."""
        mlflow = load_mlflow()
        with quiet_mlflow():
            try:
                yield
            except mlflow.MlflowException as error:
                message = str(error).strip().partition("\n")[0]
                raise RegistryError(f"model {self.name!r} in {self.tracking.uri}: {message}") from error

    def read(self) -> tuple[dict[str, str], dict[str, str]]:
        """Aliases (each with its version) and tags at one moment.

        Raises
        ------
        RegistryError
            If there is no such name; the message lists the existing ones.
        """
        found = self._get()
        if found is None:
            with self._asking():
                known = sorted(model.name for model in self.client.search_registered_models(max_results=100))
            raise RegistryError(f"no model {self.name!r} in {self.tracking.uri}; there are {known}")
        return {alias: str(version) for alias, version in found.aliases.items()}, dict(found.tags)

    def exists(self) -> bool:
        """Whether anything is registered under this name."""
        return self._get() is not None

    def _get(self) -> Any | None:
        mlflow = load_mlflow()
        with self._asking():
            try:
                return self.client.get_registered_model(self.name)
            except mlflow.MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def run_of(self, version: str) -> Any | None:
        """MLflow's run that logged a version; None if it is gone."""
        mlflow = load_mlflow()
        run_id = self.versions().get(version)
        try:
            with quiet_mlflow():
                return self.client.get_run(run_id) if run_id else None
        except mlflow.MlflowException:
            return None

    def find_version(self, reference: str) -> str:
        """Version number of a version, an alias, a ``models:/…`` address or the run that logged it.

        Raises
        ------
        RegistryError
            If this name has no such version; the message lists its versions.
        """
        aliases, _ = self.read()
        text = reference.removeprefix(f"models:/{self.name}/").removeprefix(f"models:/{self.name}@")
        versions = self.versions()
        if text in versions or text in aliases:
            return aliases.get(text, text)
        of_run = [number for number, run_id in versions.items() if run_id and run_id == text]
        if of_run:
            return of_run[-1]
        raise RegistryError(
            f"{self.name} has no version {reference!r}: it has the versions {list(versions)} and the aliases "
            f"{aliases}; `shutterless register {reference} --name {self.name}` would add one"
        )

    def versions(self) -> dict[str, str]:
        """Numbers of all versions in ascending order, with the run that logged each."""
        with self._asking():
            token, found = None, []
            while True:
                page = self.client.search_model_versions(f"name = '{self.name}'", max_results=1000, page_token=token)
                found += [(int(version.version), version.run_id or "") for version in page]
                token = page.token
                if not token:
                    return {str(number): run_id for number, run_id in sorted(found)}

    def write_tag(self, key: str, value: str) -> None:
        """Write a tag of the registered model."""
        if len(value) > TAG_LENGTH:
            raise RegistryError(f"tag {key} of {self.name} would have {len(value)} characters of at most {TAG_LENGTH}")
        with self._asking():
            self.client.set_registered_model_tag(self.name, key, value)

    def delete_tag(self, key: str) -> None:
        """Delete a tag; an absent tag is no error."""
        with self._asking():
            self.client.delete_registered_model_tag(self.name, key)

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias at a version."""
        with self._asking():
            self.client.set_registered_model_alias(self.name, alias, version)

    def attach(self, version: str, folder: Path, path: str) -> None:
        """Copy the files of a folder to a path among a version's artifacts."""
        model_id = self._logged_model(version)
        with self._asking():
            self.client.log_model_artifacts(model_id, str(folder), path or None)

    def describe(self, version: str, text: str) -> None:
        """Set a version's description (Markdown), which MLflow's pages show."""
        with self._asking():
            self.client.update_model_version(self.name, version, text[:DESCRIPTION_LENGTH])

    def _logged_model(self, version: str) -> str:
        with self._asking():
            source = self.client.get_model_version(self.name, version).source or ""
        found = _LOGGED_MODEL.search(source)
        if found is None:
            raise RegistryError(
                f"version {version} of {self.name} was not logged as a model of its own (its source is {source!r}), so "
                "nothing can be attached to it; register it again with `shutterless register`"
            )
        return found[1]

    @contextmanager
    def locked(self, who: str) -> Iterator[Lease]:
        """Lock this name against other writers that use this lock, too.

        Parameters
        ----------
        who : str
            Shown to writers that time out.

        Raises
        ------
        RegistryError
            If others hold the lock for longer than `LOCK_PATIENCE_S`.

        Notes
        -----
        Each writer sets its own flag (a tag with a random key) and then reads all flags. A writer that finds another
        flag removes its own and tries again after a random pause. The second of two sees both flags, so at most one
        goes on.
        A flag older than `LEASE_S`, by the clock of the waiting writer, belongs to a crashed process and is removed.
        No key is used twice, so this cannot remove a fresh flag.
        """
        lease = self._acquire(who)
        try:
            yield lease
        finally:
            self.delete_tag(lease.key)

    def _acquire(self, who: str) -> Lease:
        self.read()  # the error for an unknown name lists the existing ones
        first_seen: dict[str, float] = {}
        begun = time.monotonic()
        while True:
            lease = Lease(f"{LOCK}{uuid.uuid4().hex}", time.monotonic())
            self.write_tag(lease.key, json.dumps({"who": who}))
            others = {key: value for key, value in self.read()[1].items() if key.startswith(LOCK) and key != lease.key}
            now = time.monotonic()
            first_seen = {key: first_seen.get(key, now) for key in others}
            if all(now - first >= LEASE_S for first in first_seen.values()):
                for key in others:
                    self.delete_tag(key)
                return lease
            self.delete_tag(lease.key)
            if now - begun > LOCK_PATIENCE_S:
                raise RegistryError(
                    f"{self.name} is being changed by others for {LOCK_PATIENCE_S:.0f} s: {others}; try again"
                )
            time.sleep(random.uniform(0.02, 0.2))

"""Keep a server's model up to date: a new version is loaded beside the old and replaces it, or is refused."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shutterless.pipeline.stored_files import read_json
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.registry.store import RegistryStore
from shutterless.workflows.serving.bodies import RequestError
from shutterless.workflows.serving.limits import Limits
from shutterless.workflows.serving.tasks import SearchOptions, name_detector
from shutterless.workflows.serving.worker import Scorer, Searcher, Worker, WorkerSetup, WorkerTeam
from shutterless.workflows.tracking.tracking import TEMPLATE_BANK, Tracking, model_type, resolve_model

_ALIAS = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>.+)")
_VERSION = re.compile(r"models:/[^/@]+/(?P<version>\d+)")
_LOAD_S = 600.0

log = logging.getLogger("shutterless.serve")


class ServeError(ValueError):
    """A model that cannot be served."""


@dataclass(frozen=True)
class Source:
    """Where the models of a server come from, and their options.

    Parameters
    ----------
    reference : str
        A model as for the commands. The server follows ``models:/NAME@ALIAS`` when the alias moves.
    tracking : Tracking or None
        Needed for models of a registry or a run.
    limits : Limits
        Searches are offered if it allows folders.
    options : SearchOptions
    n_searches : int
        Number of searches at the same time.
    """

    reference: str
    tracking: Tracking | None
    limits: Limits
    options: SearchOptions
    n_searches: int = 1

    @property
    def follows(self) -> bool:
        """Whether the model can change while it is served."""
        return _ALIAS.fullmatch(self.reference) is not None

    def find_address(self) -> str:
        """Address of the version that the reference names now."""
        found = _ALIAS.fullmatch(self.reference)
        if found is None:
            return self.reference
        assert self.tracking is not None, "an alias is looked up in a tracking store"
        aliases, _ = RegistryStore(self.tracking, found["name"]).read()
        if found["alias"] not in aliases:
            raise ServeError(
                f"{found['name']} has no alias {found['alias']!r}; it has {sorted(aliases)}: set it with "
                f"`shutterless register MODEL --name {found['name']} --alias {found['alias']}`"
            )
        return f"models:/{found['name']}/{aliases[found['alias']]}"

    def find_folder(self, address: str) -> Path | None:
        """Folder of the model at an address, downloaded if needed; None for the template bank."""
        return resolve_model(address, self.tracking)


class ServedModel:
    """One version of a model with its processes. They end once it is retired and no request needs it."""

    def __init__(self, source: Source, address: str, folder: Path | None) -> None:
        self.address = address
        self.about = _describe_model(source.reference, address, folder)
        setup = WorkerSetup(address, name_detector(address, folder), source.options, source.limits, self.about)
        self.scorer = None if folder is None else WorkerTeam([Worker(Scorer, setup)])
        n_searchers = source.n_searches if source.limits.allowed else 0
        self.searcher = WorkerTeam([Worker(Searcher, setup) for _ in range(n_searchers)]) if n_searchers else None
        self._lock = threading.Lock()
        self._n_users, self._retired = 0, False

    def start(self, timeout_s: float = _LOAD_S) -> None:
        """Wait until all of its processes are ready.

        Raises
        ------
        WorkerError
            If one does not start; the message gives the reason.
        """
        for worker in self._workers():
            worker.start(timeout_s)

    @contextmanager
    def in_use(self) -> Iterator[ServedModel]:
        """Keep its processes for as long as a request needs them."""
        with self._lock:
            self._n_users += 1
        try:
            yield self
        finally:
            with self._lock:
                self._n_users -= 1
            self._close_if_idle()

    def retire(self) -> None:
        """End its processes as soon as no request needs them."""
        self._retired = True
        self._close_if_idle()

    def close(self) -> None:
        """End its processes now."""
        for worker in self._workers():
            worker.close()

    def _close_if_idle(self) -> None:
        with self._lock:
            idle = self._retired and not self._n_users
        if idle:
            self.close()

    def _workers(self) -> list[Worker]:
        return [worker for team in (self.scorer, self.searcher) if team is not None for worker in team.workers]


class ModelKeeper:
    """The model in use, and the search for a newer one.

    Parameters
    ----------
    source : Source
    load : callable, optional
        Makes a `ServedModel` from a source, an address and a folder; set in tests.
    """

    def __init__(self, source: Source, load: Callable[[Source, str, Path | None], Any] = ServedModel) -> None:
        self.source = source
        self.problem: str | None = None
        self.checked: str | None = None
        self.since: str | None = None
        self._load = load
        self._current: Any = None
        self._loading: Any = None
        self._refused: str | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def current(self) -> Any:
        """The model in use, None until one is ready."""
        return self._current

    @contextmanager
    def lease(self) -> Iterator[Any]:
        """Keep the model in use for one request, even if another replaces it meanwhile.

        Raises
        ------
        RequestError
            If none is ready yet.
        """
        with ExitStack() as stack:
            with self._lock:
                if self._current is None:
                    raise RequestError("the model is still being loaded", 503, retry_after_s=5)
                model = stack.enter_context(self._current.in_use())
            yield model

    def start(self, address: str, folder: Path | None) -> None:
        """Load the first model.

        Raises
        ------
        ServeError
            If it cannot be used.
        """
        try:
            self._change(address, folder)
        except (OSError, ValueError) as error:
            raise ServeError(f"{address} cannot be served: {error}") from error

    def refresh(self) -> None:
        """Look where the alias points, and change to a new version; failures are logged and remembered."""
        self.checked = _utc_now()
        try:
            address = self.source.find_address()
        except Exception as error:  # an unreachable registry must not end the server
            self._note(f"the registry does not say which model {self.source.reference} is: {_one_line(error)}")
            return
        if address == self._current.address:
            self._refused = self.problem = None
        elif address != self._refused:
            self._try(address)

    def _try(self, address: str) -> None:
        old = self._current.address
        try:
            folder = self.source.find_folder(address)
        except Exception as error:  # it may succeed the next time
            self._note(f"{address} cannot be fetched, {old} goes on: {_one_line(error)}")
            return
        try:
            self._change(address, folder)
        except Exception as error:
            self._refused = address
            self._note(f"{address} is refused, {old} goes on: {_one_line(error)}")
            return
        self._refused = self.problem = None
        log.info("%s takes the place of %s", address, old)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
        for model in (self._loading, self._current):
            if model is not None:
                model.close()

    def _change(self, address: str, folder: Path | None) -> None:
        with self._lock:
            if self._closed:
                return
            self._loading = new = self._load(self.source, address, folder)
        try:
            new.start()
        except BaseException:
            new.close()
            raise
        finally:
            self._loading = None
        with self._lock:
            old, self._current, self.since = self._current, new, _utc_now()
        if old is not None:
            old.retire()

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem


def _describe_model(reference: str, address: str, folder: Path | None) -> dict[str, Any]:
    found = _VERSION.fullmatch(address)
    return {
        "reference": reference,
        "address": address,
        "version": found["version"] if found else None,
        "family": TEMPLATE_BANK if folder is None else model_type(folder),
        "grid": None if folder is None else _read_grid(folder),
        "package": version("shutterless"),
    }


def _read_grid(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    return asdict(TokenGrid(**(config.get("grid") or {})))


def _utc_now() -> str:
    """Present time, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Experiment tracking and the model registry. The only module that imports mlflow, and it does so when first used.

Only the driver logs, never a worker: a fresh SQLite store breaks when several processes set it up at once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

TRACKING_DATABASE = "mlflow.db"
TRACKING_ARTIFACTS = "mlartifacts"
LOADER_MODULE = "shutterless.workflows.pyfunc_loader"
MODEL_NAME = "model"
TEMPLATE_BANK = "template-bank"
BUNDLED = "bundled"

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_PARAMETER_LENGTH = 6000  # what MLflow keeps of one parameter
_BATCH = 1000  # what MLflow takes in one log_batch
_PINNED = ("shutterless", "torch", "transformers", "numpy", "pandas", "safetensors", "einops", "mlflow")


class TrackingError(ValueError):
    """A tracking store, run or model reference that cannot be used."""


@dataclass(frozen=True)
class Tracking:
    """An initialised tracking store: its address, and where experiments made in it keep their files."""

    uri: str
    artifacts: str | None


@dataclass
class Run:
    """One tracked run while it is open."""

    run_id: str
    _client: MlflowClient
    _waiting: list[Any] = field(default_factory=list)

    def log_params(self, params: Mapping[str, Any], prefix: str = "") -> None:
        """Log parameters; nested tables become dotted names, ``prefix`` is ``"arch."`` or ``"train."``."""
        from mlflow.entities import Param

        entries = [Param(name, _text(value)[:_PARAMETER_LENGTH]) for name, value in _flatten(params, prefix)]
        for start in range(0, len(entries), 100):  # the most that one batch takes
            self._client.log_batch(self.run_id, params=entries[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Keep metrics of one step; they are written in batches, 14 times faster than one by one."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, float(value), now, step) for name, value in metrics.items()]
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the metrics that wait."""
        for start in range(0, len(self._waiting), _BATCH):
            self._client.log_batch(self.run_id, metrics=self._waiting[start : start + _BATCH])
        self._waiting.clear()

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Log tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, _text(value)) for name, value in tags.items()])

    def log_data(self, *, manifest_hash: str, seed: int) -> None:
        """Log what the run was made from: the hash of the data's manifest and the seed."""
        self.log_params({"manifest_hash": manifest_hash, "seed": seed}, prefix="data.")

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a figure under ``figures/``."""
        self._client.log_figure(self.run_id, figure, f"figures/{name}")

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Log a table under ``tables/`` as CSV, which the tracking server's pages can show."""
        self._client.log_text(self.run_id, table.to_csv(index=False), f"tables/{name}.csv")

    def log_model(self, folder: str | Path, *, n_parameters: int | None = None) -> str:
        """Log a model folder (configuration and safetensors, no pickle) and return its ``models:/…`` address."""
        mlflow = _load_mlflow()
        if not (Path(folder) / "config.json").is_file():
            raise TrackingError(f"{folder} holds no model: config.json is missing")
        if n_parameters is not None:
            self.log_params({"n_parameters": n_parameters}, prefix="arch.")
        with _quiet_mlflow():
            info = mlflow.pyfunc.log_model(
                name=MODEL_NAME,
                loader_module=LOADER_MODULE,
                data_path=str(folder),
                pip_requirements=pinned_requirements(),
                metadata={"family": model_type(Path(folder))},
            )
        return info.model_uri


def default_tracking_uri(folder: str | Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else a SQLite store in a folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(folder).resolve() / TRACKING_DATABASE}"


def open_tracking(where: str | Path) -> Tracking:
    """Initialise a tracking store and make it the one in use.

    Parameters
    ----------
    where : path or URI
        An output folder (its own SQLite store, unless ``MLFLOW_TRACKING_URI`` names another) or a tracking URI.

    Raises
    ------
    TrackingError
        If the store cannot be opened or the server does not answer.
    """
    uri = where if isinstance(where, str) and "://" in where else default_tracking_uri(where)
    database = _sqlite_path(uri)
    mlflow = _load_mlflow()
    try:
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
        with _quiet_mlflow():
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            mlflow.MlflowClient().search_experiments(max_results=1)
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(f"tracking store {uri} cannot be opened: {_first_line(error)}") from error
    artifacts = None if database is None else (database.parent / TRACKING_ARTIFACTS).as_uri()
    return Tracking(uri, artifacts)


@contextmanager
def track_run(tracking: Tracking, experiment: str, name: str, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Open a run; it is marked failed if the block raises.

    Package version and git commit are logged as tags without being asked for.
    """
    mlflow = _load_mlflow()
    mlflow.set_tracking_uri(tracking.uri)
    experiment_id = _experiment_id(tracking, experiment)
    with _quiet_mlflow(), mlflow.start_run(experiment_id=experiment_id, run_name=name) as active:
        run = Run(active.info.run_id, mlflow.MlflowClient())
        run.log_tags({**provenance(), **(tags or {})})
        try:
            yield run
        finally:
            run.flush()


def fetch_runs(tracking: Tracking, experiment: str) -> pd.DataFrame:
    """One row per finished run of an experiment, newest first.

    Columns are ``run_id, name, start_time`` and ``metrics.*``, ``params.*``, ``tags.*`` (MLflow's own tags left out).

    Raises
    ------
    TrackingError
        If there is no such experiment; the message names those there are.
    """
    client = _load_mlflow().MlflowClient(tracking.uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = sorted(entry.name for entry in client.search_experiments())
        raise TrackingError(f"no experiment {experiment!r} in {tracking.uri}; there are {known}")
    rows, token = [], None
    while True:
        page = client.search_runs(
            [found.experiment_id], "attributes.status = 'FINISHED'", max_results=1000, page_token=token
        )
        rows += [_run_row(run) for run in page]
        token = page.token
        if not token:
            return pd.DataFrame(rows, columns=None if rows else ["run_id", "name", "start_time"])


def register_model(tracking: Tracking, source: str | Path, name: str, alias: str | None = None) -> str:
    """Add a model to the registry and return its version.

    Parameters
    ----------
    source : path or str
        A run id, a ``models:/…`` address, or a model folder (logged first, in a run of its own).
    name : str
        Name in the registry.
    alias : str, optional
        Alias to give to this version.
    """
    mlflow = _load_mlflow()
    address = _logged_address(tracking, str(source), name)
    client = mlflow.MlflowClient(tracking.uri, tracking.uri)
    with _quiet_mlflow():
        try:
            found = mlflow.register_model(address, name)
            if alias:
                client.set_registered_model_alias(name, alias, found.version)
        except mlflow.MlflowException as error:
            raise TrackingError(f"cannot register {source} as {name!r}: {_first_line(error)}") from error
    return str(found.version)


def resolve_model(reference: str | Path, tracking: Tracking | None = None) -> Path | None:
    """Find the folder of a model.

    Parameters
    ----------
    reference : str or path
        A folder, ``models:/name@alias`` (or ``/version``), a run id, ``"bundled"`` or ``"template-bank"``.
    tracking : Tracking, optional
        The store that knows aliases and runs; the one at ``MLFLOW_TRACKING_URI`` when left out.

    Returns
    -------
    Path or None
        None for the template bank, which has no weights.

    Raises
    ------
    TrackingError
        If the reference leads nowhere; the message says where it looked.
    """
    text = str(reference)
    if text == TEMPLATE_BANK:
        return None
    if text == BUNDLED:
        return _check_model_folder(bundled_folder(), "this installation bundles no model; train one, or name a folder")
    folder = Path(reference)
    if not text.startswith("models:/") and folder.is_dir():
        return _check_model_folder(folder, f"{folder} is not a model folder")
    if text.startswith("models:/") or _RUN_ID.fullmatch(text):
        return _download(text, tracking or open_tracking(default_tracking_uri(Path.cwd())))
    raise TrackingError(
        f"no model {text!r}: it is neither a folder, nor models:/NAME@ALIAS, a run id, {BUNDLED!r} or {TEMPLATE_BANK!r}"
    )


def bundled_folder() -> Path:
    """Folder of what ships with the package: the default model, and what was measured of the template bank."""
    return Path(str(resources.files("shutterless.models.weights")))


def pinned_requirements() -> list[str]:
    """Exact versions a saved model needs, without the local part (``+cpu``) that no index offers."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in _PINNED]


@cache
def provenance() -> dict[str, str]:
    """Package version, and the git commit where the code stands in a repository of its own."""
    found = {"shutterless.version": version("shutterless")}
    source = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return found
    if done.returncode == 0 and "site-packages" not in source.parts:
        found["git_commit"] = done.stdout.strip()
    return found


@cache
def _load_mlflow() -> Any:
    """Import mlflow with its usage reports off: nothing here speaks to a network that the user did not name."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own modules, while they load: type hints and deprecations, none of ours
        import mlflow
        import mlflow.pyfunc
    return mlflow


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Silence what MLflow says of its own housekeeping (table set-up, 'Successfully registered'), warnings kept."""
    loggers = {name: logging.getLogger(name) for name in ("mlflow", "mlflow.store.db.utils", "alembic")}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # SQLAlchemy 2.1 on a loader strategy inside MLflow's own store
            warnings.filterwarnings("ignore", message=r"The ``noload`` loader strategy is deprecated")
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


def _experiment_id(tracking: Tracking, name: str) -> str:
    client = _load_mlflow().MlflowClient(tracking.uri)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    return client.create_experiment(name, artifact_location=tracking.artifacts)


def _logged_address(tracking: Tracking, source: str, name: str) -> str:
    if source.startswith("models:/"):
        return source
    if _RUN_ID.fullmatch(source):
        return _address_of_run(source, tracking)
    if not Path(source).is_dir():
        raise TrackingError(f"no model {source!r}: it is neither a folder, nor models:/…, nor a run id")
    with track_run(tracking, "registered", name, tags={"source": str(Path(source).resolve())}) as run:
        return run.log_model(source)


def _address_of_run(run_id: str, tracking: Tracking) -> str:
    """Address of the model that a run logged last."""
    mlflow = _load_mlflow()
    client = mlflow.MlflowClient(tracking.uri)
    try:
        outputs = client.get_run(run_id).outputs
    except mlflow.MlflowException as error:
        raise TrackingError(f"no run {run_id} in {tracking.uri}") from error
    models = outputs.model_outputs if outputs else []
    if not models:
        raise TrackingError(f"run {run_id} in {tracking.uri} logged no model")
    return f"models:/{models[-1].model_id}"


def _download(reference: str, tracking: Tracking) -> Path:
    mlflow = _load_mlflow()
    mlflow.set_tracking_uri(tracking.uri)
    mlflow.set_registry_uri(tracking.uri)
    address = reference if reference.startswith("models:/") else _address_of_run(reference, tracking)
    try:
        with _quiet_mlflow():
            folder = Path(mlflow.artifacts.download_artifacts(address))
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(f"model {reference} is not in {tracking.uri}: {_first_line(error)}") from error
    found = sorted((folder / "data").glob("*/config.json"))
    if len(found) != 1:
        raise TrackingError(
            f"model {reference} in {tracking.uri} was not logged by shutterless: {folder} holds no data"
        )
    return found[0].parent


def _check_model_folder(folder: Path, problem: str) -> Path:
    if not (folder / "config.json").is_file():
        raise TrackingError(f"{problem}: {folder / 'config.json'} is missing")
    return folder


def _run_row(run: Any) -> dict[str, Any]:
    row = {"run_id": run.info.run_id, "name": run.info.run_name}
    row["start_time"] = pd.Timestamp(run.info.start_time, unit="ms", tz="UTC")
    row |= {f"metrics.{key}": value for key, value in run.data.metrics.items()}
    row |= {f"params.{key}": value for key, value in run.data.params.items()}
    return row | {f"tags.{key}": value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(urlparse(uri).path.removeprefix("/"))).resolve()


def _flatten(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def model_type(folder: Path) -> str:
    """Read the kind of a saved model, empty where its configuration does not say."""
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

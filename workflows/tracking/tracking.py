"""Experiment tracking and the model registry. The only module that imports mlflow, and it does so when first used.

Only the driver logs, never a worker. A fresh SQLite store is made under another name and put into place when it is
whole: one whose making was cut, or that several processes make at once, refuses every later run.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import pandas as pd

from shutterless.pipeline.files import hash_file, partial_path
from shutterless.pipeline.stored_files import read_json
from shutterless.workflows.tracking.logged_model import (
    LOADER_MODULE,
    example_input,
    model_metadata,
    model_signature,
    refuse_foreign_code,
)
from shutterless.workflows.tracking.server import brief_requests, explain_error, hide_password, set_request_limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

TRACKING_DATABASE = "mlflow.db"
TRACKING_ARTIFACTS = "mlartifacts"
MODEL_NAME = "model"
TEMPLATE_BANK = "template-bank"
# folders of the models that ship
BUNDLED = {"bundled": "combined", "bundled-forest": "combined/forest", "bundled-transformer": "transformer"}

_artifact_roots: dict[str, str] = {}  # by run id; a run's root never changes
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MODEL_LETTERS = re.compile(r"[^\w -]+")  # what MLflow refuses in the name of a model
WEIGHTS = "model.safetensors"
WEIGHTS_TAG = "model.hash"  # hash of the weights, on runs and on logged models
_DATASET_CONTEXT = "mlflow.data.context"
_DIGEST_LENGTH = 36  # characters that MLflow keeps of a digest
_PARAMETER_LENGTH = 6000  # characters that MLflow keeps of one parameter
_BATCH = 1000  # entries that MLflow takes in one log_batch
_PINNED = ("shutterless", "torch", "transformers", "numpy", "pandas", "safetensors", "einops", "mlflow")


class TrackingError(ValueError):
    """A tracking store, run or model reference that cannot be used."""


@dataclass(frozen=True)
class Tracking:
    """An initialised tracking store: its address, and where experiments made in it keep their files."""

    uri: str
    artifacts: str | None

    @property
    def shown(self) -> str:
        """The address without a password that it may hold."""
        return hide_password(self.uri)


@dataclass
class Run:
    """One tracked run while it is open."""

    run_id: str
    _client: MlflowClient
    _waiting: list[Any] = field(default_factory=list)
    _model_id: str | None = None

    def log_params(self, params: Mapping[str, Any], prefix: str = "") -> None:
        """Log parameters; nested tables become dotted names, ``prefix`` is ``"arch."`` or ``"train."``."""
        from mlflow.entities import Param

        entries = [Param(name, _text(value)[:_PARAMETER_LENGTH]) for name, value in _flatten(params, prefix)]
        for start in range(0, len(entries), 100):  # the most that one batch takes
            self._client.log_batch(self.run_id, params=entries[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, at: float | None = None) -> None:
        """Collect metrics of one step. They are written in batches, which is 14 times faster than one by one.

        ``at`` is when they were measured, in seconds since 1970; now when left out. After `link_model` they count as
        metrics of that model, too.
        """
        from mlflow.entities import Metric

        when = round(1000 * (time.time() if at is None else at))
        self._waiting += [
            Metric(name, float(value), when, step, model_id=self._model_id) for name, value in metrics.items()
        ]
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the collected metrics."""
        for start in range(0, len(self._waiting), _BATCH):
            self._client.log_batch(self.run_id, metrics=self._waiting[start : start + _BATCH])
        self._waiting.clear()

    def flush_or_wait(self) -> bool:
        """Write the collected metrics if the store answers at once; else they wait. Whether they were written."""
        import requests  # comes with mlflow

        try:
            with brief_requests():
                self.flush()
        except (load_mlflow().MlflowException, requests.RequestException):
            return False
        return True

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Log tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, _text(value)) for name, value in tags.items()])

    def log_data(self, *, manifest_hash: str, seed: int) -> None:
        """Log the hash of the data's manifest and the seed."""
        self.log_params({"manifest_hash": manifest_hash, "seed": seed}, prefix="data.")

    def log_dataset(self, store: str | Path, manifest: pd.DataFrame, digest: str, context: str) -> None:
        """Log a store as a dataset that the run read.

        Parameters
        ----------
        store : path
        manifest : DataFrame
            Its manifest, for the numbers of amplifiers and rows.
        digest : str
            Hash of the manifest.
        context : str
            What it was read for: "training", "validation" or "evaluation".
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        folder, files = Path(store).resolve(), int(manifest["file"].nunique())
        profile = {"amplifiers": len(manifest), "files": files, "rows": int(manifest["n_rows"].sum())}
        dataset = Dataset(
            folder.name, digest[:_DIGEST_LENGTH], "local", json.dumps({"uri": str(folder)}), profile=json.dumps(profile)
        )
        entry = DatasetInput(dataset=dataset, tags=[InputTag(_DATASET_CONTEXT, context)])
        self._client.log_inputs(self.run_id, datasets=[entry])

    def link_model(self, weights_hash: str) -> None:
        """Name the logged model with these weights as an input, with the run that trained it and its versions.

        Tags are ``training_run`` and ``registered_version``. Nothing happens if the store knows no such model.
        """
        from mlflow.entities import LoggedModelInput

        experiments = [entry.experiment_id for entry in self._client.search_experiments()]
        wanted = f"tags.`{WEIGHTS_TAG}` = '{weights_hash}'"
        found = self._client.search_logged_models(experiments, filter_string=wanted, max_results=1)
        if not found:
            return
        model = found[0]
        self._model_id = model.model_id
        self._client.log_inputs(self.run_id, models=[LoggedModelInput(model.model_id)])
        versions = self._client.search_model_versions(f"run_id = '{model.source_run_id}'")
        named = [f"models:/{version.name}/{version.version}" for version in versions]
        self.log_tags({"training_run": model.source_run_id, **({"registered_version": named[0]} if named else {})})

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a figure under ``figures/``."""
        self._client.log_figure(self.run_id, figure, f"figures/{name}")

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Log a table under ``tables/`` as CSV, which the tracking server's pages can show."""
        self._client.log_text(self.run_id, table.to_csv(index=False), f"tables/{name}.csv")

    def log_model(self, folder: str | Path, *, n_parameters: int | None = None) -> str:
        """Log a model folder (configuration and safetensors, no pickle) and return its ``models:/…`` address.

        The model is named like the folder, and has the hash of its weights as a tag.
        """
        mlflow, weights = load_mlflow(), Path(folder) / WEIGHTS
        if not (Path(folder) / "config.json").is_file():
            raise TrackingError(f"{folder} holds no model: config.json is missing")
        if n_parameters is not None:
            self.log_params({"n_parameters": n_parameters}, prefix="arch.")
        with quiet_mlflow():
            info = mlflow.pyfunc.log_model(
                name=_MODEL_LETTERS.sub("-", Path(folder).resolve().name) or MODEL_NAME,
                loader_module=LOADER_MODULE,
                data_path=str(folder),
                pip_requirements=pinned_requirements(),
                signature=model_signature(mlflow, folder),
                input_example=example_input(folder),
                metadata=model_metadata(folder),
            )
            if weights.is_file():
                self._client.set_logged_model_tags(info.model_id, {WEIGHTS_TAG: hash_file(weights).hexdigest()})
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
    mlflow = load_mlflow()
    from sqlalchemy.exc import SQLAlchemyError  # comes with mlflow

    try:
        with quiet_mlflow(), brief_requests():
            if database is not None and not database.exists():
                _make_database(database)
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            mlflow.MlflowClient().search_experiments(max_results=1)
    except (mlflow.MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        remedy = "; move it away if its making was cut" if isinstance(error, SQLAlchemyError) and database else ""
        reason = f"{explain_error(error)}{remedy}"
        raise TrackingError(f"tracking store {hide_password(uri)} cannot be opened: {reason}") from error
    artifacts = None if database is None else (database.parent / TRACKING_ARTIFACTS).as_uri()
    return Tracking(uri, artifacts)


def _make_database(database: Path) -> None:
    """Make an empty SQLite store, whole or not at all; one that another process made meanwhile stays."""
    database.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(database)
    try:
        load_mlflow().MlflowClient(f"sqlite:///{partial}").search_experiments(max_results=1)
        try:
            database.hardlink_to(partial)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            partial.replace(database)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def track_run(
    tracking: Tracking,
    experiment: str,
    name: str,
    tags: Mapping[str, str] | None = None,
    *,
    parent: str | None = None,
    run_id: str | None = None,
    remedy: str = "",
    system_metrics: bool = False,
    span: tuple[float, float] | None = None,
) -> Iterator[Run]:
    """Open a run; it is marked failed if the block raises.

    Package version and git commit are always logged as tags. With ``parent``, the id of an open run, the run is
    nested in that one. With ``run_id`` an earlier run is opened again. With ``system_metrics`` load, memory, disk and
    network are logged every ten seconds. ``span`` is when the work began and ended, in seconds since 1970, where it was
    done before by a worker.

    Raises
    ------
    TrackingError
        If the store fails, for example because its server is gone. The message ends with ``remedy``, the way out.
    """
    mlflow = _use(tracking)
    project = _project_run()
    what = f"run {name!r} was not logged, or not wholly, to {tracking.shown}"
    options: dict[str, Any] = {"run_id": run_id} if run_id else {"run_name": name}
    if parent:
        options |= {"nested": True, "parent_run_id": parent}
    with quiet_mlflow(), _store_errors(what, f"; {remedy}" if remedy else ""):
        experiment_id, client = _experiment_id(tracking, experiment), mlflow.MlflowClient()
        if span is not None:
            created = client.create_run(experiment_id, start_time=round(1000 * span[0]), run_name=name)
            options["run_id"] = created.info.run_id
        active = mlflow.start_run(experiment_id=experiment_id, log_system_metrics=system_metrics, **options)
        run = Run(active.info.run_id, client)
        try:
            run.log_tags({**provenance(), **project, **(tags or {})})
            yield run
            run.flush()
        except BaseException:
            _close_failed(run)
            raise
        mlflow.end_run()
        if span is not None:
            client.set_terminated(run.run_id, "FINISHED", end_time=round(1000 * span[1]))


def knows_run(tracking: Tracking, run_id: str | None) -> bool:
    """Whether a store has a run of this id that was not deleted."""
    mlflow = load_mlflow()
    try:
        found = mlflow.MlflowClient(tracking.uri).get_run(run_id or "none")
    except mlflow.MlflowException:
        return False
    return found.info.lifecycle_stage == "active"


def mark_killed(tracking: Tracking, run_id: str) -> None:
    """Mark a run whose process is gone as killed."""
    load_mlflow().MlflowClient(tracking.uri).set_terminated(run_id, "KILLED")


def fetch_runs(tracking: Tracking, *experiments: str, where: str = "") -> pd.DataFrame:
    """One row per finished run of one or several experiments, newest first.

    Columns are ``run_id, name, experiment, start_time`` and ``metrics.*``, ``params.*``, ``tags.*`` (MLflow's own tags
    left out).

    Parameters
    ----------
    tracking : Tracking
    *experiments : str
    where : str
        Only these runs, in MLflow's syntax: ``"metrics.completeness > 0.5 and params.arch.family = 'cnn'"``.

    Raises
    ------
    TrackingError
        If there is no such experiment (the message names the existing ones), or the filter cannot be read.
    """
    mlflow = load_mlflow()
    client = mlflow.MlflowClient(tracking.uri)
    names = {}
    for experiment in experiments:
        with _store_errors(f"experiment {experiment!r} in {tracking.shown} cannot be read"):
            found = client.get_experiment_by_name(experiment)
            known = sorted(entry.name for entry in client.search_experiments()) if found is None else []
        if found is None:
            raise TrackingError(f"no experiment {experiment!r} in {tracking.shown}; there are {known}")
        names[found.experiment_id] = experiment
    wanted = "attributes.status = 'FINISHED'" + (f" and {where}" if where else "")
    rows, token = [], None
    while True:
        try:
            page = client.search_runs(list(names), wanted, max_results=1000, page_token=token)
        except mlflow.MlflowException as error:
            raise TrackingError(f"runs cannot be filtered by {where!r}: {explain_error(error)}") from error
        rows += [{"experiment": names[run.info.experiment_id], **_run_row(run)} for run in page]
        _artifact_roots.update({run.info.run_id: run.info.artifact_uri for run in page})
        token = page.token
        if not token:
            break
    runs = pd.DataFrame(rows, columns=None if rows else ["run_id", "name", "experiment", "start_time"])
    return runs.sort_values("start_time", ascending=False, kind="stable", ignore_index=True)


def read_table(tracking: Tracking, run_id: str, name: str) -> pd.DataFrame | None:
    """A table that a run logged with `Run.log_table`, wherever the store keeps it; None where it logged none."""
    mlflow = load_mlflow()
    path = f"tables/{name}.csv"
    with tempfile.TemporaryDirectory() as folder:
        try:
            address = f"{_artifact_root(tracking, run_id)}/{path}"
            return pd.read_csv(
                mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=folder, tracking_uri=tracking.uri)
            )
        except (mlflow.MlflowException, OSError) as error:
            if _has_no_table(tracking, run_id, path):
                return None
            raise TrackingError(f"table {name} of run {run_id} cannot be read: {explain_error(error)}") from error


def _artifact_root(tracking: Tracking, run_id: str) -> str:
    """Address of a run's files. Asked by the run's id, MLflow would look it up four times for each file."""
    if run_id not in _artifact_roots:
        _artifact_roots[run_id] = load_mlflow().MlflowClient(tracking.uri).get_run(run_id).info.artifact_uri
    return _artifact_roots[run_id]


def _has_no_table(tracking: Tracking, run_id: str, path: str) -> bool:
    """Whether an existing run logged no such table. Called only after a read has failed, to save a request."""
    mlflow = load_mlflow()
    try:
        entries = mlflow.MlflowClient(tracking.uri).list_artifacts(run_id, "tables")
    except (mlflow.MlflowException, OSError):
        return False
    return all(entry.path != path for entry in entries)


def read_losses(tracking: Tracking, run_id: str) -> pd.DataFrame:
    """Logged losses of a training: ``step, split, loss``, a row for each logged step."""
    client = load_mlflow().MlflowClient(tracking.uri)
    rows = [
        (point.step, split, point.value)
        for split in ("train", "validation")
        for point in client.get_metric_history(run_id, f"{split}.loss")
    ]
    return pd.DataFrame(rows, columns=["step", "split", "loss"])


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
    mlflow = _use(tracking)
    address = _logged_address(tracking, str(source), name)
    client = mlflow.MlflowClient(tracking.uri, tracking.uri)
    with quiet_mlflow(), _store_errors(f"cannot register {source} as {name!r} in {tracking.shown}"):
        found = mlflow.register_model(address, name)
        if alias:
            client.set_registered_model_alias(name, alias, found.version)
    return str(found.version)


def resolve_model(reference: str | Path, tracking: Tracking | None = None) -> Path | None:
    """Find the folder of a model.

    Parameters
    ----------
    reference : str or path
        A folder, ``models:/name@alias`` (or ``/version``), a run id, ``"bundled"`` (the default:
        forest and networks), ``"bundled-forest"``, ``"bundled-transformer"`` or ``"template-bank"``.
    tracking : Tracking, optional
        The store with the aliases and runs; the one at ``MLFLOW_TRACKING_URI`` when left out.

    Returns
    -------
    Path or None
        None for the template bank, which has no weights.

    Raises
    ------
    TrackingError
        If nothing is found at the reference; the message names the places that were searched.
    """
    text = str(reference)
    if text == TEMPLATE_BANK:
        return None
    if text in BUNDLED:
        what = "this installation bundles no model; train one, or name a folder"
        return _check_model_folder(bundled_folder() / BUNDLED[text], what)
    folder = Path(reference)
    if not text.startswith("models:/") and folder.is_dir():
        return _check_model_folder(folder, f"{folder} is not a model folder")
    if text.startswith("models:/") or _RUN_ID.fullmatch(text):
        return _download(text, tracking or open_tracking(default_tracking_uri(Path.cwd())))
    raise TrackingError(
        f"no model {text!r}: it is neither a folder, nor models:/NAME@ALIAS, a run id, {', '.join(BUNDLED)} or "
        f"{TEMPLATE_BANK}"
    )


def bundled_folder() -> Path:
    """Folder of the files that ship with the package: a folder for each model, and the template bank's curve."""
    return Path(str(resources.files("shutterless.models.weights")))


def pinned_requirements() -> list[str]:
    """Exact versions that a saved model needs, without the local part (``+cpu``), which no index offers."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in _PINNED]


@cache
def provenance() -> dict[str, str]:
    """Package version, and the git commit if the code lies in its own repository."""
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
        found["mlflow.source.git.commit"] = found["git_commit"].removesuffix("-dirty")
    return found


def load_mlflow() -> Any:
    """Import mlflow with its usage reports off: nothing here contacts a host that the user did not name.

    MLflow reads its environment at every request, so it is set at every call: this process may have changed it.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    set_request_limits()
    return _import_mlflow()


def _use(tracking: Tracking) -> Any:
    """Import mlflow and select a store: some of its functions take no store, and another may be selected by now."""
    mlflow = load_mlflow()
    mlflow.set_tracking_uri(tracking.uri)
    mlflow.set_registry_uri(tracking.uri)
    return mlflow


@cache
def _import_mlflow() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # while MLflow's own modules load: their type hints and deprecations
        import mlflow
        import mlflow.pyfunc
    return mlflow


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Silence MLflow's messages on its own housekeeping (table set-up, 'Successfully registered'); keep warnings."""
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
    client = load_mlflow().MlflowClient(tracking.uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=tracking.artifacts)
        except load_mlflow().MlflowException:
            found = client.get_experiment_by_name(name)  # another client of the server has just made it
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment {name!r} in {tracking.shown} was deleted; `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}` brings it back"
        )
    return found.experiment_id


@cache
def _project_run() -> dict[str, str]:
    """Tag with the run of ``mlflow run``. Without it the first run here would be written into that one."""
    run_id = os.environ.pop("MLFLOW_RUN_ID", "")
    return {"project_run": run_id} if run_id else {}


@contextmanager
def _store_errors(what: str, remedy: str = "") -> Iterator[None]:
    """Turn errors of the tracking store into a `TrackingError` that names the step that failed."""
    import requests  # comes with mlflow

    try:
        yield
    except (load_mlflow().MlflowException, requests.RequestException) as error:
        raise TrackingError(f"{what}: {explain_error(error)}{remedy}") from error


def _close_failed(run: Run) -> None:
    """Write a failed run's collected metrics and mark it failed; do not wait again for a server that is gone."""
    import requests

    mlflow = load_mlflow()
    with brief_requests(), suppress(mlflow.MlflowException, requests.RequestException):
        try:
            run.flush()
        finally:
            mlflow.end_run("FAILED")


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
    mlflow = load_mlflow()
    client = mlflow.MlflowClient(tracking.uri)
    with _store_errors(f"no run {run_id} in {tracking.shown}"):
        outputs = client.get_run(run_id).outputs
    models = outputs.model_outputs if outputs else []
    if not models:
        raise TrackingError(f"run {run_id} in {tracking.shown} logged no model")
    return f"models:/{models[-1].model_id}"


def _download(reference: str, tracking: Tracking) -> Path:
    mlflow = _use(tracking)
    address = reference if reference.startswith("models:/") else _address_of_run(reference, tracking)
    into = None if tracking.artifacts else tempfile.mkdtemp(dir=_downloads())
    try:
        with quiet_mlflow():
            folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=into))
    except (mlflow.MlflowException, OSError) as error:
        raise TrackingError(f"model {reference} is not in {tracking.shown}: {explain_error(error)}") from error
    if (folder / "MLmodel").is_file():
        refuse_foreign_code(mlflow, folder)
    found = sorted((folder / "data").glob("*/config.json"))
    if len(found) != 1:
        raise TrackingError(
            f"model {reference} in {tracking.shown} was not logged by shutterless: {folder} holds no data"
        )
    return found[0].parent


@cache
def _downloads() -> Path:
    """Folder for models from a server; it is deleted when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="shutterless-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


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
    """Read the kind of a saved model, empty if its configuration has none."""
    return str(read_json(folder / "config.json").get("model_type", ""))

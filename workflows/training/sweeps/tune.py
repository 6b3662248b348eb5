"""Sweeps: search each family's hyperparameters with the same budget, and keep the best model of each.

    shutterless tune STORE --out runs/tune

Every family gets the same number of trials. Every trial gets at most the same number of passes over the same examples,
which are drawn once. The budget is counted in examples, not in seconds: the steps per second depend on the machine and
its load. A cap in seconds would choose another winner on another machine, could not be repeated by its seed, and would
favour the family that suits the hardware. Each trial's cost is recorded (``seconds``). A trial may be cut short, by
the same rule in every family; that saves time only, as a cut trial counts like any other.

The loss on the validation strips decides. The best of many trials looks better on validation than it is, so judge it
on held-out frames with `shutterless evaluate`; no sweep touches them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from shutterless.models.families import FAMILIES
from shutterless.pipeline.examples.training import TrainingSet
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.settings import plain_values
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.comparison.unseen import describe_frames
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import prepare_folder
from shutterless.workflows.searching.detect import RATES
from shutterless.workflows.settings.settings import Settings, TrainSettings, TuneSettings, resolved_toml
from shutterless.workflows.tracking.record import read_training
from shutterless.workflows.tracking.tracking import Tracking
from shutterless.workflows.training.follow import follow_training
from shutterless.workflows.training.sweeps.figures import draw_sweep
from shutterless.workflows.training.sweeps.result import TuneResult, join_tables
from shutterless.workflows.training.sweeps.search_space import SearchSpace, all_names, parse_space
from shutterless.workflows.training.sweeps.study import (
    COMPLETE,
    FamilyStudy,
    StudyPlan,
    TuneError,
    as_texts,
    load_optuna,
    open_study,
)
from shutterless.workflows.training.sweeps.tracking import TUNE_EXPERIMENT, FamilyTracker
from shutterless.workflows.training.sweeps.trials import fit_trial
from shutterless.workflows.training.train import draw_training_set, rate_model

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["TUNE_EXPERIMENT", "TuneError", "TuneResult", "tune_families"]
STUDIES, TRIALS, IMPORTANCE, FIGURE, CHOSEN = "study.db", "tune.parquet", "importance.parquet", "tune.png", "trial.json"
_LOCK = "tune.lock"


def tune_families(
    store: str | Path,
    *,
    settings: Settings,
    out: Path,
    tracking: Tracking | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> TuneResult:
    """Search the hyperparameters of every family of ``settings.tune``: the command ``shutterless tune``.

    A stopped sweep resumes when it is started again with the same settings; more ``trials`` make it longer. The
    interrupted trial is repeated.

    Parameters
    ----------
    store : path
        Taken to be event-free.
    settings : Settings
    out : Path
        For `STUDIES`, `TRIALS`, `IMPORTANCE`, `FIGURE`, and for each family a folder of its name with the best model,
        calibrated and with its false-alarm rates, as ``shutterless train`` writes it.
    tracking : Tracking, optional
        Log one run per family in the experiment `TUNE_EXPERIMENT`, and nested in it one run per trial. The best
        trial of a family has the tag ``best`` and holds the model.
    executor : Executor, optional
        Draws the examples; the models are trained in this process, one after the other.
    progress : Progress, optional

    Raises
    ------
    TuneError
        If Optuna is missing, ``out`` holds other files or another sweep, or no trial of a family could be used.
    SettingsError
        If the search space is invalid.
    """
    load_optuna()
    spaces = {str(family): search_space(family, settings.tune) for family in settings.tune.families}
    out = Path(out)
    with _claim_folder(out):
        sweep = _Sweep(Path(store), settings, spaces, out, tracking, executor, progress or Progress(quiet=True))
        sweep.check_studies()
        (out / "settings.toml").write_text(resolved_toml(settings), encoding="utf-8")
        found = [sweep.search_family(family) for family in spaces]
        trials = join_tables([table for table, _ in found], all_names(list(spaces.values())))
        importance = pd.concat([part for _, part in found], ignore_index=True)
        write_parquet(trials, out / TRIALS)
        write_parquet(importance, out / IMPORTANCE)
        draw_sweep(trials, importance).savefig(out / FIGURE, dpi=110)
    return TuneResult(out, trials, importance, sweep.name)


def search_space(family: str, settings: TuneSettings) -> SearchSpace:
    """Search space of one family. Its names are checked against the family's configuration."""
    config = FAMILIES[family].config_class
    kinds = {field.name: "list" in str(field.type) for field in fields(config)}
    known = {name: kinds[name] for name in config.arch_names()}
    return parse_space(settings.training, getattr(settings, family), family=family, known=known)


class _Sweep:
    """State that all trials of a sweep share."""

    def __init__(
        self,
        store: Path,
        settings: Settings,
        spaces: Mapping[str, SearchSpace],
        out: Path,
        tracking: Tracking | None,
        executor: Executor | None,
        progress: Progress,
    ) -> None:
        self.store, self.settings, self.spaces, self.out = store, settings, spaces, out
        self.tracking, self.executor, self.progress = tracking, executor, progress
        manifest = read_manifest(store)
        self.data_hash, self.trained_on = manifest_hash(manifest), describe_frames((store, manifest))
        shared = [self.data_hash, plain_values(settings.train), settings.tune.seed, settings.tune.epochs]
        digest = hashlib.sha256(json.dumps(shared).encode()).hexdigest()
        self.title = out.resolve().name
        self.name = f"{self.title}-{digest[:6]}"

    @cached_property
    def training_set(self) -> TrainingSet:
        """The examples of all trials, drawn for the first trial."""
        return draw_training_set(self.store, self.settings.train, executor=self.executor, progress=self.progress)

    def check_studies(self) -> None:
        """Refuse settings that differ from an earlier session's before hours are spent on the first family."""
        for family in self.spaces:
            with open_study(self._plan(family)):
                pass

    def search_family(self, family: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Run the remaining trials of one family; return its table and importances."""
        n_trials = self.settings.tune.trials
        with open_study(self._plan(family)) as study:
            tracker = FamilyTracker(self.tracking, self.name, self.title, study, data_hash=self.data_hash)
            self._tidy_up(study, tracker)
            if study.n_finished < n_trials or study.notes.get("closed") != study.n_finished:
                with tracker.family_run():
                    while study.n_finished < n_trials:
                        self._run_trial(study, tracker)
                    self._close(study, tracker)
                study.note("closed", study.n_finished)
            return study.table(), study.importance()

    def _plan(self, family: str) -> StudyPlan:
        """Settings that all trials of a study must share. Their number is not among them."""
        tune, space = self.settings.tune, self.spaces[family]
        shared = {f"train.{name}": value for name, value in plain_values(self._base(family)).items()}
        shared |= {f"tune.{name}": getattr(tune, name) for name in ("seed", "startup_trials", "warmup_epochs")}
        shared |= {f"tune.training.{name}": str(dimension) for name, dimension in space.train.items()}
        shared |= {f"tune.{family}.{name}": str(dimension) for name, dimension in space.arch.items()}
        recipe = as_texts({**shared, "manifest hash of the store": self.data_hash})
        return StudyPlan(self.out / STUDIES, family, tune.seed, tune.startup_trials, tune.warmup_epochs, recipe)

    def _base(self, family: str) -> TrainSettings:
        """Training settings for the hyperparameters that are not searched."""
        return replace(self.settings.train_for(family), epochs=self.settings.tune.epochs)

    def _tidy_up(self, study: FamilyStudy, tracker: FamilyTracker) -> None:
        """Clean up after a killed process: its running trial, the run of that trial, a model not yet moved."""
        for trial in study.drop_interrupted():
            self.progress.write_line(f"{tracker.family}: trial {trial.number} was interrupted and is repeated")
            tracker.mark_interrupted(trial)
        if study.n_finished:
            self.progress.write_line(f"{tracker.family}: {study.n_finished} trials are done already")
        self._keep_best(study)

    def _run_trial(self, study: FamilyStudy, tracker: FamilyTracker) -> None:
        family, trial = tracker.family, study.ask()
        chosen = self.spaces[family].suggest(trial)
        trial.set_user_attr("hyperparameters", chosen)
        base, folder = self._base(family), self._trial_folder(family, trial.number)
        architecture = {**base.architecture, **chosen["arch"]}
        settings = replace(base, **chosen["train"], architecture=architecture)
        with tracker.trial_run(trial) as run:
            with follow_training(run, self.progress, f"{family}: trial {trial.number}") as callbacks:
                outcome = fit_trial(
                    trial, family, self.training_set, settings, folder, data_hash=self.data_hash,
                    trained_on=self.trained_on, callbacks=callbacks,
                )  # fmt: skip
            if run is not None:
                tracker.record(run, outcome, chosen, folder)
        if outcome.state == COMPLETE:
            note = {"sweep": self.name, "trial": trial.number, "validation_loss": outcome.loss, **chosen}
            (folder / CHOSEN).write_text(json.dumps(note, indent=1))
        study.finish(trial, outcome.loss if outcome.state == COMPLETE else None, outcome.attributes())
        self._keep_best(study)
        self.progress.write_line(f"{family}: trial {study.n_finished} of {self.settings.tune.trials}: {outcome}")

    def _trial_folder(self, family: str, number: int) -> Path:
        return self.out / "trials" / f"{family}-{number}"

    def _keep_best(self, study: FamilyStudy) -> None:
        """Move the best trial's model to the family's folder and drop those of the others.

        The study is written first: if the process is killed in between, the next one moves the folder.
        """
        family, best = study.plan.family, study.best
        source = self._trial_folder(family, best.number) if best else None
        if source is not None and source.is_dir():
            shutil.rmtree(self.out / family, ignore_errors=True)
            source.rename(self.out / family)
        for folder in (self.out / "trials").glob(f"{family}-*"):
            shutil.rmtree(folder)

    def _close(self, study: FamilyStudy, tracker: FamilyTracker) -> None:
        """Count the best model's false alarms for searches, and tag its tracked run."""
        best = self._check_best(study)
        folder = self.out / tracker.family
        if not (folder / RATES).is_file():
            summary, _ = read_training(folder)
            base, progress = self._base(tracker.family), self.progress
            rate_model(self.store, folder, base, summary, executor=self.executor, progress=progress)
        tracker.mark_best(best, folder)

    def _check_best(self, study: FamilyStudy) -> FrozenTrial:
        """The best trial; its model must exist."""
        family, best = study.plan.family, study.best
        if best is None:
            reasons = study.table()["reason"].dropna()
            why = f": {reasons.iloc[0]}" if len(reasons) else ""
            raise TuneError(
                f"no trial of {family} was completed{why}. Change [tune.{family}] or [tune.training], and begin again "
                "with another --out"
            )
        if not (self.out / family / "config.json").is_file():
            raise TuneError(
                f"{self.out / family}, the model of trial {best.number}, is gone; begin again with another --out"
            )
        return best


@contextmanager
def _claim_folder(out: Path) -> Iterator[None]:
    """Lock the folder for this process: a trial that another process runs would be taken for interrupted."""
    if out.is_dir() and any(out.iterdir()) and not (out / _LOCK).is_file():
        raise TuneError(f"{out} is not empty and holds no sweep; choose another with --out")
    prepare_folder(out)
    with (out / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TuneError(f"another `shutterless tune` is at work in {out}; wait, or choose another --out") from None
        yield

"""Track a sweep: one run per family, with the runs of its trials nested in it. Without a store, do nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shutterless.workflows.tracking.record import record_training
from shutterless.workflows.tracking.tracking import Run, Tracking, knows_run, mark_killed, track_run
from shutterless.workflows.training.sweeps.study import COMPLETE, PRUNED, FamilyStudy
from shutterless.workflows.training.sweeps.trials import TrialOutcome

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

TUNE_EXPERIMENT = "tune"
_RUN_ID, _BEST_RUN = "run_id", "best_run"


class FamilyTracker:
    """Runs of one family's trials.

    Parameters
    ----------
    tracking : Tracking or None
        The store; None to log nothing.
    sweep : str
        Tag that all runs of the sweep share.
    title : str
        First part of the names of the runs.
    study : FamilyStudy
        Keeps the ids of the runs between sessions.
    data_hash : str
        Of the store's manifest.
    """

    def __init__(
        self, tracking: Tracking | None, sweep: str, title: str, study: FamilyStudy, *, data_hash: str
    ) -> None:
        self.tracking, self.study, self.data_hash = tracking, study, data_hash
        self.family = study.plan.family
        self._title = f"{title} {self.family}"
        self._tags = {"sweep": sweep, "family": self.family}
        self._parent: Run | None = None

    def mark_interrupted(self, trial: FrozenTrial) -> None:
        """Mark the run of an interrupted trial as killed."""
        run_id = trial.user_attrs.get(_RUN_ID)
        if self.tracking is not None and run_id and knows_run(self.tracking, run_id):
            mark_killed(self.tracking, run_id)

    @contextmanager
    def family_run(self) -> Iterator[None]:
        """Open the family's run, in which the trials' runs are nested; reopen that of an earlier session."""
        if self.tracking is None:
            yield
            return
        known = self.study.notes.get(_RUN_ID)
        run_id = known if knows_run(self.tracking, known) else None
        tags = {**self._tags, "role": "sweep"}
        with track_run(self.tracking, TUNE_EXPERIMENT, self._title, tags, run_id=run_id) as run:
            self.study.note(_RUN_ID, run.run_id)
            self._parent = run
            yield
        self._parent = None

    @contextmanager
    def trial_run(self, trial: Trial) -> Iterator[Run | None]:
        """Open the run of one trial."""
        if self._parent is None or self.tracking is None:
            yield None
            return
        tags = {**self._tags, "role": "trial", "trial": str(trial.number), "best": "false"}
        name, parent = f"{self._title} {trial.number}", self._parent.run_id
        with track_run(self.tracking, TUNE_EXPERIMENT, name, tags, parent=parent, system_metrics=True) as run:
            trial.set_user_attr(_RUN_ID, run.run_id)
            yield run

    def record(self, run: Run, outcome: TrialOutcome, chosen: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """Log the end of a trial: of a completed one as ``shutterless train`` does. Its steps were logged meanwhile."""
        run.log_tags({"state": outcome.state, **({"reason": outcome.reason} if outcome.reason else {})})
        run.log_metrics({"trial_seconds": outcome.seconds})
        if outcome.state == COMPLETE:
            record_training(run, folder, outcome.settings, live=True)
            run.log_metrics({"validation_loss": outcome.loss})
            return
        sizes = {"family": self.family, "n_parameters": outcome.n_parameters or 0}
        run.log_params({**sizes, **chosen["arch"]}, prefix="arch.")
        run.log_params({"epochs": outcome.settings.epochs, **chosen["train"]}, prefix="train.")
        run.log_data(manifest_hash=self.data_hash, seed=outcome.settings.seed)

    def mark_best(self, best: FrozenTrial, folder: Path) -> None:
        """Log the summary of all trials to the family's run, and the model to the best trial's run."""
        if self._parent is None or self.tracking is None:
            return
        table, run_id = self.study.table(), best.user_attrs.get(_RUN_ID)
        self._parent.log_tags({"best_trial": best.number, "best_run": run_id})
        self._parent.log_metrics(
            {
                "validation_loss": float(best.value or math.nan),
                "n_trials": self.study.n_finished,
                "n_cut_short": int((table["state"] == PRUNED).sum()),
                "trial_seconds": float(table["seconds"].sum()),
            }
        )
        former = self.study.notes.get(_BEST_RUN)
        if run_id is None or run_id == former or not knows_run(self.tracking, run_id):
            return
        if former is not None and knows_run(self.tracking, former):
            with self._reopen(former, "false"):
                pass
        with self._reopen(run_id, "true") as run:
            run.log_model(folder)
        self.study.note(_BEST_RUN, run_id)

    @contextmanager
    def _reopen(self, run_id: str, best: str) -> Iterator[Run]:
        assert self.tracking is not None
        assert self._parent is not None
        tags = {"best": best}
        with track_run(self.tracking, TUNE_EXPERIMENT, "", tags, parent=self._parent.run_id, run_id=run_id) as run:
            yield run

"""Keep the trials of one family of a sweep in an Optuna file: the next, those cut short, the best.

The only module that imports optuna, and it does so when first used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

COMPLETE, PRUNED, UNUSABLE, INTERRUPTED = "complete", "pruned", "unusable", "interrupted"
TRIAL_COLUMNS = (
    *("family", "trial", "state", "validation_loss", "best_epoch", "epochs", "n_parameters", "seconds"),
    *("reason", "run_id"),
)
N_FOR_IMPORTANCE = 8  # completed trials; fewer cannot show which of several hyperparameters matters
_RECIPE = "recipe"


class TuneError(ValueError):
    """A sweep that cannot start or resume."""


@dataclass(frozen=True)
class StudyPlan:
    """Definition of one study: the file of its trials, when they are cut short, and what they must share.

    Parameters
    ----------
    path : Path
        SQLite file of the sweep.
    family : str
        Name of the study in it.
    seed, startup_trials, warmup_epochs : int
    recipe : mapping
        Settings that must not change between sessions, as texts.
    """

    path: Path
    family: str
    seed: int
    startup_trials: int
    warmup_epochs: int
    recipe: Mapping[str, str]


class FamilyStudy:
    """Trials of one family; see `open_study`."""

    def __init__(self, study: Study, plan: StudyPlan) -> None:
        self._study = study
        self.plan = plan

    @property
    def n_finished(self) -> int:
        """Trials that count against the budget: all except those of a killed process."""
        return sum(_state_of(trial) != INTERRUPTED for trial in self._study.trials)

    def drop_interrupted(self) -> list[FrozenTrial]:
        """Mark trials that a killed process left running as failed, and return them; they are repeated."""
        optuna = load_optuna()
        left = [trial for trial in self._study.trials if trial.state == optuna.trial.TrialState.RUNNING]
        for trial in left:
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return left

    def ask(self) -> Trial:
        """Start the next trial.

        The sampler is seeded by the number of trials that count. So the repetition of an interrupted trial has the same
        hyperparameters, and a sweep that was killed ends like an undisturbed one.
        """
        optuna = load_optuna()
        text = f"{self.plan.seed}/{self.plan.family}/{self.n_finished}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        self._study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=self.plan.startup_trials, constant_liar=False
        )
        return self._study.ask()

    def finish(self, trial: Trial, value: float | None, attributes: Mapping[str, Any]) -> None:
        """End a trial with its loss, or without one if it was cut short or could not be used."""
        optuna = load_optuna()
        for name, content in attributes.items():
            trial.set_user_attr(name, content)
        if value is None:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, value)

    @property
    def best(self) -> FrozenTrial | None:
        """The completed trial with the smallest validation loss; the earliest of equal ones."""
        done = [trial for trial in self._study.trials if _state_of(trial) == COMPLETE]
        return min(done, key=lambda trial: (trial.value, trial.number), default=None)

    @property
    def notes(self) -> dict[str, Any]:
        """Notes on the whole study."""
        return self._study.user_attrs

    def note(self, name: str, content: Any) -> None:
        """Add a note on the whole study."""
        self._study.set_user_attr(name, content)

    def table(self) -> pd.DataFrame:
        """One row per trial: `TRIAL_COLUMNS` and the hyperparameters as ``train.*``, ``arch.*``."""
        rows = [_trial_row(self.plan.family, trial) for trial in self._study.trials]
        return pd.DataFrame(rows, columns=None if rows else list(TRIAL_COLUMNS))

    def importance(self) -> pd.DataFrame:
        """How much of the spread between good trials and the others each searched hyperparameter explains.

        Returns
        -------
        DataFrame
            ``family, hyperparameter, importance`` (sum 1), the largest first; empty below `N_FOR_IMPORTANCE` completed
            trials.

        Notes
        -----
        PED-ANOVA (Watanabe, Bansal & Hutter 2023, arXiv:2304.10255), Optuna's default.
        """
        found: dict[str, float] = {}
        if sum(_state_of(trial) == COMPLETE for trial in self._study.trials) >= N_FOR_IMPORTANCE:
            found = load_optuna().importance.get_param_importances(self._study)
        rows = [(self.plan.family, name, value) for name, value in found.items()]
        return pd.DataFrame(rows, columns=["family", "hyperparameter", "importance"])


@contextmanager
def open_study(plan: StudyPlan) -> Iterator[FamilyStudy]:
    """Open a family's study, new or from an earlier session.

    Raises
    ------
    TuneError
        If Optuna is not installed, or the study was started with other settings.
    """
    optuna = load_optuna()
    storage = optuna.storages.RDBStorage(f"sqlite:///{plan.path.resolve()}")
    pruner = optuna.pruners.MedianPruner(n_startup_trials=plan.startup_trials, n_warmup_steps=plan.warmup_epochs)
    try:
        study = optuna.create_study(
            storage=storage, study_name=plan.family, direction="minimize", pruner=pruner, load_if_exists=True
        )
        _check_recipe(study, plan)
        yield FamilyStudy(study, plan)
    finally:
        storage.remove_session()
        storage.engine.dispose()


@cache
def load_optuna() -> Any:
    """Import optuna, and keep it from reporting every trial."""
    try:
        import optuna
    except ImportError:
        raise TuneError('shutterless tune needs Optuna; install it with: pip install "shutterless[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _check_recipe(study: Study, plan: StudyPlan) -> None:
    """Refuse to mix trials of different settings in one study."""
    recipe = dict(plan.recipe)
    known = study.user_attrs.get(_RECIPE)
    if known is None:
        study.set_user_attr(_RECIPE, recipe)
        return
    for name in sorted(known | recipe):
        if known.get(name) != recipe.get(name):
            raise TuneError(
                f"the sweep in {plan.path.parent} was begun with {name} = {known.get(name)}, now it is "
                f"{recipe.get(name)}: its trials would not compare. Give the same settings again, or another --out"
            )


def _state_of(trial: FrozenTrial) -> str:
    if trial.state.name == "COMPLETE":
        return COMPLETE
    if trial.state.name == "PRUNED":
        return UNUSABLE if trial.user_attrs.get("unusable") else PRUNED
    return INTERRUPTED


def _trial_row(family: str, trial: FrozenTrial) -> dict[str, Any]:
    known = trial.user_attrs
    losses = {epoch: loss for epoch, loss in trial.intermediate_values.items() if math.isfinite(loss)}
    row = {
        "family": family,
        "trial": trial.number,
        "state": _state_of(trial),
        # the best loss so far of a trial that was cut short
        "validation_loss": trial.value if trial.value is not None else min(losses.values(), default=None),
        "best_epoch": min(losses, key=losses.__getitem__, default=None),
        "epochs": max(trial.intermediate_values, default=0),
        "n_parameters": known.get("n_parameters"),
        "seconds": known.get("seconds"),
        "reason": known.get("reason"),
        "run_id": known.get("run_id"),
    }
    chosen = known.get("hyperparameters", {})
    return row | {f"{group}.{name}": value for group, part in chosen.items() for name, value in part.items()}


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values of a recipe in a form that compares equal after a round trip through the file."""
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in values.items()}

"""Report the result of a sweep: all trials in one table, and the best of each family in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.workflows.training.sweeps.study import COMPLETE, PRUNED, UNUSABLE

_COUNTS = ("best_epoch", "epochs", "n_parameters")


@dataclass(frozen=True)
class TuneResult:
    """A finished sweep.

    Parameters
    ----------
    out : Path
    trials : DataFrame
        As `shutterless.workflows.training.sweeps.study.FamilyStudy.table`, all families.
    importance : DataFrame
        As its ``importance``, all families.
    sweep : str
        Tag of the tracked runs.
    """

    out: Path
    trials: pd.DataFrame
    importance: pd.DataFrame
    sweep: str

    @property
    def best(self) -> pd.DataFrame:
        """The best completed trial of each family, the best family first."""
        done = self.trials[self.trials["state"] == COMPLETE].sort_values(["validation_loss", "trial"], kind="stable")
        return done.drop_duplicates("family").reset_index(drop=True)

    def text(self) -> str:
        """Describe the result for a terminal."""
        titles = ("trials", "cut short", "best loss", "parameters", "trained in")
        lines = [f"{'family':<12} {' '.join(f'{title:>10}' for title in titles)}"]
        for row in self.best.itertuples():
            own = self.trials[self.trials["family"] == row.family]
            counts = own["state"].value_counts()
            n_trials = sum(counts.get(state, 0) for state in (COMPLETE, PRUNED, UNUSABLE))
            lines.append(
                f"{row.family:<12} {n_trials:>10} {counts.get(PRUNED, 0):>10} {row.validation_loss:>10.4f} "
                f"{int(row.n_parameters):>10,} {own['seconds'].sum():>8.0f} s"
            )
        return "\n".join([*lines, "", *(self._describe_best(row) for row in self.best.to_dict("records"))])

    def _describe_best(self, row: Mapping[str, Any]) -> str:
        chosen = {name: row[name] for name in row if name.startswith(("train.", "arch.")) and pd.notna(row[name])}
        values = ", ".join(f"{name} = {_format_value(value)}" for name, value in chosen.items())
        return f"{self.out / row['family']}: trial {row['trial']}, {values}"


def join_tables(tables: Sequence[pd.DataFrame], hyperparameters: Sequence[str]) -> pd.DataFrame:
    """Concatenate the tables of all families, with one column per hyperparameter; lists as JSON."""
    joined = pd.concat([table.astype(object) for table in tables], ignore_index=True)
    for name in hyperparameters:
        values = joined[name] if name in joined else pd.Series([None] * len(joined), dtype=object)
        joined[name] = [_cell(value) for value in values]
    first = [name for name in joined.columns if name not in hyperparameters]
    return joined[[*first, *hyperparameters]].infer_objects().astype(dict.fromkeys(_COUNTS, "Int64"))


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return json.dumps(value)
    return None if value is None or value != value else value


def _format_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""Measure how far each model is behind the best, with its error: paired by event if runs logged their events."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from shutterless.models.evaluation.paired_bootstrap import PairedBootstrapError, choose_blocks, paired_difference
from shutterless.workflows.comparison.counted_events import EVENT_KEYS
from shutterless.workflows.comparison.models import is_ascending
from shutterless.workflows.tracking.tracking import Tracking, read_table

PAIRED_METRIC = "completeness"
MAX_SEEDS = 20  # of one model whose tables are read
_SURELY_WORSE = 1.5  # unpaired errors
_INTERVAL_SIGMAS = 2 * 1.96  # of a 95 % interval
_BLOCK_WORDS = {"sequence": "sequences", "file": "files", "entry": "amplifiers"}


@dataclass(frozen=True)
class Gap:
    """How far a model is behind the best one.

    Parameters
    ----------
    model : str
    behind : float
        Positive where the model is worse, in units of the metric.
    standard_error : float
        NaN if it does not follow from what was logged.
    low, high : float
        95 % interval of ``behind`` from the paired bootstrap; NaN without it.
    n_events, n_blocks : int
        Numbers of paired events and of resampled blocks; 0 without pairing.
    how : str
        Source of the error, in words.
    """

    model: str
    behind: float
    standard_error: float
    low: float
    high: float
    n_events: int
    n_blocks: int
    how: str

    @property
    def paired(self) -> bool:
        """Whether the same events were compared."""
        return self.n_blocks > 0

    @property
    def within_one_error(self) -> bool:
        """Whether the model is not worse within one standard error; false if that is unknown."""
        return bool(self.behind <= self.standard_error)


@dataclass
class Pairing:
    """Compares models with the best of them; reads each model's events once.

    Parameters
    ----------
    source : Tracking or DataFrame
        Store with the events of the runs, or the events of all detectors
        (`shutterless.workflows.comparison.counted_events.list_events`).
    metric : str
    best : Series
        Row of the best model, as `shutterless.workflows.comparison.models.group_models` gives them.
    """

    source: Tracking | pd.DataFrame
    metric: str
    best: pd.Series
    _found: dict[str, pd.DataFrame | None] = field(default_factory=dict)

    def may_pass(self, other: pd.Series) -> bool:
        """Whether a model could be within one standard error, judged from its logged metrics without its events.

        Pairing makes an error smaller. So a model that is behind by clearly more than the unpaired error is not tried.
        """
        error = self._unpaired_error(other)
        return not self._behind(other) > _SURELY_WORSE * error

    def _behind(self, other: pd.Series) -> float:
        behind = float(self.best["mean"] - other["mean"])
        return -behind if is_ascending(self.metric) else behind

    def _unpaired_error(self, other: pd.Series) -> float:
        """Error from the two 95 % intervals and the scatter over seeds; NaN if neither is known."""
        widths = _interval_width(self.best, self.metric), _interval_width(other, self.metric)
        intervals = float(np.hypot(widths[0], widths[1])) / _INTERVAL_SIGMAS
        known = [error for error in (intervals, _error_over_seeds(self.best, other)) if np.isfinite(error)]
        return float(np.sqrt(np.sum(np.square(known)))) if known else float("nan")

    def compare(self, other: pd.Series) -> Gap:
        """Measure how far a model is behind the best.

        Notes
        -----
        The paired bootstrap gives the error from the choice of events. The scatter of the means over seeds, of models
        with several seeds, is added in quadrature. Without events the error comes from the two 95 % intervals, taken as
        independent. It is larger and favours the simpler model.
        """
        behind = self._behind(other)
        among_seeds = _error_over_seeds(self.best, other)
        if self.metric == PAIRED_METRIC:
            found = self._pair(other)
            if isinstance(found, Gap):
                error = float(np.hypot(found.standard_error, np.nan_to_num(among_seeds)))
                how = found.how + (", with the scatter over seeds" if among_seeds > 0 else "")
                return Gap(other["model"], found.behind, error, found.low, found.high, found.n_events,
                           found.n_blocks, how)  # fmt: skip
            if np.isfinite(_interval_width(self.best, self.metric) + _interval_width(other, self.metric)):
                error = self._unpaired_error(other)
                return _unpaired(other, behind, error, f"unpaired, from the two 95 % intervals: {found}")
        among_seeds = _error_over_seeds(self.best, other, all_known=True)
        if np.isfinite(among_seeds):
            return _unpaired(other, behind, among_seeds, f"scatter over {_count_seeds(self.best, other)} seeds")
        return _unpaired(other, behind, float("nan"), "one seed, and nothing logged that tells the error")

    def _pair(self, other: pd.Series) -> Gap | str:
        """The paired difference, or the reason why there is none."""
        tables = [self._events_of(row) for row in (self.best, other)]
        lacking = [row["model"] for row, table in zip((self.best, other), tables, strict=True) if table is None]
        if lacking:
            return f"no events were logged of {' and '.join(lacking)}"
        first, second = tables
        assert first is not None
        assert second is not None
        joined = first.join(second["found"].rename("other"), how="inner")
        if not len(joined) == len(first) == len(second):
            return f"{len(joined)} of {len(first)} and {len(second)} events are the same"
        blocks = choose_blocks(joined.reset_index())
        try:
            result = paired_difference(joined["found"].to_numpy(), joined["other"].to_numpy(), blocks.to_numpy())
        except PairedBootstrapError as error:
            return str(error)
        words = _BLOCK_WORDS[str(blocks.name)]
        how = f"paired bootstrap over {result.n_blocks} {words}, the same {len(joined)} events"
        return Gap(other["model"], result.difference, result.standard_error, result.low, result.high,
                   len(joined), result.n_blocks, how)  # fmt: skip

    def _events_of(self, row: pd.Series) -> pd.DataFrame | None:
        if row["key"] not in self._found:
            self._found[row["key"]] = _find_events(self.source, row)
        return self._found[row["key"]]


def _find_events(source: Tracking | pd.DataFrame, row: pd.Series) -> pd.DataFrame | None:
    """Fraction of a model's seeds that found each event; None if its events are not known.

    Returns
    -------
    DataFrame or None
        ``found`` and the labels of blocks, indexed by entry and event.
    """
    if isinstance(source, pd.DataFrame):
        tables = [own] if len(own := source[source["detector"] == row["model"]]) else []
    else:
        read = (read_table(source, run_id, "events") for run_id in row["run_ids"][:MAX_SEEDS])
        tables = [table for table in read if table is not None]
    if not tables:
        return None
    events = pd.concat(tables).astype({"event_id": str})
    labels = [name for name in ("sequence", "file") if name in events]
    by_event = events.groupby(list(EVENT_KEYS), sort=True)
    return by_event[labels].first().assign(found=by_event["found"].mean())


def _unpaired(other: pd.Series, behind: float, error: float, how: str) -> Gap:
    return Gap(other["model"], behind, error, float("nan"), float("nan"), 0, 0, how)


def _error_over_seeds(first: pd.Series, second: pd.Series, *, all_known: bool = False) -> float:
    """Standard error of the difference of two means over seeds, from models with several seeds; NaN if there is none.

    With ``all_known`` it is NaN, too, if one of the two has a single seed.
    """
    trained = [row for row in (first, second) if row["n_parameters"] != 0]
    variances = [row["spread"] ** 2 / row["n_seeds"] for row in trained if row["n_seeds"] > 1]
    if not variances or (all_known and len(variances) < len(trained)):
        return float("nan")
    return float(np.sqrt(np.sum(variances)))


def _count_seeds(first: pd.Series, second: pd.Series) -> str:
    return " and ".join(str(row["n_seeds"]) for row in (first, second))


def _interval_width(row: pd.Series, metric: str) -> float:
    return float(row.get(f"metrics.{metric}_high", np.nan) - row.get(f"metrics.{metric}_low", np.nan))

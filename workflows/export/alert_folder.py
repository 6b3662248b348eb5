"""Write alerts of a search that goes on, each once: `shutterless watch --alerts DIR`.

Candidates of one event may change their name while files arrive: at the border of two files its peak is found again
when the second one comes. So an alert is of a cause, and ``alerts.parquet`` in the folder of the search keeps the
candidates of which alerts were written, as they were then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import cluster_detections
from shutterless.pipeline.files import remove_partials, write_parquet
from shutterless.pipeline.results.candidates import empty_candidates
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.export.alerts import SUFFIX, alert_path, alerted_candidates, write_alerts
from shutterless.workflows.export.cut_outs import cut_all
from shutterless.workflows.export.errors import require
from shutterless.workflows.searching.search import SearchJob

JOURNAL = "alerts.parquet"


@dataclass(frozen=True)
class AlertFolder:
    """Folder in which the alerts of a search appear.

    Parameters
    ----------
    folder : Path
        Programs may take files away from here.
    job : SearchJob
    executor : Executor
        Cuts the strips.
    """

    folder: Path
    job: SearchJob
    executor: Executor

    def __post_init__(self) -> None:
        require("fastavro", "alert packets")  # before a night is watched
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partials(self.folder)

    def update(self, candidates: pd.DataFrame) -> int:
        """Write an alert for every cause among the candidates of a search that has none, and return their number.

        Notes
        -----
        The alerts of an amplifier are written first and then recorded. If the process ends in between, the alerts that
        still are in the folder are recorded by the next call.
        """
        done = self._written()
        new = new_causes(candidates, done)
        for cut in cut_all(new, self.job.instrument, self.job.supplied, self.executor):
            write_alerts([cut], candidates, self.folder)
            done = pd.concat([done, cut.candidates], ignore_index=True)
            write_parquet(done, self.job.out / JOURNAL)
        return len(new)

    def _written(self) -> pd.DataFrame:
        """Candidates of all alerts: those recorded, and those in the folder that were not recorded any more."""
        journal = self.job.out / JOURNAL
        recorded = pd.read_parquet(journal) if journal.is_file() else empty_candidates()
        known = {alert_path(self.folder, name) for name in recorded["candidate_id"]}
        others = sorted(path for path in self.folder.glob(f"*{SUFFIX}") if path not in known)
        return pd.concat([recorded, alerted_candidates(others)], ignore_index=True) if others else recorded


def new_causes(candidates: pd.DataFrame, done: pd.DataFrame) -> pd.DataFrame:
    """Candidates of causes without an alert, the first one of each.

    Parameters
    ----------
    candidates, done : DataFrame
        Candidates of a search, the surest first, and those of earlier alerts.

    Notes
    -----
    Candidates of an amplifier at most 3 px apart whose rows overlap within their length are of one cause, as in
    `shutterless.models.evaluation.metrics.cluster_detections`. Rows of several files are compared by the time at which
    they were read; where no UTC is known, within a file alone.
    """
    both = pd.concat([done, candidates], ignore_index=True)
    cause = cluster_detections(_on_one_clock(both))
    old, own = cause[: len(done)], cause[len(done) :]
    is_new = ~np.isin(own, old) & ~pd.Series(own).duplicated().to_numpy()
    return candidates[is_new]


def _on_one_clock(candidates: pd.DataFrame) -> pd.DataFrame:
    """Candidates with the columns of detections, rows counted from one moment in all files of an amplifier."""
    n_rows = candidates["row_stop"] - candidates["row_start"] + 1
    timed = candidates["time_read"].notna() & candidates["quadrant"].notna()
    seconds = (candidates["time_read"] - pd.Timestamp("2000-01-01", tz="UTC")).dt.total_seconds()
    shift = np.where(timed, seconds * n_rows / candidates["duration_s"] - candidates["row_peak"], 0.0)
    ccd, quadrant = (candidates[name].astype("string").fillna("") for name in ("ccd", "quadrant"))
    amplifier = ccd + "/" + quadrant
    return pd.DataFrame(
        {
            "entry": np.where(timed, amplifier, candidates["path"].fillna("") + "/" + amplifier),
            "x": candidates["x"],
            "y": candidates["y"].astype("float64").fillna(0.0),
            "row_start": candidates["row_start"] + shift,
            "row_stop": candidates["row_stop"] + shift,
            "width_rows": n_rows,
        }
    )

"""Tabulate the counted events, one row for each detector and event. Comparisons pair runs by them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from shutterless.pipeline.store.store import manifest_hash

LIGHT_COLUMNS = ("duration_s", "sign", "flux_e_s")  # how long, and electrons per second at the peak
EVENT_COLUMNS = (
    *("detector", "event_id", "kind", "rho", "sequence", "file", "entry", "score", "found"),
    *LIGHT_COLUMNS,
)
ALARM_COLUMNS = ("detector", "entry", "score", *LIGHT_COLUMNS)
EVENT_KEYS = ("entry", "event_id")  # two rows with equal keys are the same event


def list_events(
    events: Mapping[str, pd.DataFrame], found: Mapping[str, np.ndarray], manifest: pd.DataFrame
) -> pd.DataFrame:
    """Rows of the counted events of every detector.

    Parameters
    ----------
    events : mapping of str to DataFrame
        `shutterless.models.evaluation.metrics.event_scores` of each detector.
    found : mapping of str to ndarray of bool
        Whether each of these events is above the detector's threshold.
    manifest : DataFrame
        Of the store, with the sequence and the row rate of each entry.

    Returns
    -------
    DataFrame
        `EVENT_COLUMNS`; blocks of equal ``sequence``, ``file`` or ``entry`` can be resampled. An event of a truth
        table without ``event_id`` is numbered, and what it does not say of `LIGHT_COLUMNS` is missing.
    """
    entries = manifest.set_index("entry")
    tables = []
    for detector, own in events.items():
        if "event_id" not in own:
            own = own.assign(event_id=np.arange(len(own)).astype(str))
        missing = pd.Series(np.nan, index=own.index)
        tables.append(
            own.assign(
                detector=detector,
                sequence=own["entry"].map(entries["sequence"]),
                found=found[detector],
                duration_s=own.get("duration_s", missing),
                sign=own.get("sign", missing),
                flux_e_s=own.get("amplitude_e", missing) * own["entry"].map(entries["row_rate_hz"]),
            )
        )
    return pd.concat(tables, ignore_index=True)[list(EVENT_COLUMNS)]


def list_alarm_rows(detector: str, alarms: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows of the counted false alarms of a detector.

    Parameters
    ----------
    detector : str
    alarms : DataFrame
        The best detection of each alarm, with ``entry``, ``score``, ``row_start``, ``row_stop``, ``snr`` and
        ``amplitude_e``.
    manifest : DataFrame
        Of the store, with the row rate of each entry.

    Returns
    -------
    DataFrame
        `ALARM_COLUMNS`.
    """
    rate = alarms["entry"].map(manifest.set_index("entry")["row_rate_hz"]).astype("float64")
    return alarms.assign(
        detector=detector,
        duration_s=(alarms["row_stop"] - alarms["row_start"] + 1) / rate,
        sign=np.sign(alarms["snr"]),
        flux_e_s=alarms["amplitude_e"] * rate,
    )[list(ALARM_COLUMNS)]


def hash_events(manifest: pd.DataFrame, events: pd.DataFrame) -> str:
    """Hash of a store and of the events counted in it; it does not depend on the detectors."""
    names = ["entry", "event_id", "kind", "rho"]
    rows = events[names].drop_duplicates().sort_values(names).to_csv(index=False, float_format="%.6g")
    return hashlib.blake2b(f"{manifest_hash(manifest)}\n{rows}".encode(), digest_size=16).hexdigest()

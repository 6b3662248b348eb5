"""Label the triggers of an amplifier by a truth table or by injected events: what a forest learns from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.context.features import measure_context
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.detection.triggers import LEAST_SHARE, find_triggers
from shutterless.pipeline.events.kinds import NOISE
from shutterless.pipeline.injection.amplifiers import InjectionSettings, inject_events

PLACE_COLUMNS = ("x", "y", "row_start", "row_stop", "width_rows", "snr")  # for counting; no model sees them
# events injected at once: so few that the triggers of one seldom stand in the context of another
INJECTED_PER_1000_ROWS = 2.0


def label_triggers(amplifier: Amplifier, truth: pd.DataFrame, threshold: float = TRIGGER_THRESHOLD) -> pd.DataFrame:
    """Find the triggers of an amplifier, measure their context, and name the event that each matches.

    Parameters
    ----------
    amplifier : Amplifier
    truth : DataFrame
        Events and artefacts of this amplifier: ``kind``, ``is_event``, ``x``, ``row_start``, ``row_stop``, ``rho``.
    threshold : float

    Returns
    -------
    DataFrame
        `shutterless.pipeline.context.features.CONTEXT_FEATURES`, ``kind`` (of the event, else of the artefact, else
        noise), ``rho`` (NaN without an event), and `PLACE_COLUMNS`.
    """
    triggers = find_triggers(amplifier, threshold, least_share=LEAST_SHARE)
    is_event = truth["is_event"].to_numpy(dtype=bool)
    kind, rho = np.full(len(triggers), NOISE, dtype=object), np.full(len(triggers), np.nan)
    for part in (truth[~is_event], truth[is_event]):
        if part.empty:
            continue
        matched = match_truth(triggers, part)
        kind[matched >= 0] = part["kind"].to_numpy(dtype=object)[matched[matched >= 0]]
        if part["is_event"].iloc[0]:
            rho[matched >= 0] = part["rho"].to_numpy(np.float64)[matched[matched >= 0]]
    table = measure_context(amplifier, triggers).assign(kind=kind, rho=rho)
    return pd.concat([table, triggers[list(PLACE_COLUMNS)]], axis=1)


def inject_and_label(
    amplifier: Amplifier, rng: np.random.Generator, settings: InjectionSettings, threshold: float = TRIGGER_THRESHOLD
) -> pd.DataFrame:
    """Inject events into an amplifier that is taken to hold none, and label its triggers as `label_triggers` does."""
    n_events = max(round(INJECTED_PER_1000_ROWS * amplifier.n_rows / 1000), 1)
    injected, truth = inject_events(amplifier, rng, settings, n_events)
    return label_triggers(injected, truth, threshold)

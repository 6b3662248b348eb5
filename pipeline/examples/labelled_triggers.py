"""Label the triggers of an amplifier by a truth table or by injected events: what forests and networks learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.compiled.half_floats import clip_to_half
from shutterless.pipeline.context.features import CONTEXT_FEATURES, measure_context
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.detection.triggers import LEAST_SHARE, find_triggers
from shutterless.pipeline.events.kinds import EVENT_KINDS, KINDS, NOISE
from shutterless.pipeline.examples.strips import choose_bins, cut_strips, strip_first_rows
from shutterless.pipeline.examples.training import Labels, TrainingSet
from shutterless.pipeline.injection.amplifiers import InjectionSettings, inject_events
from shutterless.pipeline.tokens import StripBatch, TokenGrid

PLACE_COLUMNS = ("x", "y", "row_start", "row_stop", "width_rows", "snr", "trail_id")  # for counting; no model sees them
# events injected at once: so few that the triggers of one seldom stand in the context of another
INJECTED_PER_1000_ROWS = 2.0


@dataclass(frozen=True)
class LabelledTriggers:
    """Triggers of amplifiers, and what they are.

    Parameters
    ----------
    table : DataFrame
        `shutterless.pipeline.context.features.CONTEXT_FEATURES`, ``kind`` (of the event, else of the artefact, else
        noise), ``rho``, ``onset_row`` and ``duration_rows`` (NaN without an event), and `PLACE_COLUMNS`.
    strips : StripBatch or None
        Of the triggers, patches as float16; None if no grid was given.
    """

    table: pd.DataFrame
    strips: StripBatch | None

    def training_set(self, groups: np.ndarray, grid: TokenGrid) -> TrainingSet:
        """Examples for networks that see strips and context.

        Parameters
        ----------
        groups : ndarray, shape (n,)
            Number of the field of each trigger.
        grid : TokenGrid
            With which the strips were cut.
        """
        assert self.strips is not None, "labelled without a grid"
        table = self.table
        bins = choose_bins(table["width_rows"].to_numpy(), grid)
        onset = (table["onset_row"].to_numpy(np.float64) - strip_first_rows(table, bins, grid)) / (bins * grid.n_rows)
        kind = table["kind"].to_numpy(dtype=object)
        labels = Labels(
            is_event=np.isin(kind, EVENT_KINDS).astype(np.float32),
            kind=np.array([KINDS.index(name) for name in kind], dtype=np.int64),
            onset=np.clip(onset, 0, 1).astype(np.float32),
            log2_duration=np.log2(table["duration_rows"].to_numpy(np.float64)).astype(np.float32),
            rho=table["rho"].to_numpy(np.float32),
        )
        numbers = table[list(CONTEXT_FEATURES)].to_numpy(np.float32)
        return TrainingSet(self.strips, labels, np.asarray(groups), grid, numbers)


def label_triggers(
    amplifier: Amplifier, truth: pd.DataFrame, threshold: float = TRIGGER_THRESHOLD, grid: TokenGrid | None = None
) -> LabelledTriggers:
    """Find the triggers of an amplifier, measure their context, and name the event that each matches.

    Parameters
    ----------
    amplifier : Amplifier
    truth : DataFrame
        Events and artefacts of this amplifier: ``kind``, ``is_event``, ``x``, ``row_start``, ``row_stop``, ``rho``.
    threshold : float
    grid : TokenGrid, optional
        Of the strips, if they are wanted.
    """
    triggers = find_triggers(amplifier, threshold, least_share=LEAST_SHARE)
    is_event = truth["is_event"].to_numpy(dtype=bool)
    kind = np.full(len(triggers), NOISE, dtype=object)
    numbers = {name: np.full(len(triggers), np.nan) for name in ("rho", "onset_row", "duration_rows")}
    for part in (truth[~is_event], truth[is_event]):
        if part.empty:
            continue
        matched = match_truth(triggers, part)
        found = matched >= 0
        own = part.iloc[matched[found]]
        kind[found] = own["kind"].to_numpy(dtype=object)
        if own["is_event"].any():
            first, last = (own[name].to_numpy(np.float64) for name in ("row_start", "row_stop"))
            numbers["rho"][found] = own["rho"].to_numpy(np.float64)
            numbers["onset_row"][found], numbers["duration_rows"][found] = first, last - first + 1
    table = measure_context(amplifier, triggers).assign(kind=kind, **numbers)
    strips = None
    if grid is not None:
        strips = cut_strips(amplifier, triggers, grid)
        strips = replace(strips, patches=clip_to_half(strips.patches))
    return LabelledTriggers(pd.concat([table, triggers[list(PLACE_COLUMNS)]], axis=1), strips)


def inject_and_label(
    amplifier: Amplifier,
    rng: np.random.Generator,
    settings: InjectionSettings,
    threshold: float = TRIGGER_THRESHOLD,
    grid: TokenGrid | None = None,
) -> LabelledTriggers:
    """Inject events into an amplifier that is taken to hold none, and label its triggers as `label_triggers` does."""
    n_events = max(round(INJECTED_PER_1000_ROWS * amplifier.n_rows / 1000), 1)
    injected, truth = inject_events(amplifier, rng, settings, n_events)
    return label_triggers(injected, truth, threshold, grid)

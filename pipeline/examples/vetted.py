"""Cut examples at the candidates that people vetted, and draw them often enough to count beside the others."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.detection.matching import match_places
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.examples.strips import cut_strips
from shutterless.pipeline.examples.training import UNKNOWN_KIND, ExampleSettings, Labels, TrainingSet
from shutterless.pipeline.results.labels import ARTEFACT_KINDS, EVENT
from shutterless.pipeline.tokens import TokenGrid

MOST_REPEATS = 50  # of one vetted candidate, so that a handful is not learned by heart


def cut_vetted(
    amplifier: Amplifier, vetted: pd.DataFrame, grid: TokenGrid, groups: np.ndarray
) -> tuple[TrainingSet, np.ndarray]:
    """Cut one example for each vetted candidate of an amplifier, at its strongest trigger there.

    Parameters
    ----------
    amplifier : Amplifier
    vetted : DataFrame
        Rows of `shutterless.pipeline.results.labels.read_vetted`.
    grid : TokenGrid
    groups : ndarray of int64, shape (number of candidates,)
        Written into ``groups``.

    Returns
    -------
    examples : TrainingSet
        The weights are those of the labels; the kind of an event, its onset and its duration are unknown.
    found : ndarray of int64
        Position in ``vetted`` of each example. A candidate without a trigger has none.
    """
    triggers = find_triggers(amplifier, ExampleSettings.threshold)
    matched = match_places(triggers, vetted)
    strongest_first = np.lexsort((-triggers["snr"].abs().to_numpy(), matched))
    strongest_first = strongest_first[matched[strongest_first] >= 0]
    found, first = np.unique(matched[strongest_first], return_index=True)
    own = vetted.iloc[found]
    is_event = (own["label"] == EVENT).to_numpy()
    kinds = [
        UNKNOWN_KIND if event else KINDS.index(ARTEFACT_KINDS[kind])
        for event, kind in zip(is_event, own["kind"], strict=True)
    ]
    unknown = np.full(len(own), np.nan, dtype=np.float32)
    labels = Labels(
        is_event.astype(np.float32), np.array(kinds, dtype=np.int64), unknown, unknown, unknown,
        own["weight"].to_numpy(np.float32),
    )  # fmt: skip
    strips = cut_strips(amplifier, triggers.iloc[strongest_first[first]], grid)
    return TrainingSet(strips, labels, np.asarray(groups, dtype=np.int64)[found], grid), found


def draw_vetted(labels: Labels, n_wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Draw vetted examples with repetition, events and artefacts equally often, each candidate as often as another.

    Parameters
    ----------
    labels : Labels
        Of the vetted examples, each once.
    n_wanted : int
        Number to draw; fewer are drawn if one had to be repeated more than `MOST_REPEATS` times.
    rng : Generator

    Returns
    -------
    ndarray of int64
        Positions of the examples.
    """
    classes = [np.flatnonzero(labels.is_event == value) for value in (0, 1)]
    classes = [members for members in classes if members.size]
    share = n_wanted // max(len(classes), 1)
    drawn = [np.resize(rng.permutation(members), min(share, MOST_REPEATS * members.size)) for members in classes]
    return np.concatenate([np.empty(0, dtype=np.int64), *drawn])

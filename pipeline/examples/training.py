"""Draw training examples from unlabelled amplifiers: triggers in the data as it is, scrambled, and with injections.

Every example is cut around a trigger of the scan, so a model is trained on the same selection that it will score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.compiled.half_floats import clip_to_half
from shutterless.pipeline.detection.matching import TRUTH_MATCH_PX, match_places, match_truth
from shutterless.pipeline.detection.scan import scan
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.detection.triggers import characterise, find_triggers
from shutterless.pipeline.detection.vetoes import count_same_row, kinds_by_veto
from shutterless.pipeline.events.kinds import KINDS, NOISE
from shutterless.pipeline.examples.strips import choose_bins, cut_strips, strip_first_rows
from shutterless.pipeline.injection.amplifiers import InjectionSettings, inject_events, scramble_rows
from shutterless.pipeline.psf import psf_half_width
from shutterless.pipeline.tokens import StripBatch, TokenGrid, concatenate_strips

# injections per pass, few enough to be apart: by columns in continuous readout, by rows only in a small stack of images
INJECTIONS_PER_MPIX, ROWS_PER_INJECTION = 8, 1600
_NOISE_PIXELS = 40_000_000  # scrambled and searched before noise examples count as rare
_MOST_NOISE_PASSES = 400
_MAX_PASSES = 40  # of injections; if more were needed, the examples do not fit
UNKNOWN_KIND = -100  # of an event whose kind nobody named; the loss of the kinds leaves it out
_REFINED_WIDTHS = 8  # template's rows and shift on either side of a hit, in widths of its box


@dataclass(frozen=True)
class ExampleSettings:
    """Numbers and kinds of examples to draw from each amplifier.

    Parameters
    ----------
    n_events, n_cosmic_rays, n_noise : int
        Examples with an injected event, with an injected cosmic ray, and of scrambled noise, per amplifier. Triggers in
        the amplifier as it is are added to these.
    threshold : float
        Smallest S/N of a trigger, a little below that of the search. If it were much lower, noise of 5 to 7 sigma,
        which competes with events, would be rare among the examples, and the model would take it for events.
    injection : InjectionSettings
    """

    n_events: int = 1000
    n_cosmic_rays: int = 250
    n_noise: int = 700
    threshold: float = TRIGGER_THRESHOLD - 0.1
    injection: InjectionSettings = field(default_factory=InjectionSettings)


@dataclass(frozen=True)
class Labels:
    """Labels of ``b`` strips.

    Parameters
    ----------
    is_event : ndarray of float32, shape (b,)
    kind : ndarray of int64, shape (b,)
        Index into `shutterless.pipeline.events.kinds.KINDS`, or `UNKNOWN_KIND`.
    onset : ndarray of float32, shape (b,)
        First row of the event's central 90 %, as a fraction of the strip's length; NaN without an event.
    log2_duration : ndarray of float32, shape (b,)
        Rows of the central 90 %, as a power of two; NaN without an event.
    rho : ndarray of float32, shape (b,)
        Optimal S/N; NaN without an event.
    weight : ndarray of float32, shape (b,), optional
        How much each label counts, from 0 to 1; all alike without it.
    """

    is_event: np.ndarray
    kind: np.ndarray
    onset: np.ndarray
    log2_duration: np.ndarray
    rho: np.ndarray
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.is_event)

    def __getitem__(self, index: Any) -> Labels:
        """Select labels by a slice, an index array or a boolean mask; the class of the labels is kept."""
        return type(self)(**{name: array[index] for name, array in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that there are, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


@dataclass(frozen=True)
class TrainingSet:
    """Strips with their labels.

    ``groups`` (b,) int64 numbers the file and detector of each strip. A split never divides a group. ``numbers`` (b, c)
    float32, of examples for models that see the context of a trigger, are its
    `shutterless.pipeline.context.features.CONTEXT_FEATURES`, NaN where unknown.
    """

    strips: StripBatch
    labels: Labels
    groups: np.ndarray
    grid: TokenGrid
    numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.strips)

    def __getitem__(self, index: Any) -> TrainingSet:
        """Select examples by a slice, an index array or a boolean mask."""
        numbers = None if self.numbers is None else self.numbers[index]
        return TrainingSet(self.strips[index], self.labels[index], self.groups[index], self.grid, numbers)

    def save(self, path: str | Path) -> None:
        """Write as one ``.npz`` file, patches as float16."""
        arrays = {f"strips_{f.name}": getattr(self.strips, f.name) for f in fields(StripBatch)}
        arrays["strips_patches"] = clip_to_half(arrays["strips_patches"])
        arrays |= {f"labels_{name}": array for name, array in self.labels.arrays().items()}
        if self.numbers is not None:
            arrays["numbers"] = self.numbers
        grid = {f"grid_{name}": np.asarray(value) for name, value in asdict(self.grid).items()}
        with Path(path).open("wb") as file:
            np.savez(file, allow_pickle=False, groups=self.groups, **arrays, **grid)

    @classmethod
    def load(cls, path: str | Path) -> TrainingSet:
        """Read a file written by `save`."""
        with np.load(path) as stored:
            strips = {f.name: stored[f"strips_{f.name}"] for f in fields(StripBatch)}
            strips["patches"] = strips["patches"].astype(np.float32)
            labels = Labels(**{f.name: stored.get(f"labels_{f.name}") for f in fields(Labels)})
            grid = {f.name: stored[f"grid_{f.name}"].tolist() for f in fields(TokenGrid)}
            return cls(StripBatch(**strips), labels, stored["groups"], TokenGrid(**grid), stored.get("numbers"))


def concatenate_training_sets(parts: Sequence[TrainingSet]) -> TrainingSet:
    """Join the examples of several amplifiers.

    Raises
    ------
    ValueError
        If there are none, or they were cut on different grids.
    """
    if not parts or not sum(len(part) for part in parts):
        raise ValueError("no training examples were drawn: the store is empty, or no file is long enough for an event")
    grids = sorted({str(part.grid) for part in parts})
    if len(grids) > 1:
        raise ValueError(f"training examples of different grids cannot be joined: {grids}")
    labels = concatenate_labels([part.labels for part in parts])
    groups = np.concatenate([part.groups for part in parts])
    return TrainingSet(concatenate_strips([part.strips for part in parts]), labels, groups, parts[0].grid)


def concatenate_labels(parts: Sequence[Labels]) -> Labels:
    """Join labels; those without weights count 1 beside others that have them."""
    if any(part.weight is not None for part in parts):
        ones = [np.ones(len(part), dtype=np.float32) for part in parts]
        parts = [
            part if part.weight is not None else replace(part, weight=one)
            for part, one in zip(parts, ones, strict=True)
        ]
    return Labels(**{name: np.concatenate([part.arrays()[name] for part in parts]) for name in parts[0].arrays()})


def hide_events(amplifier: Amplifier, threshold: float) -> Amplifier:
    """Mask the triggers that the classical detector accepts as events, so that the rest counts as event-free.

    Parameters
    ----------
    amplifier : Amplifier
    threshold : float
        Smallest S/N. The pixels that a source there lights are masked from half the event's length before it to twice
        its length after it.

    Returns
    -------
    Amplifier
        Its residual in memory.
    """
    residual = np.array(amplifier.residual)
    reach = psf_half_width(amplifier.psf_sigma_px)
    found = find_triggers(amplifier, threshold)
    for event in found[(found["veto"] == "") & (found["snr"].abs() >= threshold)].itertuples():
        length = event.row_stop - event.row_start + 1
        y, x = round(event.y), round(event.x)
        rows = slice(max(event.row_start - length // 2 - 1, 0), event.row_stop + 2 * length + 1)
        residual[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1, rows] = np.nan
    return replace(amplifier, residual=residual, live_pixel_rows=int(np.count_nonzero(np.isfinite(residual))))


def draw_examples(
    amplifier: Amplifier,
    grid: TokenGrid,
    rng: np.random.Generator,
    settings: ExampleSettings,
    group: int = 0,
    labelled: pd.DataFrame | None = None,
) -> TrainingSet:
    """Draw training examples from one event-free amplifier.

    Parameters
    ----------
    amplifier : Amplifier
        Everything in it is taken to be no event.
    grid : TokenGrid
    rng : Generator
    settings : ExampleSettings
    group : int
        Written into ``groups``.
    labelled : DataFrame, optional
        Places (``x``, ``y``, ``row_start``, ``row_stop``) of candidates with labels of their own. Their triggers are
        left out.

    Returns
    -------
    TrainingSet
    """
    found = find_triggers(amplifier, settings.threshold)
    kinds = kinds_by_veto()
    plain = found if labelled is None else found[match_places(found, labelled) < 0]
    parts = [(cut_strips(amplifier, plain, grid), _plain_labels([kinds[veto] for veto in plain["veto"]]))]
    parts += _draw_noise(amplifier, grid, rng, settings)
    parts += _draw_injected(amplifier, grid, rng, settings, found)
    labels = concatenate_labels([label for _, label in parts])
    strips = concatenate_strips([strips for strips, _ in parts])
    return TrainingSet(strips, labels, np.full(len(strips), group, dtype=np.int64), grid)


def _plain_labels(kinds: Sequence[str]) -> Labels:
    """Labels of strips without an event."""
    index = np.asarray([KINDS.index(kind) for kind in kinds], dtype=np.int64)
    unknown = np.full(len(kinds), np.nan, dtype=np.float32)
    return Labels(np.zeros(len(kinds), dtype=np.float32), index, unknown, unknown, unknown)


def _draw_noise(
    amplifier: Amplifier, grid: TokenGrid, rng: np.random.Generator, settings: ExampleSettings
) -> list[tuple[StripBatch, Labels]]:
    parts: list[tuple[StripBatch, Labels]] = []
    missing = settings.n_noise
    for _ in range(int(np.clip(_NOISE_PIXELS // amplifier.residual.size, _MAX_PASSES, _MOST_NOISE_PASSES))):
        if missing <= 0:
            break
        scrambled = scramble_rows(amplifier, rng)
        found = find_triggers(scrambled, settings.threshold)
        chosen = found.iloc[np.sort(rng.permutation(len(found))[:missing])]
        parts.append((cut_strips(scrambled, chosen, grid), _plain_labels([NOISE] * len(chosen))))
        missing -= len(chosen)
    return parts


def _draw_injected(
    amplifier: Amplifier, grid: TokenGrid, rng: np.random.Generator, settings: ExampleSettings, found: pd.DataFrame
) -> list[tuple[StripBatch, Labels]]:
    """Inject a few at a time, until the wanted number has been tried."""
    parts: list[tuple[StripBatch, Labels]] = []
    events, rays = settings.n_events, settings.n_cosmic_rays
    at_once = max(int(INJECTIONS_PER_MPIX * amplifier.residual.size / 1e6), amplifier.n_rows // ROWS_PER_INJECTION, 1)
    for _ in range(max(_MAX_PASSES, -(-(events + rays) // at_once))):
        if events + rays <= 0:
            break
        n_events = min(events, max(at_once * events // (events + rays), 1) if events else 0)
        n_rays = min(rays, at_once - n_events)
        parts.append(_one_pass(amplifier, grid, rng, settings, found, n_events, n_rays))
        events, rays = events - n_events, rays - n_rays
    return parts


def _one_pass(
    amplifier: Amplifier,
    grid: TokenGrid,
    rng: np.random.Generator,
    settings: ExampleSettings,
    found: pd.DataFrame,
    n_events: int,
    n_rays: int,
) -> tuple[StripBatch, Labels]:
    """Inject, search, and keep the strongest trigger of each injection that is found."""
    injected, truth = inject_events(amplifier, rng, settings.injection, n_events, n_rays)
    hits = scan(injected, settings.threshold)
    triggers = characterise(injected, hits[_may_match(hits, truth)], settings.threshold)
    matched = match_truth(triggers, truth)
    strength = triggers["snr"].abs().to_numpy()
    order = np.lexsort((-strength, matched))
    order = order[matched[order] >= 0]
    best = order[np.unique(matched[order], return_index=True)[1]]
    chosen, rows = triggers.iloc[best], truth.iloc[matched[best]]
    # other injections in the same rows do not indicate pickup, so only triggers of the original data count
    chosen = chosen.assign(n_same_row=count_same_row(chosen, found))
    return cut_strips(injected, chosen, grid), _injected_labels(chosen, rows, grid)


def _may_match(hits: pd.DataFrame, truth: pd.DataFrame) -> np.ndarray:
    """Hits that may match a truth row after the fit, which moves them by at most a pixel and a few widths."""
    near = np.zeros(len(hits), dtype=bool)
    start, width = hits["row_start"].to_numpy(), hits["width_rows"].to_numpy()
    margin = _REFINED_WIDTHS * np.maximum(width, 4)
    for row in truth.itertuples():
        close = (hits["x"] - row.x).abs().le(TRUTH_MATCH_PX + 1) & (hits["y"] - row.y).abs().le(TRUTH_MATCH_PX + 1)
        near |= close.to_numpy() & (start <= row.row_stop + margin) & (start + width >= row.row_start - margin)
    return near


def _injected_labels(triggers: pd.DataFrame, truth: pd.DataFrame, grid: TokenGrid) -> Labels:
    bins = choose_bins(triggers["width_rows"].to_numpy(), grid)
    is_event = truth["is_event"].to_numpy(dtype=bool)
    onset = (truth["row_start"].to_numpy() - strip_first_rows(triggers, bins, grid)) / (bins * grid.n_rows)
    duration = truth["row_stop"].to_numpy() - truth["row_start"].to_numpy() + 1
    columns = (np.clip(onset, 0, 1), np.log2(duration), truth["rho"].to_numpy())
    return Labels(
        is_event.astype(np.float32),
        np.asarray([KINDS.index(kind) for kind in truth["kind"]], dtype=np.int64),
        *(np.where(is_event, column, np.nan).astype(np.float32) for column in columns),
    )

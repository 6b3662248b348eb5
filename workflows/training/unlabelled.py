"""Cut unlabelled strips from a store: at triggers, at stars, and at random places."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.detection.vetoes import kinds_by_veto
from shutterless.pipeline.events.kinds import NOISE
from shutterless.pipeline.examples.strips import ROWS_PER_WIDTH, choose_bins, cut_strips
from shutterless.pipeline.store.store import read_manifest
from shutterless.pipeline.tokens import STAGE1_FEATURES, StripBatch, TokenGrid, concatenate_strips
from shutterless.workflows.execution.cluster import Executor, SerialExecutor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching.detect import StackView
from shutterless.workflows.settings.settings import PretrainSettings, TrainSettings
from shutterless.workflows.training.train import choose_grid, sky_groups

RANDOM, STREAK, TRIGGER = "random", "streak", "trigger"
_FEWEST_PATCHES = 2  # one hidden, one visible


class UnlabelledError(ValueError):
    """A store from which no strips can be cut."""


@dataclass(frozen=True)
class UnlabelledSet:
    """Unlabelled strips, with the places where they were cut.

    Parameters
    ----------
    strips : StripBatch
        All stage-1 features but the binning factor are 0: most strips have no trigger.
    sources : ndarray of str, shape (b,)
        "random", "streak" (at a star), "trigger" (without a veto), or for a vetoed trigger the classical detector's
        kind, or the veto if that kind is noise ("cosmic_ray", "pickup", "edge", "flanks").
    for_validation : ndarray of bool, shape (b,)
    grid : TokenGrid
    """

    strips: StripBatch
    sources: np.ndarray
    for_validation: np.ndarray
    grid: TokenGrid


@dataclass(frozen=True)
class _StripItem:
    store: str
    entry: str
    number: int
    n_strips: int
    for_validation: bool
    view: StackView


def draw_unlabelled(
    store: str | Path,
    settings: PretrainSettings,
    train: TrainSettings,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> UnlabelledSet:
    """Cut strips of every binning factor from all amplifiers of a store.

    Of several fields of stars in the store, some are set apart for validation; of a single field, the last rows are.

    Parameters
    ----------
    store : path
    settings : PretrainSettings
    train : TrainSettings
        Gives the grid.
    executor : Executor, optional
    progress : Progress, optional

    Raises
    ------
    UnlabelledError
        If an amplifier cannot be used; the message names it.
    """
    items = _strip_items(store, settings)
    work = partial(_draw_from_entry, settings=settings, train=train)
    parts = []
    for outcome in (executor or SerialExecutor()).map(work, items, describe="cutting strips", progress=progress):
        if outcome.value is None:
            raise UnlabelledError(f"no strips from {outcome.item.store}/{outcome.item.entry}: {outcome.error}")
        parts.append((outcome.item, *outcome.value))
    grids = sorted({str(grid) for _, _, _, grid in parts})
    if len(grids) > 1:
        raise UnlabelledError(f"store {store} holds stacks for different grids {grids}; pretrain on one kind alone")
    strips = concatenate_strips([strips for _, strips, _, _ in parts])
    apart = np.concatenate([np.full(len(found), item.for_validation) for item, found, _, _ in parts])
    return UnlabelledSet(strips, np.concatenate([sources for _, _, sources, _ in parts]), apart, parts[0][3])


def _strip_items(store: str | Path, settings: PretrainSettings) -> list[_StripItem]:
    """List the parts of all amplifiers with the rows and the number of strips of each."""
    manifest = read_manifest(store)
    if manifest.empty:
        raise UnlabelledError(f"store {store} holds no amplifier; see its failures.parquet")
    groups = sky_groups(manifest)
    n_groups, share = groups.nunique(), settings.validation_fraction
    apart: set[int] = set()
    if n_groups > 1:
        n_apart = int(np.clip(round(share * n_groups), 1, n_groups - 1))
        apart = set(np.random.default_rng(settings.seed).choice(n_groups, n_apart, replace=False).tolist())
    items: list[_StripItem] = []
    for row, group in zip(manifest.itertuples(), groups, strict=True):
        border = round(row.n_rows * (1 - share))
        parts = [((0, border), 1 - share, False), ((border, row.n_rows), share, True)]
        for rows, part, last in parts if n_groups == 1 else [(None, 1.0, int(group) in apart)]:
            n_strips = max(round(part * settings.n_strips / len(manifest)), 1)
            items.append(_StripItem(str(store), row.entry, len(items), n_strips, last, StackView(rows)))
    return items


def _draw_from_entry(
    item: _StripItem, *, settings: PretrainSettings, train: TrainSettings
) -> tuple[StripBatch, np.ndarray, TokenGrid]:
    amplifier = item.view.open(item.store, item.entry)
    rng = np.random.default_rng([settings.seed, item.number])
    grid = choose_grid(amplifier, train)
    places = draw_places(amplifier, grid, rng, item.n_strips, settings)
    strips = cut_strips(amplifier, places, grid)
    usable = strips.mask.sum(axis=1) >= _FEWEST_PATCHES
    return strips[usable], places["source"].to_numpy(dtype=object)[usable], grid


def draw_places(
    amplifier: Amplifier, grid: TokenGrid, rng: np.random.Generator, n_strips: int, settings: PretrainSettings
) -> pd.DataFrame:
    """Draw the places of strips: at triggers, at stars, and at random.

    Parameters
    ----------
    amplifier : Amplifier
    grid : TokenGrid
    rng : Generator
    n_strips : int
        If too few triggers or stars are found, more strips are cut at random places.
    settings : PretrainSettings

    Returns
    -------
    DataFrame
        Columns for `cut_strips`, and ``source``. Triggers and stars lie up to a quarter of a strip from its middle, so
        that the signal is not always in one place. Triggers have the binning factor of their width, the others any
        that fits into the amplifier.
    """
    found = find_triggers(amplifier) if settings.trigger_share else pd.DataFrame()
    chosen = rng.permutation(len(found))[: round(settings.trigger_share * n_strips)]
    triggers = _at_triggers(found.iloc[np.sort(chosen)], amplifier, grid, rng) if len(chosen) else None
    n_stars = round(settings.streak_share * n_strips) if len(amplifier.streaks) else 0
    stars = _at_stars(amplifier, grid, rng, n_stars)
    anywhere = _anywhere(amplifier, grid, rng, n_strips - n_stars - len(chosen))
    places = pd.concat([part for part in (triggers, stars, anywhere) if part is not None], ignore_index=True)
    nothing = dict.fromkeys(("snr", *STAGE1_FEATURES[4:]), 0.0)
    width = places["bin"] * grid.n_rows / ROWS_PER_WIDTH
    return places.assign(row_start=places["row"], row_stop=places["row"], width_rows=width, **nothing)


def _at_triggers(found: pd.DataFrame, amplifier: Amplifier, grid: TokenGrid, rng: np.random.Generator) -> pd.DataFrame:
    bins = choose_bins(found["width_rows"].to_numpy(), grid)
    row = (found["row_start"].to_numpy() + found["row_stop"].to_numpy()) // 2
    row = row + np.rint(rng.uniform(-0.25, 0.25, len(found)) * bins * grid.n_rows).astype(np.int64)
    x = _moved(found["x"].to_numpy(), amplifier.n_columns, grid.n_columns, rng)
    y = _moved(found["y"].to_numpy(), amplifier.n_y, grid.n_y, rng)
    sources = _sources_by_veto()
    return pd.DataFrame({"x": x, "y": y, "row": row, "bin": bins, "source": [sources[veto] for veto in found["veto"]]})


def _sources_by_veto() -> dict[str, str]:
    """Name of the source of a trigger's strip, by the trigger's veto."""
    return {veto: (veto or TRIGGER) if kind == NOISE else kind for veto, kind in kinds_by_veto().items()}


def _at_stars(amplifier: Amplifier, grid: TokenGrid, rng: np.random.Generator, n_strips: int) -> pd.DataFrame:
    stars = amplifier.star_places[rng.integers(len(amplifier.streaks), size=n_strips)] if n_strips else np.empty((0, 2))
    y = _moved(stars[:, 0], amplifier.n_y, grid.n_y, rng)
    x = _moved(stars[:, 1], amplifier.n_columns, grid.n_columns, rng)
    row, bins = _any_rows(amplifier, grid, rng, n_strips)
    return pd.DataFrame({"x": x, "y": y, "row": row, "bin": bins, "source": STREAK})


def _anywhere(amplifier: Amplifier, grid: TokenGrid, rng: np.random.Generator, n_strips: int) -> pd.DataFrame:
    x, y = rng.integers(amplifier.n_columns, size=n_strips), rng.integers(amplifier.n_y, size=n_strips)
    row, bins = _any_rows(amplifier, grid, rng, n_strips)
    return pd.DataFrame({"x": x.astype(float), "y": y.astype(float), "row": row, "bin": bins, "source": RANDOM})


def _moved(places: np.ndarray, n_pixels: int, n_strip: int, rng: np.random.Generator) -> np.ndarray:
    """Move places by up to a quarter of a strip, inside the amplifier."""
    return np.clip(places + rng.uniform(-0.25, 0.25, len(places)) * (n_strip - 1), 0, n_pixels - 1)


def _any_rows(
    amplifier: Amplifier, grid: TokenGrid, rng: np.random.Generator, n_strips: int
) -> tuple[np.ndarray, np.ndarray]:
    """Middle rows and binning factors of strips that fit inside the amplifier; empty if none does."""
    fitting = [factor for factor in grid.bins if factor * grid.n_rows <= amplifier.n_rows] or [min(grid.bins)]
    bins = rng.choice(np.asarray(fitting, dtype=np.int64), n_strips)
    half = bins * grid.n_rows // 2
    last = np.maximum(amplifier.n_rows - half, half)
    return rng.integers(half, last + 1), bins

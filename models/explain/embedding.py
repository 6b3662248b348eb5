"""Map the triggers of a night by the summaries of their strips, in clusters and outliers, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import median_abs_deviation
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from shutterless.models.evaluation.metrics import match_entries
from shutterless.models.explain.batches import tensor_batches
from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import evaluation_mode
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.detection.vetoes import need_a_model
from shutterless.pipeline.examples.strips import cut_strips
from shutterless.pipeline.store.store import open_amplifier, read_manifest
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, StripBatch, concatenate_strips

OUTLIER = -1  # cluster number of points outside all clusters
NOT_INJECTED = "not injected"
_KEPT_VARIANCE = 0.95
_MOST_COMPONENTS = 10  # in many more dimensions all distances are alike
_FEWEST_POINTS = 10
# fewer odd strips of one kind than this count as outliers, not as a cluster
_NEIGHBOURS = 35
VOICES = ("local_outlier_factor", "isolation", "reconstruction_error")


class EmbeddingError(ValueError):
    """Too few points, values that are not finite, or errors that do not fit the points."""


@dataclass(frozen=True)
class Night:
    """The triggers of a store, their strips and their summaries.

    Parameters
    ----------
    triggers : DataFrame, b rows
        Of `shutterless.pipeline.detection.triggers.find_triggers`, with ``entry``; without triggers that need no model.
    strips : StripBatch
    summaries : ndarray of float32, shape (b, h)
    """

    triggers: pd.DataFrame
    strips: StripBatch
    summaries: np.ndarray

    def __len__(self) -> int:
        return len(self.triggers)


@dataclass(frozen=True)
class EmbeddingMap:
    """Positions, clusters and outlier scores of ``b`` strips.

    Parameters
    ----------
    points : DataFrame, b rows
        ``component_1``, ``component_2`` (the first two principal components, in units of the first one's standard
        deviation), ``cluster`` (from 0 by size, `OUTLIER` without one), ``membership`` (0 to 1),
        ``local_outlier_factor``, ``isolation``, ``reconstruction_error`` where it was given, and ``outlier_score``, the
        largest of these three in robust standard deviations; a higher score is odder.
    explained : ndarray, shape (c,)
        Share of the variance in each retained principal component.
    """

    points: pd.DataFrame
    explained: np.ndarray

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.points["cluster"].max()) + 1


def summarise_strips(model: DetectorModel, strips: StripBatch, *, batch_size: int = STRIPS_AT_ONCE) -> np.ndarray:
    """Summary vector of each strip: the input of the model's heads without the stage-1 features.

    Parameters
    ----------
    model : DetectorModel
    strips : StripBatch
        Cut with the model's grid.
    batch_size : int

    Returns
    -------
    ndarray of float32, shape (b, h)
    """
    parts = []
    with evaluation_mode(model), torch.inference_mode():
        for batch in tensor_batches(model, strips, batch_size):
            parts.append(model.summarise(model.scaling(**batch)).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, _summary_size(model)), np.float32)


def embed_night(
    store: str | Path, model: DetectorModel, *, threshold: float = TRIGGER_THRESHOLD, batch_size: int = STRIPS_AT_ONCE
) -> Night:
    """Find the triggers of every amplifier of a store and summarise their strips.

    Parameters
    ----------
    store : path
    model : DetectorModel
    threshold : float
        Smallest S/N of a trigger.
    batch_size : int

    Returns
    -------
    Night
        Amplifier by amplifier in the order of the manifest.

    Raises
    ------
    EmbeddingError
        If the store holds no amplifier.
    """
    found, strips = [], []
    for entry in read_manifest(store)["entry"]:
        amplifier = open_amplifier(store, entry)
        triggers = find_triggers(amplifier, threshold)
        triggers = triggers[need_a_model(triggers)].assign(entry=entry)
        found.append(triggers)
        strips.append(cut_strips(amplifier, triggers, model.grid))
    if not found:
        raise EmbeddingError(f"store {store} holds no amplifier; see its failures.parquet")
    together = concatenate_strips(strips)
    table = pd.concat(found, ignore_index=True)
    return Night(table, together, summarise_strips(model, together, batch_size=batch_size))


def map_embedding(
    summaries: np.ndarray,
    *,
    reconstruction_error: np.ndarray | None = None,
    min_cluster_size: int | None = None,
    seed: int = 0,
) -> EmbeddingMap:
    """Project summaries onto a plane, find clusters, and score how odd each strip is, without labels.

    Parameters
    ----------
    summaries : ndarray, shape (b, h)
    reconstruction_error : ndarray, shape (b,), optional
        Of a model that was pretrained to predict masked patches; a strip that it cannot predict is odd.
    min_cluster_size : int, optional
        Smallest number of strips in a cluster; 2 % of the strips, at least 5, if left out.
    seed : int
        Of the isolation forest.

    Returns
    -------
    EmbeddingMap

    Raises
    ------
    EmbeddingError
        If there are too few strips, numbers that are not finite, or errors for other strips.

    Notes
    -----
    Each number of the summary is scaled to variance 1. The principal components that hold 95 % of the variance are
    kept, at most 10. Clusters: HDBSCAN (Campello et al. 2013), which leaves some points outside. Oddness: the local
    outlier factor (Breunig et al. 2000: how much sparser a strip's surroundings are than its neighbours'), an isolation
    forest (Liu et al. 2008: how few random cuts separate it from all others) and the reconstruction error. Of each, the
    logarithm less its median is divided by 1.48 times its median absolute deviation; the largest of the three counts.
    Every night has an oddest trigger: compare its score with the next ones before you believe it.
    """
    summaries = np.asarray(summaries, dtype=np.float64)
    _check(summaries, reconstruction_error)
    components, explained = _principal_components(summaries)
    size = min_cluster_size or max(5, round(0.02 * len(summaries)))
    clusters = HDBSCAN(min_cluster_size=size, copy=True).fit(components)
    points = pd.DataFrame(
        {
            "component_1": components[:, 0],
            "component_2": components[:, 1],
            "cluster": _by_size(clusters.labels_),
            "membership": clusters.probabilities_,
            **_oddness(components, seed),
        }
    )
    if reconstruction_error is not None:
        points["reconstruction_error"] = np.asarray(reconstruction_error, dtype=np.float64)
    voices = [_robust_score(points[name].to_numpy()) for name in VOICES if name in points]
    return EmbeddingMap(points.assign(outlier_score=np.max(voices, axis=0)), explained)


def true_kinds(triggers: pd.DataFrame, truth: pd.DataFrame, manifest: pd.DataFrame) -> np.ndarray:
    """Kind of the simulated event at each trigger.

    Parameters
    ----------
    triggers : DataFrame
        With ``entry``.
    truth : DataFrame
        ``truth.parquet`` of the simulator.
    manifest : DataFrame
        Of the store: amplifier and file of each entry.

    Returns
    -------
    ndarray of str, shape (b,)
        ``kind`` of the truth table, `NOT_INJECTED` without a match: noise, or light that the simulator does not list.
    """
    keys = ["file", "ccd", "quadrant"]
    placed = truth.astype({"ccd": "Int64", "quadrant": "Int64"}).merge(manifest[[*keys, "entry"]], on=keys)
    matched = match_entries(triggers, placed)
    kinds = np.append(placed["kind"].to_numpy(dtype=object), NOT_INJECTED)
    return kinds[matched]


def name_clusters(clusters: Sequence[int] | np.ndarray, kinds: np.ndarray) -> pd.DataFrame:
    """Name each cluster by its most frequent kind in the truth of a simulation.

    Parameters
    ----------
    clusters : sequence of int, shape (b,)
    kinds : ndarray of str, shape (b,)
        From `true_kinds`.

    Returns
    -------
    DataFrame
        One row per cluster, `OUTLIER` last: ``cluster, n, kind`` (the most frequent), ``share`` of it, and ``name``
        for a legend.
    """
    table = pd.DataFrame({"cluster": np.asarray(clusters), "kind": kinds})
    rows = []
    for cluster in sorted(table["cluster"].unique(), key=lambda number: (number == OUTLIER, number)):
        counts = table.loc[table["cluster"] == cluster, "kind"].value_counts()
        n, kind, share = int(counts.sum()), str(counts.index[0]), float(counts.iloc[0] / counts.sum())
        place = "in no cluster" if cluster == OUTLIER else f"cluster {cluster}"
        rows.append((int(cluster), n, kind, share, f"{place} ({n}): {100 * share:.0f} % {kind}"))
    return pd.DataFrame(rows, columns=["cluster", "n", "kind", "share", "name"])


def _summary_size(model: DetectorModel) -> int:
    head: Any = model.head
    return head.event.in_features - len(model.config.feature_names)


def _check(summaries: np.ndarray, error: np.ndarray | None) -> None:
    n = len(summaries)
    if n < _FEWEST_POINTS:
        raise EmbeddingError(
            f"{n} strips are too few for a map, at least {_FEWEST_POINTS} are needed: take more rows or a lower "
            "threshold of triggers"
        )
    if not np.isfinite(summaries).all():
        bad = int((~np.isfinite(summaries).all(axis=1)).sum())
        raise EmbeddingError(f"{bad} of {n} summaries are not finite: look for non-finite weights in the model")
    if np.ptp(summaries, axis=0).max() == 0:
        raise EmbeddingError(f"all {n} summaries are the same: the model does not distinguish strips; train it first")
    if error is not None and (np.shape(error) != (n,) or not np.all(np.asarray(error) > 0)):
        raise EmbeddingError(
            f"reconstruction errors of shape {np.shape(error)} for {n} strips: give a positive number for each"
        )


def _principal_components(summaries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components (b, c) in units of the first one's standard deviation, and the share of variance in each."""
    spread = summaries.std(axis=0)
    standard = (summaries - summaries.mean(axis=0)) / np.where(spread > 0, spread, 1)
    analysis = PCA(n_components=min(_MOST_COMPONENTS, *summaries.shape), svd_solver="full").fit(standard)
    share = analysis.explained_variance_ratio_
    kept = max(2, int(np.searchsorted(np.cumsum(share), _KEPT_VARIANCE)) + 1)  # two are drawn
    components = analysis.transform(standard)[:, :kept]
    return components / components[:, 0].std(), share[:kept]


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Number clusters by size, the largest 0."""
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = found[np.argsort(-counts, kind="stable")]
    number = {int(label): i for i, label in enumerate(order)}
    return np.array([number.get(int(label), OUTLIER) for label in labels], dtype=np.int64)


def _oddness(components: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Two scores of oddness; a higher score is odder."""
    neighbours = LocalOutlierFactor(n_neighbors=min(_NEIGHBOURS, len(components) - 1)).fit(components)
    forest = IsolationForest(random_state=seed).fit(components)
    return {
        "local_outlier_factor": -neighbours.negative_outlier_factor_,
        "isolation": -forest.score_samples(components),
    }


def _robust_score(values: np.ndarray) -> np.ndarray:
    """Logarithms of positive numbers less their median, over 1.48 times their median absolute deviation."""
    logarithm = np.log(values)
    scale = median_abs_deviation(logarithm, scale="normal")
    return (logarithm - np.median(logarithm)) / max(scale, 1e-9)

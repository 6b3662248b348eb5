"""Hold many decision trees as plain arrays, and add up what they say. Safe to store: arrays hold no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numba
import numpy as np


@dataclass(frozen=True)
class Trees:
    """Boosted decision trees of one or several outputs.

    Parameters
    ----------
    feature : ndarray of int32, shape (m,)
        Column that each node compares; -1 in a leaf.
    threshold : ndarray of float64, shape (m,)
        Values up to it go to the left.
    left, right : ndarray of int32, shape (m,)
        Next node.
    missing_left : ndarray of bool, shape (m,)
        Where a NaN goes.
    value : ndarray of float64, shape (m,)
        What a leaf adds to its output.
    root, output : ndarray of int32, shape (t,)
        First node of each tree, and the output to which it belongs.
    base : ndarray of float64, shape (o,)
        Outputs before any tree.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    root: np.ndarray
    output: np.ndarray
    base: np.ndarray

    def sums(self, features: np.ndarray) -> np.ndarray:
        """Outputs for each line of ``features`` (n, f); float64, shape (n, o)."""
        total = np.tile(self.base, (len(features), 1))
        _add_leaves(
            np.ascontiguousarray(features, dtype=np.float64), self.feature, self.threshold, self.left, self.right,
            self.missing_left, self.value, self.root, self.output, total,
        )  # fmt: skip
        return total

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return arrays by name, each beginning with the prefix."""
        return {f"{prefix}{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> Trees:
        """Rebuild from `to_arrays`."""
        return cls(**{field.name: arrays[f"{prefix}{field.name}"] for field in fields(cls)})


def trees_of(models: Sequence[Any]) -> Trees:
    """Mean of several fitted `sklearn.ensemble.HistGradientBoostingClassifier` as plain arrays.

    Their binary output is the log-odds; of several classes each has one output.
    """
    nodes, roots, outputs, n_nodes = [], [], [], 0
    for model in models:
        for iteration in model._predictors:
            for output, tree in enumerate(iteration):
                roots.append(n_nodes)
                outputs.append(output)
                nodes.append(_plain_nodes(tree.nodes, n_nodes, 1 / len(models)))
                n_nodes += len(tree.nodes)
    base = np.mean([np.ravel(model._baseline_prediction) for model in models], axis=0)
    joined = {name: np.concatenate([part[name] for part in nodes]) for name in nodes[0]}
    return Trees(
        **joined, root=np.array(roots, np.int32), output=np.array(outputs, np.int32), base=base.astype(np.float64)
    )


def _plain_nodes(nodes: np.ndarray, first: int, share: float) -> dict[str, np.ndarray]:
    is_leaf = nodes["is_leaf"].astype(bool)
    return {
        "feature": np.where(is_leaf, -1, nodes["feature_idx"]).astype(np.int32),
        "threshold": np.where(is_leaf, 0.0, nodes["num_threshold"]).astype(np.float64),
        "left": (nodes["left"] + first).astype(np.int32),
        "right": (nodes["right"] + first).astype(np.int32),
        "missing_left": nodes["missing_go_to_left"].astype(bool),
        "value": np.where(is_leaf, nodes["value"] * share, 0.0).astype(np.float64),
    }


@numba.njit(cache=True, nogil=True)
def _add_leaves(
    features, feature, threshold, left, right, missing_left, value, root, output, total
):  # pragma: no cover - compiled
    """Add the leaf that each line of ``features`` reaches in every tree."""
    for i in range(len(features)):
        line = features[i]
        for tree in range(len(root)):
            node = root[tree]
            while feature[node] >= 0:
                number = line[feature[node]]
                goes_left = missing_left[node] if number != number else number <= threshold[node]
                node = left[node] if goes_left else right[node]
            total[i, output[tree]] += value[node]

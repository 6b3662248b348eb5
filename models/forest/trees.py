"""Hold many decision trees as plain arrays, and add up what they say. Safe to store: arrays hold no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numba
import numpy as np

_KINDS = {
    **dict.fromkeys(("feature", "left", "right", "root", "output"), np.dtype(np.int32)),
    **dict.fromkeys(("threshold", "value", "base"), np.dtype(np.float64)),
    "missing_left": np.dtype(np.bool_),
}
_LINES_AT_ONCE = 128  # 80 kB of numbers
_OF_NODES = ("feature", "threshold", "left", "right", "missing_left", "value")


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
        """Rebuild from `to_arrays`.

        Raises
        ------
        KeyError, ValueError
            If an array is missing or of another kind, or a node leads to none that comes after it.
        """
        trees = cls(**{field.name: arrays[f"{prefix}{field.name}"] for field in fields(cls)})
        trees._check()
        return trees

    @property
    def n_features(self) -> int:
        """Columns that are compared, up to the last one."""
        return int(self.feature.max(initial=-1)) + 1

    def _check(self) -> None:
        """Refuse nodes with which the compiled loop would read other memory, or never end."""
        for name, kind in _KINDS.items():
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != kind:
                raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, expected is {kind} of one axis")
        n_nodes, n_outputs = len(self.feature), len(self.base)
        for name in _OF_NODES:
            if len(getattr(self, name)) != n_nodes:
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {n_nodes} nodes")
        asks = self.feature >= 0
        after = np.flatnonzero(asks)
        for side in (self.left[asks], self.right[asks]):
            if (side <= after).any() or (side >= n_nodes).any():
                raise ValueError("a node leads to one that does not come after it")
        for places, size in ((self.root, n_nodes), (self.output, n_outputs)):
            if len(places) != len(self.root) or (places < 0).any() or (places >= size).any():
                raise ValueError(f"trees begin at nodes, or add to outputs, that are not there ({size})")
        if not (np.isfinite(self.value).all() and np.isfinite(self.base).all()):
            raise ValueError("values are not finite")


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
    """Add the leaf that each line of ``features`` reaches in every tree; a tree stays in the cache for many lines."""
    for start in range(0, len(features), _LINES_AT_ONCE):
        for tree in range(len(root)):
            for i in range(start, min(start + _LINES_AT_ONCE, len(features))):
                line, node = features[i], root[tree]
                while feature[node] >= 0:
                    number = line[feature[node]]
                    goes_left = missing_left[node] if number != number else number <= threshold[node]
                    node = left[node] if goes_left else right[node]
                total[i, output[tree]] += value[node]

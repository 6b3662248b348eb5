from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from shutterless.models.forest.trees import Trees, trees_of


def numbers(seed: int, n: int = 600) -> np.ndarray:
    """Four columns, a tenth of the values missing."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, 4))
    values[rng.random((n, 4)) < 0.1] = np.nan
    return values


def grow(n_classes: int, seed: int) -> tuple[HistGradientBoostingClassifier, np.ndarray]:
    x = numbers(1)
    y = np.digitize(np.nan_to_num(x[:, 0]) + 0.3 * np.isnan(x[:, 1]), np.linspace(-1, 1, n_classes - 1))
    return HistGradientBoostingClassifier(max_iter=20, random_state=seed, max_features=0.5).fit(x, y), numbers(2)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_plain_arrays_say_what_the_library_says(n_classes):
    model, x = grow(n_classes, seed=0)
    expected = model.decision_function(x).reshape(len(x), -1)
    np.testing.assert_allclose(trees_of([model]).sums(x), expected, atol=1e-12)


def test_several_forests_are_averaged():
    first, x = grow(2, seed=0)
    second, _ = grow(2, seed=5)
    expected = (first.decision_function(x) + second.decision_function(x)) / 2
    np.testing.assert_allclose(trees_of([first, second]).sums(x)[:, 0], expected, atol=1e-12)


def test_arrays_come_back():
    model, x = grow(3, seed=0)
    trees = trees_of([model])
    again = Trees.from_arrays(trees.to_arrays("a."), "a.")
    assert np.array_equal(again.sums(x), trees.sums(x))


STUMP = {
    "feature": np.array([0, -1, -1], np.int32), "threshold": np.array([0.5, 0, 0]),
    "left": np.array([1, 0, 0], np.int32), "right": np.array([2, 0, 0], np.int32),
    "missing_left": np.array([True] * 3), "value": np.array([0, -1.0, 1.0]),
    "root": np.array([0], np.int32), "output": np.array([0], np.int32), "base": np.array([0.25]),
}  # fmt: skip


def test_a_stump_by_hand():
    trees = Trees.from_arrays({f"a.{name}": array for name, array in STUMP.items()}, "a.")
    np.testing.assert_array_equal(trees.sums(np.array([[0.4], [0.6], [np.nan]]))[:, 0], [-0.75, 1.25, -0.75])
    assert trees.n_features == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": np.array([0, 0, 0], np.int32)}, "a node leads to one that does not come after it"),
        ({"right": np.array([3, 0, 0], np.int32)}, "a node leads to one that does not come after it"),
        ({"root": np.array([3], np.int32)}, "begin at nodes, or add to outputs, that are not there"),
        ({"output": np.array([1], np.int32)}, "begin at nodes, or add to outputs, that are not there"),
        ({"output": np.array([0, 0], np.int32)}, "begin at nodes, or add to outputs, that are not there"),
        ({"value": np.array([0.0, -1.0])}, "value has 2 values for 3 nodes"),
        ({"value": np.array([0.0, np.nan, 1.0])}, "values are not finite"),
        ({"feature": np.array([0, -1, -1])}, "feature is int64 of shape"),
    ],
)
def test_nodes_that_lead_elsewhere_are_refused(change, message):
    """Without the check the compiled loop would read other memory, or never end."""
    with pytest.raises(ValueError, match=message):
        Trees.from_arrays({f"a.{name}": array for name, array in {**STUMP, **change}.items()}, "a.")

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

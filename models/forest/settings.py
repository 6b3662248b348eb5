"""Settings of the training of a forest."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shutterless.pipeline.settings import Count, CountFrom0, NotNegative, Positive, settings_class


class ForestSettingsError(ValueError):
    """Settings of a forest that cannot be used."""


@settings_class(ForestSettingsError)
class ForestSettings:
    """How a forest is grown.

    Parameters
    ----------
    n_trees : int
        Trees in a row, each fitted to what those before it left.
    n_seeds : int
        Forests of other seeds whose log-odds are averaged.
    learning_rate : float
    max_leaves : int
        Of a tree.
    min_leaf : int
        Triggers in a leaf.
    l2 : float
        Penalty on the square of what leaves say.
    feature_share : float
        Share of the numbers that each split may choose from.
    seed : int
    """

    n_trees: Count = 500
    n_seeds: Count = 3
    learning_rate: Positive = 0.05
    max_leaves: Count = 47
    min_leaf: Count = 20
    l2: NotNegative = 5.0
    feature_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    seed: CountFrom0 = 1

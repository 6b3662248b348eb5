"""Purity against completeness among labelled candidates."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.models.evaluation.vetted import purity_at, purity_curve

SCORE = np.array([9.0, 8.0, 8.0, 7.0, -np.inf])
IS_EVENT = np.array([True, True, False, True, True])


def test_curve_solved_in_the_head():
    curve = purity_curve(SCORE, IS_EVENT)
    assert curve["threshold"].tolist() == [9, 8, 7]
    assert curve["n_events"].tolist() == [1, 2, 3]
    assert curve["n_artefacts"].tolist() == [0, 1, 1]
    assert curve["completeness"].tolist() == [0.25, 0.5, 0.75]  # the last event is lost at any threshold
    assert curve["purity"].tolist() == pytest.approx([1, 2 / 3, 3 / 4])
    assert (curve["purity_low"] < curve["purity"]).all()
    assert (curve["purity_high"] <= 1 + 1e-12).all()


def test_purity_where_a_share_of_the_events_is_kept():
    curve = purity_curve(SCORE, IS_EVENT)
    assert purity_at(curve, 0.5)["threshold"] == 8
    assert purity_at(curve, 0.6)["threshold"] == 7
    assert purity_at(curve, 0.9) is None


def test_a_detector_that_scores_nothing_has_no_curve():
    assert purity_curve(np.full(3, -np.inf), np.array([True, False, True])).empty

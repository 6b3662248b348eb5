"""How many triggers a search judges."""

import math

import numpy as np
from flat_amplifier import flat_amplifier

from shutterless.pipeline.detection.threshold import NO_LIMIT, TriggerBudget


def test_a_budget_grows_with_the_seconds_of_an_amplifier_and_leaves_one_at_least():
    amplifier = flat_amplifier(np.zeros((4, 6000)), sky_e=300.0, sigma_e=20.0, sigma_px=0.85)
    assert amplifier.readout.row_rate_hz == 300
    assert TriggerBudget(80.0, 2.0).of(amplifier) == (1600, 40)
    assert TriggerBudget(80.01, 0.001).of(amplifier) == (1601, 1)
    assert NO_LIMIT.of(amplifier) == (math.inf, math.inf)

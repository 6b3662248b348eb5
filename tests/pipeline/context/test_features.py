from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from flat_amplifier import flat_amplifier

from shutterless.pipeline.context.features import CONTEXT_FEATURES, ContextError, measure_context
from shutterless.pipeline.detection.triggers import LEAST_SHARE, find_triggers


def amplifier(shift: int):
    """Noise with a star and events; everything ``shift`` columns to the right of the first."""
    residual = np.random.default_rng(3).standard_normal((80, 4000))
    residual[38:43, 2000:2040] += 2.0
    residual = np.roll(residual, shift, axis=0)
    found = flat_amplifier(residual, sky_e=300.0, sigma_e=20.0, sigma_px=0.85, streak_x=[40.0 + shift])
    found.streaks["flux_e_row"], found.streaks["y0"] = 500.0, np.nan
    return found


def test_no_feature_knows_where_on_the_detector_a_trigger_is():
    assert not {"x", "y", "ccd", "quadrant", "row_start", "row_stop", "row_peak", "entry"} & set(CONTEXT_FEATURES)
    tables = []
    for shift in (0, 7):
        stack = amplifier(shift)
        triggers = find_triggers(stack, 5.0, least_share=LEAST_SHARE)
        inner = triggers["x"].between(30 + shift, 50 + shift)
        context = measure_context(stack, triggers)[inner].drop(columns=["triggers_per_mpix", "same_row_excess"])
        tables.append(context.reset_index(drop=True))
    assert len(tables[0]) > 0
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-4)


def test_a_feature_that_is_a_place_would_be_seen():
    stack = amplifier(0)
    triggers = find_triggers(stack, 5.0)
    moved = find_triggers(amplifier(7), 5.0)
    assert not np.allclose(triggers["x"].iloc[:5], moved["x"].iloc[:5])


def test_every_feature_is_measured():
    stack = amplifier(0)
    context = measure_context(stack, find_triggers(stack, 5.0))
    assert list(context.columns) == list(CONTEXT_FEATURES)
    unknown = ["onset_rows", "same_time_excess", "neighbour_height", "neighbour_distance_px"]
    known = context[context["star_height"].notna()].drop(columns=unknown)
    assert len(known) > 0
    assert known.notna().all().all()


def test_image_cubes_have_no_context():
    stack = amplifier(0)
    cube = replace(stack, residual=np.repeat(stack.residual, 2, axis=0))
    with pytest.raises(ContextError, match=r"is a stack of 2 rows .* --model template-bank"):
        measure_context(cube, find_triggers(stack, 5.0))

"""Examples at candidates that people vetted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.events.kinds import KINDS
from shutterless.pipeline.examples.training import UNKNOWN_KIND, ExampleSettings, Labels, draw_examples
from shutterless.pipeline.examples.vetted import MOST_REPEATS, cut_vetted, draw_vetted
from shutterless.pipeline.tokens import TokenGrid

GRID = TokenGrid(n_columns=8, n_rows=64, patch_rows=8, bins=(1, 4))


@pytest.fixture(scope="module")
def amplifier(make_amplifier):
    """Noise, with a source of four rows in two places."""
    amplifier = make_amplifier(n_columns=128)
    for x, row in ((40, 700), (90, 1500)):
        amplifier.residual[0, x - 1 : x + 2, row : row + 4] += np.array([3, 8, 3], dtype=np.float16)[:, None]
    return amplifier


@pytest.fixture(scope="module")
def vetted():
    """The first is an event, the second pickup; at a third place there is nothing."""
    places = {"x": [40.2, 90.0, 10.0], "y": [pd.NA] * 3, "row_start": [700, 1500, 300], "row_stop": [703, 1503, 303]}
    table = pd.DataFrame(places).astype({"y": "Int64"})
    return table.assign(label=["event", "artefact", "event"], kind=["", "pickup", ""], weight=[0.5, 1.0, 1.0])


def test_each_candidate_is_cut_at_its_strongest_trigger(amplifier, vetted):
    examples, found = cut_vetted(amplifier, vetted, GRID, np.array([7, 8, 9]))
    assert found.tolist() == [0, 1]
    assert examples.labels.is_event.tolist() == [1, 0]
    assert examples.labels.kind.tolist() == [UNKNOWN_KIND, KINDS.index("pickup")]
    assert examples.labels.weight.tolist() == [0.5, 1.0]
    assert examples.groups.tolist() == [7, 8]
    triggers = find_triggers(amplifier, ExampleSettings.threshold)
    strongest = [triggers.loc[(triggers["x"] - x).abs() < 3, "snr"].abs().max() for x in (40, 90)]
    np.testing.assert_allclose(examples.strips.features[:, 0], strongest, rtol=1e-6)


def test_where_there_is_a_label_nothing_is_taken_for_free_of_events(amplifier, vetted):
    settings = ExampleSettings(n_events=0, n_cosmic_rays=0, n_noise=0)
    rng = np.random.default_rng(0)
    plain = draw_examples(amplifier, GRID, rng, settings)
    apart = draw_examples(amplifier, GRID, rng, settings, labelled=vetted)
    assert plain.strips.features[:, 0].max() > 10
    assert len(apart) < len(plain)
    assert apart.strips.features[:, 0].max() < 10


def test_events_and_artefacts_are_drawn_equally_often_and_none_too_often():
    is_event = np.array([1, 0, 0, 0, 0, 0], np.float32)
    labels = Labels(is_event, *(np.zeros(6) for _ in range(4)))
    chosen = draw_vetted(labels, 60, np.random.default_rng(1))
    assert np.bincount(chosen).tolist() == [30, 6, 6, 6, 6, 6]
    assert np.bincount(draw_vetted(labels, 400, np.random.default_rng(1)))[0] == MOST_REPEATS
    assert len(draw_vetted(labels[1:], 10, np.random.default_rng(1))) == 10

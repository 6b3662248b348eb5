"""Examples of every kind of event: their pixels contain the event."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.events.kinds import EVENT_KINDS
from shutterless.pipeline.simulation.sky.event_examples import example_event


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_an_example_shows_its_event(kind):
    """Brighter or fainter than star and sky in the middle of the picture; the noise is that of the mean."""
    example = example_event(np.random.default_rng(2), kind)
    n_rows, n_columns = example.mean_e.shape
    assert len(example.curve_e) == n_rows
    assert np.abs(example.curve_e).max() > 5
    light = example.mean_e.sum(axis=1) - 314 * n_columns
    assert np.ptp(light) == pytest.approx(np.ptp(example.curve_e), rel=0.02)
    assert 0 <= example.event.row_peak < n_rows
    noise = (example.exposed_e - example.mean_e) / np.sqrt(example.mean_e + 100)
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))


def test_what_there_is_no_example_of():
    with pytest.raises(ValueError, match=r"no example of 'nova'; there are flare, burst, occultation"):
        example_event(np.random.default_rng(2), "nova")

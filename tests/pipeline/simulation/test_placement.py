"""Simulated events: every kind is placed, partial events are cut, and truth rows hold the part in the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from shutterless.pipeline.events.kinds import EVENT_KINDS, STAR_KINDS
from shutterless.pipeline.simulation.placement import place_event, place_events
from shutterless.pipeline.simulation.scene import EVENTS, draw_scene
from shutterless.pipeline.simulation.settings import SceneError, SceneSettings

SETTINGS = SceneSettings(rows=6000, n_bright_stars=100.0, seed=5)


@pytest.fixture(scope="module")
def scene():
    return draw_scene(SETTINGS, 1, 1)


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_every_kind_is_placed_with_the_rho_it_says(scene, kind):
    """Σ s²/V over its pixels, photons and read noise of sky and stars without it; truth rows lie in the file."""
    rows = SETTINGS.sequence_rows(1)
    rng = np.random.default_rng(2)
    for cut in (None, "first", "last"):
        placed = place_event(scene, rng, kind, 9.0, rows, cut=cut)
        lit = rows[placed.first_row : placed.first_row + len(placed.curve)]
        variance = scene.variance_e2(lit, placed.first_column, len(placed.profile))
        signal = placed.event.amplitude_e * np.outer(placed.curve, placed.profile)
        assert placed.rho == pytest.approx(np.sqrt(np.sum(signal**2 / variance)), rel=1e-6)
        start, stop, peak = placed.rows
        assert 0 <= start <= peak <= stop < len(rows)
        if kind in STAR_KINDS and kind != "burst":
            assert placed.event.star_id >= 0


def test_a_share_of_simulated_events_touches_an_edge():
    """Of bursts in a file from within the sequence a tenth; of one that begins it, at its last row only."""
    settings = replace(SETTINGS, events=150, kinds=("burst",), rows=3000, partial=0.2)
    scene = draw_scene(settings, 1, 1)
    for file_index, edges in ((0, {"last"}), (1, {"first", "last"})):
        rows = settings.sequence_rows(file_index)
        placed = place_events(settings, scene, settings.generator(EVENTS, file_index), rows, np.full(150, 10.0))
        where = ["first" if p.rows[0] < 4 else "last" if p.rows[1] > 2995 else "" for p in placed]
        assert np.mean([edge != "" for edge in where]) == pytest.approx(0.2, abs=0.1)
        assert {edge for edge in where if edge} == edges


def test_an_eclipse_lasts_beyond_its_truth_rows(scene):
    """The rows are those of the change, a few Fresnel scales; the light stays changed to the end of the file."""
    placed = place_event(scene, np.random.default_rng(4), "eclipse", 9.0, SETTINGS.sequence_rows(1))
    start, stop, _ = placed.rows
    assert stop - start < 16 * placed.event.scale_rows + 10
    assert placed.first_row + len(placed.curve) == SETTINGS.rows
    assert placed.curve[-1] == pytest.approx(1.0)


def test_settings_of_partial_events_are_checked():
    with pytest.raises(SceneError, match=r"\[partial\] = 1\.5: input should be less than or equal to 1"):
        replace(SETTINGS, partial=1.5)
    with pytest.raises(SceneError, match=r"\[longest_flare_s\] = 0\.0: input should be greater than 0"):
        replace(SETTINGS, longest_flare_s=0.0)


@pytest.mark.parametrize("kind", ["burst", "occultation", "eclipse"])
def test_the_known_shape_filter_finds_what_rho_predicts(scene, kind):
    """At η = 6.5 a share Φ(ρ - η) of 10,000 exposures, within 2 points; benchmarks/injection.py does it at length."""
    rng, rows = np.random.default_rng(3), range(20_000, 20_120)
    placed = place_event(scene, rng, kind, 9.0, rows)
    lit = rows[placed.first_row : placed.first_row + len(placed.curve)]
    level = scene.baseline_e(lit, placed.first_column, len(placed.profile))
    variance = level + scene.read_noise_e**2
    shape = np.outer(placed.curve, placed.profile) * np.sign(placed.event.amplitude_e)
    shape /= np.sqrt(np.sum(shape**2 / variance))
    for rho in (5.0, 6.5, 8.0):
        statistic = []
        for _ in range(10):
            mean = np.broadcast_to(np.maximum(level + rho * shape, 0), (1000, *level.shape))
            electrons = rng.poisson(mean) + scene.read_noise_e * rng.standard_normal(mean.shape)
            read = 6.2 * np.rint(electrons / 6.2)
            statistic.append(np.tensordot(read - level, shape / variance, axes=2))
        assert np.mean(np.concatenate(statistic) >= 6.5) == pytest.approx(ndtr(rho - 6.5), abs=0.02)

"""Kinds of event: their ranges, the pixels they light, their optimal S/N, and where they are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shutterless.pipeline.events.diffraction import occultation_depth
from shutterless.pipeline.events.events import (
    BRIGHTEST_EGRESS,
    Event,
    amplitude_limits,
    central_rows,
    choose_cut,
    draw_event,
    event_rows,
    event_stamp,
    magnitude_change,
    optimal_rho,
    scale_to_rho,
)
from shutterless.pipeline.events.kinds import DEFAULT_KINDS, ENDLESS_KINDS, EVENT_KINDS, EVENT_TABLE
from shutterless.pipeline.events.red_noise import flickering_waves
from shutterless.pipeline.psf import pixel_profile

SIGMA = 0.84


def test_rho_of_a_top_hat_solved_by_hand():
    # 4 rows x 2 columns of 5 e- each over a variance of 25: √8
    assert optimal_rho(np.full((4, 2), 5.0), np.full((4, 2), 25.0)) == pytest.approx(np.sqrt(8))
    # S/N in quadrature: a pixel of 3σ and one of 4σ
    assert optimal_rho(np.array([[3.0, 8.0]]), np.array([[1.0, 4.0]])) == pytest.approx(5.0)


def test_rho_is_the_mean_of_the_optimal_statistic():
    rng = np.random.default_rng(5)
    event = Event("burst", 8.3, 50.2, 6.0, 60.0)
    curve, first, profile = event_stamp(event, 100, 40, SIGMA)
    signal = event.amplitude_e * np.outer(curve, profile)
    variance = 420.0 * np.ones_like(signal)
    rho = optimal_rho(signal, variance)
    noise = rng.standard_normal((4000, *signal.shape)) * np.sqrt(variance)
    statistic = np.sum((noise + signal) * signal / variance, axis=(1, 2)) / rho
    assert statistic.mean() == pytest.approx(rho, abs=5 / np.sqrt(4000))
    assert statistic.std() == pytest.approx(1.0, abs=5 / np.sqrt(8000))
    assert first == 8 - 5


def test_scaling_reaches_the_wanted_rho_with_the_kinds_sign():
    event = scale_to_rho(Event("occultation", 5, 5, 5, -1.0, star_id=3), unit_rho=0.25, rho=10.0)
    assert event.amplitude_e == -40.0
    assert scale_to_rho(Event("flare", 5, 5, 5, 1.0), unit_rho=0.25, rho=10.0).amplitude_e == 40.0


def test_an_occultation_takes_no_more_than_the_star_gives():
    event = Event("occultation", 5, 5, 5, -1.0, star_id=3, shape=(("radius", 1.0), ("impact", 0.5)))
    lowest, highest = amplitude_limits(event, 200.0)
    assert highest == pytest.approx(200 * occultation_depth(1.0, 0.5))
    assert 0 < lowest < highest <= 200.0
    assert amplitude_limits(Event("flare", 5, 5, 5, 1.0, star_id=0), 200.0) == (20.0, 4000.0)
    assert amplitude_limits(Event("burst", 5, 5, 5, 1.0), 200.0) == (0.0, float("inf"))


def test_central_rows_of_twenty_equal_rows():
    fluence = np.zeros(100)
    fluence[30:50] = -1.0
    # 5 % is reached at the end of the first row, 95 % at the end of the nineteenth
    assert central_rows(fluence) == (30, 48, 30)
    with pytest.raises(ValueError, match="no central rows"):
        central_rows(np.zeros(5))


def test_stamp_at_the_edge_keeps_what_exists():
    _, first, profile = event_stamp(Event("burst", 0.0, 5.0, 1.0, 1.0), 10, 64, SIGMA)
    assert first == 0
    assert profile.sum() == pytest.approx(0.5 + pixel_profile(0.0, SIGMA) / 2, abs=1e-6)
    _, _, nothing = event_stamp(Event("burst", -50.0, 5.0, 1.0, 1.0), 10, 64, SIGMA)
    assert nothing.size == 0


@pytest.mark.parametrize("kind", DEFAULT_KINDS)
def test_drawn_events_fit_between_their_limits(kind):
    rng = np.random.default_rng(11)
    for _ in range(25):
        event = draw_event(rng, kind, row_rate_hz=300.0, n_rows=3000, x=10.0, earliest_row=400.0)
        shortest, longest = (scale * 300 for scale in EVENT_TABLE[kind].scale_s)
        assert shortest <= event.scale_rows <= min(longest, 2600)
        start, stop, _ = event_rows(kind, event_light_curve_over(event, 3000))
        assert start - 3000 >= 400
        assert stop - 3000 < 3000


def event_light_curve_over(event, margin):
    """Light curve from ``margin`` rows before a file of 3000 rows to as many after it."""
    return replace(event, row_peak=event.row_peak + margin).light_curve(3000 + 2 * margin, SIGMA)


@pytest.mark.parametrize("kind", ENDLESS_KINDS)
def test_endless_events_begin_or_peak_within_the_file(kind):
    rng = np.random.default_rng(12)
    for _ in range(10):
        event = draw_event(rng, kind, row_rate_hz=300.0, n_rows=6000, x=10.0, earliest_row=400.0)
        shortest, longest = (scale * 300 for scale in EVENT_TABLE[kind].scale_s)
        assert shortest <= event.scale_rows <= longest
        assert 400 <= event.row_peak < 6000
        if kind == "pulsar":
            start, stop, _ = event_rows(kind, event.light_curve(6000, SIGMA))
            assert 400 <= start < stop
            assert event.shape == (("period_rows", pytest.approx(10.05)),)


def test_what_has_two_signs_gets_both():
    rng = np.random.default_rng(13)
    signs = {
        kind: {draw_event(rng, kind, row_rate_hz=300.0, n_rows=9000, x=1.0).amplitude_e for _ in range(30)}
        for kind in EVENT_KINDS
    }
    assert signs == {kind: set(EVENT_TABLE[kind].signs) for kind in EVENT_KINDS}
    both = {kind for kind, found in signs.items() if found == {-1.0, 1.0}}
    assert both == {"eclipse", "flickering", "qpo"}
    assert signs["occultation"] == {-1.0}
    assert signs["flare"] == signs["burst"] == signs["glint"] == signs["pulsar"] == {1.0}


@pytest.mark.parametrize("kind", ["flare", "burst", "occultation", "glint", "eclipse", "pulsar"])
@pytest.mark.parametrize("cut", ["first", "last"])
def test_partial_events_are_cut_by_the_edge_they_should_be(kind, cut):
    """The edge of the file lies within the event: part of its light is inside, part of it beyond."""
    rng = np.random.default_rng(14)
    beyond = 0
    for _ in range(20):
        event = draw_event(rng, kind, row_rate_hz=300.0, n_rows=3000, x=1.0, cut=cut)
        around = event_light_curve_over(event, 20_000)
        np.testing.assert_allclose(event.light_curve(3000, SIGMA), around[20_000:23_000], atol=1e-9)
        around = np.abs(np.diff(around) if kind == "eclipse" else around)
        assert around[20_000:23_000].sum() > 0.003 * around.sum()
        outside = around[:20_000] if cut == "first" else around[23_000:]
        beyond += outside.sum() > 0.01 * around.sum()
    assert beyond >= 15


def test_partial_flares_may_be_longer_than_whole_ones():
    rng = np.random.default_rng(15)
    drawn = {"row_rate_hz": 300.0, "n_rows": 10_000, "x": 1.0}
    whole = [draw_event(rng, "flare", **drawn).scale_rows / 300 for _ in range(100)]
    partial = [draw_event(rng, "flare", **drawn, cut="last").scale_rows / 300 for _ in range(100)]
    asked = [draw_event(rng, "flare", **{**drawn, "n_rows": 300_000}, longest_flare_s=60.0) for _ in range(100)]
    assert (max(whole) <= 2.0, max(partial) > 20.0, max(e.scale_rows for e in asked) > 6000) == (True, True, True)


def test_a_share_of_events_is_cut():
    rng = np.random.default_rng(16)
    cuts = [choose_cut(rng, 0.3) for _ in range(4000)]
    assert np.mean([cut is not None for cut in cuts]) == pytest.approx(0.3, abs=0.03)
    assert {cut for cut in cuts if cut} == {"first", "last"}
    assert {choose_cut(rng, 1.0, ("last",)) for _ in range(20)} == {"last"}
    assert choose_cut(rng, 0.0) is None


def test_rows_of_an_eclipse_are_those_of_the_change():
    """Light that disappears over rows 40 to 55, a sixteenth in each, and does not return."""
    curve = np.clip((np.arange(200) - 39.0) / 16, 0, 1)
    assert event_rows("eclipse", curve) == (40, 55, 40)
    assert event_rows("flare", curve)[1] == 192


def test_light_before_a_streak_begins_or_after_it_ends_is_not_seen():
    event = Event("burst", 8.0, 100.0, 60.0, 1.0, shape=(("profile", "tophat"),))
    whole, late = (event_stamp(event, 200, 20, SIGMA, begins_row=row)[0] for row in (None, 100.0))
    assert late[100] == pytest.approx(whole[100] / 2)
    np.testing.assert_allclose(late[110:], whole[110:], atol=1e-9)
    assert late[:90].max() < 1e-9
    early = event_stamp(event, 200, 20, SIGMA, ends_row=100.0)[0]
    np.testing.assert_allclose(early + late, whole, atol=1e-9)


def test_eclipses_flickering_and_oscillations_have_their_ranges():
    down = Event("eclipse", 5, 5, 5, -1.0, star_id=0, shape=(("direction", "down"),))
    assert amplitude_limits(down, 100.0) == pytest.approx((5.0, 100.0))
    assert amplitude_limits(replace(down, amplitude_e=1.0), 100.0)[1] == 100 * BRIGHTEST_EGRESS
    shape = {"exponent": 2.0, "realisation": 3}
    lowest, highest = amplitude_limits(Event("flickering", 5, 5, 900, 1.0, star_id=0, shape=tuple(shape.items())), 1e3)
    rms = flickering_waves(**shape).rms
    assert (lowest * rms, highest * rms) == pytest.approx((10.0, 100.0))
    slow = Event("qpo", 5.0, 5.0, 900.0, 1.0, star_id=0, shape=(("realisation", 3),))
    lowest, highest = amplitude_limits(slow, 1e3)
    assert highest / lowest == pytest.approx(50)  # 0.1 to 5 %


def test_magnitude_change_of_a_star():
    """A star that doubles brightens by 0.753 mag; one that vanishes counts as 10 mag fainter."""
    assert magnitude_change(Event("flare", 5, 5, 5, 200.0, star_id=1), 200.0) == pytest.approx(-0.7526, abs=1e-4)
    assert magnitude_change(Event("eclipse", 5, 5, 5, -200.0, star_id=1), 200.0) == pytest.approx(10.0)
    assert np.isnan(magnitude_change(Event("burst", 5, 5, 5, 9.0), 200.0))


def test_a_draw_is_reproducible_and_short_files_get_short_events():
    draws = [draw_event(np.random.default_rng(2), "burst", row_rate_hz=300.0, n_rows=100, x=1.0) for _ in range(2)]
    assert draws[0] == draws[1]
    assert draw_event(np.random.default_rng(4), "burst", row_rate_hz=300.0, n_rows=100, x=1.0) != draws[0]
    rng = np.random.default_rng(3)
    events = [draw_event(rng, "burst", row_rate_hz=300.0, n_rows=60, x=1.0) for _ in range(50)]
    assert max(event.scale_rows for event in events) < 60
    with pytest.raises(ValueError, match=r"a flare needs at least 248 rows, rows 0 to 100 hold 100"):
        draw_event(rng, "flare", row_rate_hz=300.0, n_rows=100, x=1.0)

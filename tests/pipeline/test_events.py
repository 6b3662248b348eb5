from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf, erfc

from shutterless.pipeline.events import (
    EVENT_KINDS,
    KINDS,
    SCALE_RANGES_S,
    Event,
    amplitude_limits,
    central_rows,
    draw_event,
    event_light_curve,
    event_stamp,
    flare_template,
    fresnel_pattern,
    occultation_depth,
    optimal_rho,
    scale_to_rho,
    smeared_step,
)
from shutterless.pipeline.psf import pixel_profile

SIGMA = 0.84


def brute_force(shape, n_rows: int, row_peak: float, scale: float, reach: tuple[float, float]) -> np.ndarray:
    """Sum of a densely sampled light curve, each sample spread by the pixel-integrated point-spread function."""
    step = scale / (400 * max(int(scale), 1))
    time = np.arange(reach[0] * scale, reach[1] * scale, step) + step / 2
    return step * pixel_profile(np.arange(n_rows)[:, None] - row_peak - time, SIGMA) @ shape(time / scale)


def test_order_of_kinds_is_the_class_index():
    assert KINDS == ("noise", "flare", "burst", "occultation", "glint", "cosmic_ray", "pickup")


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 7.0, 60.0])
def test_flare_equals_brute_force(scale):
    expected = brute_force(flare_template, 200, 40.3, scale, (-3.0, min(100.0, 170 / scale)))
    np.testing.assert_allclose(
        event_light_curve("flare", 200, 40.3, scale, SIGMA), expected, atol=2e-6 * min(scale, 1.0)
    )


@pytest.mark.parametrize("length", [0.09, 1.0, 5.0, 80.0])
@pytest.mark.parametrize("profile", ["tophat", "gaussian"])
def test_burst_equals_brute_force(length, profile):
    shapes = {
        "tophat": lambda t: (np.abs(t) < 0.5).astype(float),
        "gaussian": lambda t: np.exp(-4 * np.log(2) * t**2),
    }
    expected = brute_force(shapes[profile], 200, 90.7, length, (-3.0, 3.0))
    curve = event_light_curve("burst", 200, 90.7, length, SIGMA, profile=profile)
    np.testing.assert_allclose(curve, expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "area"), [("burst", 1.0), ("glint", 0.5 * np.sqrt(np.pi / np.log(2)))])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0])
def test_light_is_conserved_however_short_the_event(kind, area, scale):
    assert event_light_curve(kind, 300, 150.4, scale, SIGMA).sum() == pytest.approx(area * scale, rel=1e-9)


def test_long_events_peak_at_one_and_short_ones_at_their_share_of_a_row():
    assert event_light_curve("burst", 300, 150, 100.0, SIGMA)[150] == pytest.approx(1.0)
    # a flash at the centre of a row leaves erf(1/(2√2 σ)) of its light in that row
    flash = event_light_curve("burst", 300, 150, 0.01, SIGMA)
    assert flash[150] == pytest.approx(0.01 * erf(0.5 / SIGMA / np.sqrt(2)), rel=1e-4)


def test_events_past_the_edge_leave_their_part():
    whole = event_light_curve("flare", 300, 100.25, 20.0, SIGMA)
    np.testing.assert_allclose(event_light_curve("flare", 150, -49.75, 20.0, SIGMA), whole[150:], atol=1e-12)
    assert not event_light_curve("flare", 50, 400.0, 20.0, SIGMA).any()
    assert not event_light_curve("burst", 50, 400.0, 20.0, SIGMA).any()


def test_flare_template_is_the_published_formula():
    # Tovar Mendoza et al. 2022, evaluated literally where it does not overflow
    a, b, c, d1, d2, f1 = 0.9687734504, -0.2512997059, 0.2267597495, 0.1555188078, 1.215053953, 0.1269586502
    time = np.linspace(-0.8, 8, 500)
    literal = sum(
        f * np.exp(-d * time + (b / c + d * c / 2) ** 2) * erfc((b - time) / c + c * d / 2)
        for d, f in ((d1, f1), (d2, 1 - f1))
    )
    literal *= np.sqrt(np.pi) * a * c / 2
    ratio = flare_template(time) / literal
    assert np.ptp(ratio) < 1e-9
    assert ratio[0] == pytest.approx(1 / 0.95, abs=0.001)


def test_flare_template_is_finite_far_out_and_about_one_wide():
    time = np.linspace(-50, 500, 55_001)
    light = flare_template(time)
    assert np.all(np.isfinite(light))
    assert light[0] == 0.0
    assert light.max() == pytest.approx(1.0, abs=1e-4)
    assert np.ptp(time[light > 0.5]) == pytest.approx(1.09, abs=0.02)
    # the slow decay constant governs late times
    assert np.log(light[time.searchsorted(40)] / light[time.searchsorted(50)]) == pytest.approx(1.555188078, rel=1e-6)


def test_fresnel_pattern_of_a_disc():
    # Poisson's spot: the centre of the shadow of a disc is as bright as no disc
    assert fresnel_pattern(0.0, 1.3) == pytest.approx(1.0, abs=1e-12)
    assert fresnel_pattern(np.array([60.0]), 0.5)[0] == pytest.approx(1.0, abs=0.02)
    # a disc of many Fresnel scales casts a shadow, and its edge passes a quarter of the light like a straight edge
    assert fresnel_pattern(3.0, 5.0) < 0.05
    assert fresnel_pattern(5.0, 5.0) == pytest.approx(0.25, abs=0.08)


def test_small_discs_dim_little_and_large_ones_all():
    assert occultation_depth(0.1, 0.0) < 0.05
    assert 0.8 < occultation_depth(1.0, 0.0) < 1.0
    assert occultation_depth(0.5, 0.0) > occultation_depth(0.5, 1.2)


def test_occultation_is_symmetric_and_as_deep_as_its_depth():
    curve = event_light_curve("occultation", 801, 400.0, 50.0, SIGMA, radius=1.0, impact=0.4)
    np.testing.assert_allclose(curve, curve[::-1], atol=1e-9)
    assert curve.max() == pytest.approx(1.0, abs=0.005)
    # Nihei et al. 2007 (AJ 134, 1596): the first bright ring is 2 (√3^(3/2) + r^(3/2))^(2/3) Fresnel scales across
    ring = 2 * np.argmin(curve[400:]) / 50.0
    assert ring == pytest.approx(2 * (3**0.75 + 1) ** (2 / 3), rel=0.1)


def test_unknown_kinds_and_profiles_are_named():
    with pytest.raises(ValueError, match=r"'nova' is no kind of event; known are flare, burst, occultation, glint"):
        event_light_curve("nova", 10, 5, 1, SIGMA)
    with pytest.raises(ValueError, match=r"burst profile 'saw' is neither 'tophat' nor 'gaussian'"):
        event_light_curve("burst", 10, 5, 1, SIGMA, profile="saw")


def test_smeared_step_goes_from_0_to_1_through_one_half():
    np.testing.assert_allclose(smeared_step(np.array([-20.0, 0.0, 20.0]), SIGMA), [0, 0.5, 1], atol=1e-9)


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


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_drawn_events_fit_between_their_limits(kind):
    rng = np.random.default_rng(11)
    for _ in range(25):
        event = draw_event(rng, kind, row_rate_hz=300.0, n_rows=3000, x=10.0, earliest_row=400.0)
        shortest, longest = (scale * 300 for scale in SCALE_RANGES_S[kind])
        assert shortest <= event.scale_rows <= longest
        curve = event_light_curve(kind, 9000, event.row_peak + 3000, event.scale_rows, SIGMA, **dict(event.shape))
        start, stop, _ = central_rows(curve)
        assert start - 3000 >= 400
        assert stop - 3000 < 3000


def test_a_draw_is_reproducible_and_short_files_get_short_events():
    draws = [draw_event(np.random.default_rng(2), "burst", row_rate_hz=300.0, n_rows=100, x=1.0) for _ in range(2)]
    assert draws[0] == draws[1]
    rng = np.random.default_rng(3)
    events = [draw_event(rng, "burst", row_rate_hz=300.0, n_rows=60, x=1.0) for _ in range(50)]
    assert max(event.scale_rows for event in events) < 60
    with pytest.raises(ValueError, match=r"a flare needs at least 248 rows, rows 0 to 100 hold 100"):
        draw_event(rng, "flare", row_rate_hz=300.0, n_rows=100, x=1.0)

"""Light curves of every kind of event: against brute force and published formulae, with their light conserved."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf, erfc

from shutterless.pipeline.events.diffraction import edge_rise
from shutterless.pipeline.events.light_curves import event_light_curve, flare_template, smeared_step
from shutterless.pipeline.psf import pixel_profile

SIGMA = 0.84


def brute_force(shape, n_rows: int, row_peak: float, scale: float, reach: tuple[float, float]) -> np.ndarray:
    """Sum of a densely sampled light curve, each sample spread by the pixel-integrated point-spread function."""
    step = scale / (400 * max(int(scale), 1))
    time = np.arange(reach[0] * scale, reach[1] * scale, step) + step / 2
    return step * pixel_profile(np.arange(n_rows)[:, None] - row_peak - time, SIGMA) @ shape(time / scale)


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


def test_unknown_kinds_and_profiles_are_named():
    with pytest.raises(ValueError, match=r"'nova' is no kind of event; known are flare, burst, occultation, glint"):
        event_light_curve("nova", 10, 5, 1, SIGMA)
    with pytest.raises(ValueError, match=r"burst profile 'saw' is neither 'tophat' nor 'gaussian'"):
        event_light_curve("burst", 10, 5, 1, SIGMA, profile="saw")


def test_smeared_step_goes_from_0_to_1_through_one_half():
    np.testing.assert_allclose(smeared_step(np.array([-20.0, 0.0, 20.0]), SIGMA), [0, 0.5, 1], atol=1e-9)


def test_occultation_is_symmetric_and_as_deep_as_its_depth():
    curve = event_light_curve("occultation", 801, 400.0, 50.0, SIGMA, radius=1.0, impact=0.4)
    np.testing.assert_allclose(curve, curve[::-1], atol=1e-9)
    assert curve.max() == pytest.approx(1.0, abs=0.005)
    # Nihei et al. 2007 (AJ 134, 1596): the first bright ring is 2 (√3^(3/2) + r^(3/2))^(2/3) Fresnel scales across
    ring = 2 * np.argmin(curve[400:]) / 50.0
    assert ring == pytest.approx(2 * (3**0.75 + 1) ** (2 / 3), rel=0.1)


@pytest.mark.parametrize("scale", [0.3, 4.0, 30.0])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_eclipse_equals_brute_force(scale, direction):
    """Against a fine sum over the pattern itself: within the shadow's reach, and 0 and 1 beyond it."""
    rise = edge_rise(0.4)
    shape = rise if direction == "up" else (lambda w: 1 - rise(-w))
    step = scale / (200 * max(int(scale), 1))
    fine = np.arange(-60.0, 360.0, step) + step / 2
    rows = np.arange(300)
    expected = np.array([step * pixel_profile(row - 130.3 - (fine - 130.3), SIGMA) @ shape((fine - 130.3) / scale)
                         for row in rows[::7]])  # fmt: skip
    curve = event_light_curve("eclipse", 300, 130.3, scale, SIGMA, direction=direction, star_radius=0.4)
    np.testing.assert_allclose(curve[::7], expected, atol=2e-3)


def test_eclipses_of_both_directions_mirror_each_other():
    """The light curve of an ingress is 1 minus that of an egress reversed in time."""
    up = event_light_curve("eclipse", 401, 200.0, 12.0, SIGMA, direction="up")
    down = event_light_curve("eclipse", 401, 200.0, 12.0, SIGMA, direction="down")
    np.testing.assert_allclose(down, 1 - up[::-1], atol=1e-9)
    assert (up[0], up[-1], down[0], down[-1]) == pytest.approx((0, 1, 0, 1), abs=1e-9)
    assert up.max() > 1.2  # the fringe after egress
    assert down.min() < -0.2  # and before ingress


def test_pulses_of_the_crab():
    """33.5 ms at 300 rows a second are 10.05 rows; the light of 21 pulses and interpulses of 0.35 times as much."""
    curve = event_light_curve("pulsar", 400, 200.0, 202.0, SIGMA, period_rows=10.05)
    area = 0.045 * 10.05 * np.sqrt(np.pi / np.log(2)) / 2
    assert curve.sum() == pytest.approx(21 * 1.35 * area, rel=1e-6)
    assert curve[196:205].argmax() == 4
    assert not curve[:90].any()
    # resolved in time the pulse stands 0.4 of a period before an interpulse 0.35 times as high
    slow = event_light_curve("pulsar", 3000, 1500.0, 1.0, 1e-6, period_rows=1000.0)
    assert (slow.argmax(), slow[1900] / slow[1500]) == (1500, pytest.approx(0.35, abs=1e-4))
    assert np.ptp(np.flatnonzero(slow[1400:1600] > 0.5)) == pytest.approx(45, abs=1)


@pytest.mark.parametrize("kind", ["flare", "burst", "occultation", "eclipse", "pulsar", "flickering", "qpo"])
def test_a_window_is_that_part_of_the_whole(kind):
    shapes = {
        "occultation": {"radius": 1.2, "impact": 0.3, "star_radius": 0.5},
        "eclipse": {"direction": "up"},
        "pulsar": {"period_rows": 10.05},
        "flickering": {"exponent": 2.0, "realisation": 1},
        "qpo": {"realisation": 2},
    }
    shape = shapes.get(kind, {})
    whole = event_light_curve(kind, 600, 290.3, 60.0, SIGMA, **shape)
    np.testing.assert_allclose(event_light_curve(kind, 100, 40.3, 60.0, SIGMA, **shape), whole[250:350], atol=1e-9)


def test_eclipse_directions_are_two():
    with pytest.raises(ValueError, match=r"eclipse direction 'out' is neither 'down' nor 'up'"):
        event_light_curve("eclipse", 10, 5, 1, SIGMA, direction="out")

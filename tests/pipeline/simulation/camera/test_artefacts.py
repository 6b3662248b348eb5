from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.simulation.camera.artefacts import (
    COSMIC_RAYS_PER_PIXEL_S,
    RowWaves,
    _draw_cosine,
    _draw_track,
    cosmic_ray_light_curve,
    draw_cosmic_ray,
    draw_cosmic_rays,
    draw_drift,
    draw_mains,
    draw_pickup_bursts,
)
from shutterless.pipeline.simulation.content import draw_row_waves
from shutterless.pipeline.simulation.settings import SceneSettings


def test_rate_is_that_of_a_ztf_quadrant():
    pixels = 3080 * 3072
    assert pixels * COSMIC_RAYS_PER_PIXEL_S == pytest.approx(0.85)


def test_number_of_cosmic_rays_is_poisson_about_the_rate():
    # 1000 s of steady state of a quadrant: 850 ± 29
    n_rows = 300_000
    rays = draw_cosmic_rays(np.random.default_rng(1), range(3080, 3080 + n_rows), 3072, 300.0, 3080)
    assert len(rays) == pytest.approx(850, abs=4 * np.sqrt(850))


def test_cosmic_rays_are_rarer_in_the_ramp():
    # 300 ramps of 3080 rows: time on the detector rises linearly from 0, half as many, and none at the beginning
    rng, n_ramps = np.random.default_rng(2), 300
    rays = [ray for _ in range(n_ramps) for ray in draw_cosmic_rays(rng, range(3080), 3072, 300.0, 3080)]
    expected = 0.85 / 2 * 3080 / 300 * n_ramps
    assert len(rays) == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert np.mean([ray.rows[0] for ray in rays]) == pytest.approx(2 / 3 * 3080, rel=0.05)


def test_cosmic_rays_stay_on_the_detector_and_hit_each_pixel_once():
    rng = np.random.default_rng(3)
    for _ in range(300):
        ray = draw_cosmic_ray(rng, rng.uniform(-0.5, 19.5), rng.uniform(-0.5, 9.5), 20, 10)
        assert np.all((ray.rows >= 0) & (ray.rows < 20) & (ray.columns >= 0) & (ray.columns < 10))
        assert len(set(zip(ray.rows, ray.columns, strict=True))) == len(ray.rows)


def extent(ray) -> int:
    return max(np.ptp(ray.rows), np.ptp(ray.columns)) + 1


def test_tracks_come_in_all_lengths_and_charge_goes_with_length():
    rng = np.random.default_rng(4)
    rays = [draw_cosmic_ray(rng, 500.0, 500.0, 1000, 1000) for _ in range(20_000)]
    charge, length = (np.array(values) for values in zip(*((r.charge_e.sum(), extent(r)) for r in rays), strict=True))
    assert charge.min() >= 100 * (1 - 1e-9)
    assert np.mean(length <= 7) > 0.8
    assert 0.01 < np.mean(length > 12) < 0.1
    # 16 µm of silicon at 70 pairs a µm, and 15 µm a pixel: a steep muon about 1,200 e-, 20 px some 20,000 e-
    assert np.median(charge[length <= 2]) == pytest.approx(1400, rel=0.2)
    assert np.median(charge[length > 20]) == pytest.approx(34_000, rel=0.4)


def test_muons_are_steep_with_a_few_that_graze():
    rng = np.random.default_rng(11)
    cosines = np.array([_draw_cosine(rng) for _ in range(20_000)])
    # by quadrature over the sky: intensity cos², area shortened by the angle to a normal 34 degrees from the zenith
    z, a = np.meshgrid((np.arange(400) + 0.5) / 400, (np.arange(400) + 0.5) / 400 * 2 * np.pi)
    angle = np.abs(z * np.cos(np.radians(34)) + np.sqrt(1 - z**2) * np.cos(a) * np.sin(np.radians(34)))
    weight = z**2 * angle
    for limit in (0.1, 0.3, 0.6, 0.9):
        expected = weight[angle < limit].sum() / weight.sum()
        assert np.mean(cosines < limit) == pytest.approx(expected, abs=4 * np.sqrt(expected / 20_000) + 1e-3)
    # a track longer than 10 px needs a cosine below 0.11: one muon in some hundred
    assert 0.002 < np.mean(cosines < 0.11) < 0.02


def test_muons_are_straight_and_worms_are_not():
    rng = np.random.default_rng(12)
    for wander, straight in ((0.0, True), (1.0, False)):
        tracks = [_draw_track(rng, 20.0, wander) for _ in range(100)]
        ends = np.array([np.hypot(*(track[-1] - track[0])) for track in tracks])
        steps = np.array([np.hypot(*np.diff(track, axis=0).T).sum() for track in tracks])
        np.testing.assert_allclose(steps, 20.0 * 159 / 160, rtol=1e-6)
        assert np.median(ends / steps) > 0.999 if straight else np.median(ends / steps) < 0.6


def test_drift_is_half_common_to_the_amplifiers_of_a_ccd():
    settings, rows = SceneSettings(), np.arange(0, 3_000_000, 7)
    one, two, other = (
        sum(wave.offsets_e(rows, 300.0) for wave in draw_row_waves(settings, ccd, quadrant)[1:])
        for ccd, quadrant in ((1, 1), (1, 2), (2, 1))
    )
    assert one.std() == pytest.approx(3.0, rel=0.1)
    assert np.corrcoef(one, two)[0, 1] == pytest.approx(0.5, abs=0.1)
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(0.0, abs=0.1)


def test_cosmic_rays_are_sharper_than_the_point_spread_function():
    # two-inch seeing puts at most 0.45² of a star's light into one pixel; short tracks often more
    rng = np.random.default_rng(5)
    share = [
        max(ray.charge_e) / ray.charge_e.sum() for ray in (draw_cosmic_ray(rng, 50, 50, 100, 100) for _ in range(500))
    ]
    assert np.median(share) > 0.3


def test_light_curve_of_a_cosmic_ray_keeps_its_charge():
    ray = draw_cosmic_ray(np.random.default_rng(6), 50.0, 50.0, 100, 100)
    curve = cosmic_ray_light_curve(ray)
    assert curve.shape == (ray.rows.max() - ray.rows.min() + 1,)
    assert curve.sum() == pytest.approx(ray.charge_e.sum())


def test_mains_repeat_after_five_rows_at_300_hz():
    waves = draw_mains(np.random.default_rng(7))
    offsets = waves.offsets_e(np.arange(1000), 300.0)
    np.testing.assert_allclose(offsets[5:], offsets[:-5], atol=1e-9)
    # each of two waves has 0.7 to 1.3 times its share of 2 e- rms, so the mean square is 4 (1 + 0.3² / 3)
    rng = np.random.default_rng(8)
    squares = [draw_mains(rng).offsets_e(np.arange(5), 300.0).var() for _ in range(2000)]
    assert np.mean(squares) == pytest.approx(4.12, abs=5 * np.std(squares) / np.sqrt(2000))
    assert np.std(squares) / np.sqrt(2000) < 0.03


def test_waves_run_on_from_file_to_file():
    waves = draw_drift(np.random.default_rng(8))
    whole = waves.offsets_e(np.arange(500), 300.0)
    parts = [waves.offsets_e(np.arange(start, start + 250), 300.0) for start in (0, 250)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_drift_has_equal_power_in_every_octave():
    power = np.zeros(3)
    for seed in range(400):
        waves = draw_drift(np.random.default_rng(seed))
        octave = np.floor(np.log(waves.frequencies_hz / 0.01) / np.log(20 / 0.01) * 3).astype(int)
        power += np.bincount(octave, waves.amplitudes_e**2 / 2, minlength=3)
    np.testing.assert_allclose(power / 400, 3.0, rtol=0.05)  # 9 e-² in all


def test_one_wave_solved_by_hand():
    wave = RowWaves(np.array([75.0]), np.array([2.0]), np.array([0.0]))
    np.testing.assert_allclose(wave.offsets_e(np.arange(4), 300.0), [0, 2, 0, -2], atol=1e-12)


def test_pickup_bursts_are_rare_short_and_strong():
    bursts = draw_pickup_bursts(np.random.default_rng(9), 3_000_000, 300.0)  # 10,000 s
    assert len(bursts) == pytest.approx(200, abs=4 * np.sqrt(200))
    assert {len(burst.offsets_e) for burst in bursts} == {1, 2, 3, 4, 5, 6}
    peaks = np.array([np.abs(burst.offsets_e).max() for burst in bursts])
    assert 7.5 <= peaks.min() < peaks.max() <= 100
    assert {float(np.sign(burst.offsets_e[0])) for burst in bursts} == {-1.0, 1.0}


def test_pickup_bursts_fit_into_short_files():
    rng = np.random.default_rng(10)
    bursts = [burst for _ in range(300) for burst in draw_pickup_bursts(rng, 3, 0.5)]
    assert bursts
    assert all(burst.first_row + len(burst.offsets_e) <= 3 for burst in bursts)

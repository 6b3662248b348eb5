from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.artefacts import (
    COSMIC_RAYS_PER_PIXEL_S,
    RowWaves,
    cosmic_ray_light_curve,
    draw_cosmic_ray,
    draw_cosmic_rays,
    draw_drift,
    draw_mains,
    draw_pickup_bursts,
)


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


def test_charge_spans_the_range_and_most_tracks_are_short():
    rng = np.random.default_rng(4)
    rays = [draw_cosmic_ray(rng, 500.0, 500.0, 1000, 1000) for _ in range(2000)]
    charge = np.array([ray.charge_e.sum() for ray in rays])
    assert charge.min() >= 100 * (1 - 1e-9)
    assert charge.max() <= 50_000 * (1 + 1e-9)
    assert np.median(charge) == pytest.approx(1500, rel=0.1)
    length = np.array([max(np.ptp(ray.rows), np.ptp(ray.columns)) + 1 for ray in rays])
    assert np.mean(length <= 7) > 0.8
    assert length.max() > 10


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
    assert offsets.std() == pytest.approx(2.0, rel=0.4)


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

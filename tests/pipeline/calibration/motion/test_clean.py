"""Motion and focus of an isolated star are subtracted; flux, noise and still air are not changed."""

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.calibration.motion.clean import clean_streaks, predict_amplitude, streak_modes
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout

SIGMA_PX, SIGMA_E, FLUX_E, SKY_E = 0.84, 25.0, 600.0, 300.0
STREAKS = pd.DataFrame({"streak_id": [0], "x": [20.3], "flux_e_row": [FLUX_E], "y0": [np.nan]})
COLUMNS = np.arange(40)
LEVEL_E = SKY_E + FLUX_E * pixel_profile(COLUMNS - 20.3, SIGMA_PX)
READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080)


def clean(residual):
    return clean_streaks(residual, noise_of(residual.shape[1]), LEVEL_E, SKY_E, STREAKS, SIGMA_PX, READOUT)[0]


def moving_star(rng, n_rows, motion_px):
    """Residual of a star of 600 e- a row that sways by ``motion_px`` (rms) with a period of 90 rows, in σ."""
    shift = np.sqrt(2) * motion_px * np.sin(2 * np.pi * np.arange(n_rows) / 90)
    light = pixel_profile(COLUMNS[:, None] - 20.3 - shift, SIGMA_PX) - pixel_profile(COLUMNS - 20.3, SIGMA_PX)[:, None]
    return (FLUX_E * light / SIGMA_E + rng.normal(size=(40, n_rows))).astype(np.float16)


def noise_of(n_rows):
    return np.full((40, -(-n_rows // 64)), SIGMA_E, dtype=np.float32)


def modes_of(x, companions=()):
    """Modes and estimators of a star in columns 15 to 25."""
    beside, noise = np.array([companions], dtype=np.float64), np.full((1, 11), SIGMA_E)
    modes, estimators = streak_modes(np.array([x]), np.array([FLUX_E]), SIGMA_PX, noise, np.array([15]), beside)
    return modes[0], estimators[0]


def predict(amplitude, noise):
    """What is predicted of an amplitude; None where nothing is."""
    predicted = np.empty(len(amplitude), np.float32)
    return predicted if predict_amplitude(amplitude.astype(np.float32), noise, 6, predicted) else None


def test_estimators_see_motion_and_neither_flux_nor_each_other():
    modes, estimators = modes_of(20.3, companions=[23.0])
    np.testing.assert_allclose(estimators @ modes.T, np.eye(2), atol=1e-9)
    for x in (20.3, 23.0):  # an event on the star or its companion
        event = pixel_profile(np.arange(15, 26) - x, SIGMA_PX) / SIGMA_E
        np.testing.assert_allclose(estimators @ event, 0, atol=1e-9)


def test_motion_of_a_small_step_is_the_first_mode():
    _, estimators = modes_of(20.0)
    columns = np.arange(15, 26)
    step = pixel_profile(columns - 20.01, SIGMA_PX) - pixel_profile(columns - 20.0, SIGMA_PX)
    np.testing.assert_allclose(estimators @ (FLUX_E * step / SIGMA_E), [0.01, 0], atol=1e-4)


def test_widening_is_taken_out_whole():
    """A wider star looks fainter to its filter: the part of that which is parallel to its flux must go as well."""
    rng = np.random.default_rng(6)
    width = SIGMA_PX * (1 + 0.15 * np.sin(2 * np.pi * np.arange(6000) / 300))
    light = np.stack([pixel_profile(COLUMNS - 20.3, sigma) for sigma in width], axis=1)
    light -= light.mean(axis=1, keepdims=True)
    residual = (3 * FLUX_E * light / SIGMA_E + rng.normal(size=light.shape)).astype(np.float16)
    profile = pixel_profile(COLUMNS - 20.3, SIGMA_PX)
    profile /= np.linalg.norm(profile)

    def filtered(rows):
        return (profile @ rows.astype(np.float32)).reshape(-1, 30).mean(axis=1) * np.sqrt(30)

    assert filtered(residual).std() > 5
    streaks = STREAKS.assign(flux_e_row=3 * FLUX_E)
    clean_streaks(residual, noise_of(6000), SKY_E + 3 * (LEVEL_E - SKY_E), SKY_E, streaks, SIGMA_PX, READOUT)
    assert filtered(residual).std() < 1.5


def test_amplitude_of_a_row_is_predicted_by_its_neighbours_only():
    """A constant is predicted, whatever a single row does: five rows of 1 around a 3 leave that row 1."""
    amplitude = np.ones(101)
    amplitude[50] = 3
    predicted = predict(amplitude, noise=0.1)
    assert predicted[50] == pytest.approx(1)
    assert len(predicted) == 101


def test_white_noise_predicts_nothing():
    assert predict(np.random.default_rng(1).normal(size=5000), noise=1.0) is None


def test_companions_too_close_to_separate_count_as_one():
    _, one = modes_of(20.3, companions=[23.0])
    _, twice = modes_of(20.3, companions=[23.0, 23.0])
    np.testing.assert_allclose(twice, one, atol=1e-9)


def test_rows_fewer_than_the_shortest_window_predict_nothing():
    assert predict(np.ones(5 - 1), noise=0.1) is None


def test_still_air_leaves_every_bit():
    residual = np.random.default_rng(2).normal(size=(40, 4000)).astype(np.float16)
    before = residual.copy()
    assert clean(residual) == 0
    np.testing.assert_array_equal(residual, before)


def test_motion_is_taken_out_of_the_flanks():
    """0.4 px of motion leave 2.6 σ in the flanks; what remains after cleaning is the noise."""
    residual = moving_star(np.random.default_rng(3), 6000, 0.4)
    assert residual[19:23].astype(np.float32).std(axis=1).max() > 2.5
    assert clean(residual) == 1
    np.testing.assert_allclose(residual[[18, 19, 21, 22]].astype(np.float32).std(axis=1), 1, atol=0.12)


def test_an_event_on_the_star_keeps_its_flux():
    rng = np.random.default_rng(4)
    residual = moving_star(rng, 6000, 0.3)
    profile = pixel_profile(COLUMNS - 20.3, SIGMA_PX) / SIGMA_E
    event = np.zeros(6000)
    event[3000:3030] = 100.0
    injected = (residual.astype(np.float32) + np.outer(profile, event)).astype(np.float16)
    for array in (residual, injected):
        clean(array)
    flux = profile @ (injected.astype(np.float32) - residual.astype(np.float32)) / (profile @ profile)
    assert flux[3000:3030].mean() == pytest.approx(100, rel=0.03)
    assert abs(np.delete(flux, np.s_[2960:3070])).max() < 5


def test_masked_pixels_stay_masked():
    residual = moving_star(np.random.default_rng(5), 3000, 0.4)
    residual[20, 100:110] = np.nan
    clean(residual)
    assert np.isnan(residual[20, 100:110].astype(np.float32)).all()
    assert np.isnan(residual.astype(np.float32)).sum() == 10

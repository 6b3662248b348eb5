"""Shared motion is learned from six stars and subtracted from each; an event on one star stays."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.calibration.motion import shared as shared_motion
from shutterless.pipeline.calibration.motion.clean import clean_streaks
from shutterless.pipeline.calibration.motion.model import first_columns, streak_light
from shutterless.pipeline.calibration.motion.shared import MIN_ANCHORS, bright_streaks, learn_motion, subtract_shared
from shutterless.pipeline.psf import pixel_profile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.simulation.sky.atmosphere import draw_waves

N_COLUMNS, N_ROWS, SIGMA_PX, SKY_E, READ_NOISE_E = 140, 6016, 0.84, 300.0, 10.0
X = np.array([12.3, 32.0, 52.6, 72.1, 92.4, 112.8])
FLUX_E = np.array([3000.0, 2000.0, 1500.0, 1000.0, 800.0, 250.0])
Y0 = np.array([100, 450, 20, 300, 180, 399])
READOUT = Readout(300.0, 6.2, READ_NOISE_E, 48_000.0, 500)


def sky(seed: int, *, moving: bool, y0_known: bool = False, n_stars: int = 6):
    """Residual, noise, level and streaks of an amplifier in the steady state."""
    rng = np.random.default_rng(seed)
    rows = np.arange(N_ROWS)
    waves = [draw_waves(rng, rms, rows_) for rms, rows_ in ((0.03, 300.0), (0.4, 30.0), (0.1, 150.0))]
    light = np.zeros((N_COLUMNS, N_ROWS), dtype=np.float32)
    for x, flux, y0, first in list(zip(X, FLUX_E, Y0, first_columns(X, N_COLUMNS), strict=True))[:n_stars]:
        state = np.stack([wave.value(rows - y0) * moving for wave in waves]).astype(np.float32)
        light[first : first + 11] += streak_light(state, x - first, flux, SIGMA_PX)
    electrons = SKY_E + light + rng.normal(0, np.sqrt(SKY_E + light + READ_NOISE_E**2))
    level = electrons.mean(axis=1)
    sigma = np.sqrt(level + READ_NOISE_E**2)
    residual = ((electrons - level[:, None]) / sigma[:, None]).astype(np.float16)
    streaks = pd.DataFrame({"streak_id": np.arange(n_stars), "x": X[:n_stars], "flux_e_row": FLUX_E[:n_stars]})
    streaks["y0"] = Y0[:n_stars].astype(float) if y0_known else np.nan
    return residual, np.repeat(sigma[:, None], N_ROWS // 64, axis=1).astype(np.float32), level, streaks


# motion of 0.4 px and 10 % of width make the mean point-spread function this wide
MEAN_SIGMA_PX = np.sqrt(SIGMA_PX**2 * 1.01 + 0.4**2)


def spread(residual: np.ndarray) -> np.ndarray:
    """Largest standard deviation of the seven columns around each star."""
    return np.array([residual[round(x) - 3 : round(x) + 4].astype(np.float32).std(axis=1).max() for x in X])


@pytest.mark.parametrize("y0_known", [False, True])
def test_shared_motion_is_taken_out_of_every_streak(y0_known):
    residual, sigma, level, streaks = sky(1, moving=True, y0_known=y0_known)
    readout = READOUT
    assert (spread(residual) > [6, 5, 4, 3, 2.5, 1.3]).all()
    n_moving, lag_rows = clean_streaks(residual, sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, readout)
    assert n_moving == 6
    np.testing.assert_allclose(lag_rows - lag_rows[0], Y0 - Y0[0], atol=1.5)  # but for a number that all share
    np.testing.assert_allclose(spread(residual), 1, atol=0.15)


def test_still_air_leaves_every_bit():
    residual, sigma, level, streaks = sky(2, moving=False)
    before = residual.copy()
    n_moving, lag_rows = clean_streaks(residual, sigma, level, SKY_E, streaks, SIGMA_PX, READOUT)
    assert n_moving == 0
    assert np.isnan(lag_rows).all()
    np.testing.assert_array_equal(residual, before)


def test_the_width_in_one_row_is_measured_apart_from_that_of_the_mean():
    residual, sigma, level, streaks = sky(3, moving=True)
    bright, crowding = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, READOUT, N_ROWS)
    motion = learn_motion(residual, bright, crowding, MEAN_SIGMA_PX, READOUT)
    assert motion.sigma_px == pytest.approx(SIGMA_PX, rel=0.03)
    assert set(motion.channels) == {0, 1, 2}


@pytest.mark.parametrize("star", [0, 4, 5])
def test_a_flare_on_one_star_stays_there_and_comes_to_no_other(star):
    quiet, sigma, level, streaks = sky(4, moving=True)
    flare = np.zeros(N_ROWS)
    flare[3000:3100] = 0.4 * FLUX_E[star]
    profile = pixel_profile(np.arange(N_COLUMNS) - X[star], SIGMA_PX) / sigma[:, 0]
    loud = (quiet.astype(np.float32) + np.outer(profile, flare)).astype(np.float16)
    for residual in (quiet, loud):
        clean_streaks(residual, sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, READOUT)
    difference = loud.astype(np.float32) - quiet.astype(np.float32)
    flux = profile @ difference / (profile @ profile)
    assert flux[3000:3100].mean() == pytest.approx(0.4 * FLUX_E[star], rel=0.03)
    elsewhere = np.abs(np.arange(N_COLUMNS) - X[star]) > 7
    # 100 rows of 0.1 sigma would be 1 sigma of a box
    assert np.abs(difference[elsewhere].reshape(-1, N_ROWS // 64, 64).mean(axis=2)).max() < 0.1


def test_fewer_stars_than_can_outvote_one_share_nothing():
    residual, sigma, level, streaks = sky(5, moving=True, n_stars=MIN_ANCHORS - 1)
    bright, crowding = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, READOUT, N_ROWS)
    assert learn_motion(residual, bright, crowding, MEAN_SIGMA_PX, READOUT) is None


def lose_fits(monkeypatch, streak_ids: tuple[int, ...], calls: tuple[int, ...]) -> None:
    """Let the fits that follow the motion lose some stars for good, in the first of them, the second or both."""
    measure, n_calls = shared_motion.measure_states, []

    def measure_and_lose(residual, streaks, sigma_px, *, follow):
        states, errors = measure(residual, streaks, sigma_px, follow=follow)
        if follow:
            n_calls.append(1)
            lost = [streak.streak_id in streak_ids and len(n_calls) in calls for streak in streaks]
            states[lost] = np.nan
        return states, errors

    monkeypatch.setattr(shared_motion, "measure_states", measure_and_lose)


def test_an_anchor_whose_first_fit_is_lost_is_as_if_it_had_never_been(monkeypatch):
    residual, sigma, level, streaks = sky(1, moving=True)
    bright, crowding = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, READOUT, N_ROWS)
    others = [k for k, streak in enumerate(bright) if streak.streak_id != 1]
    wanted = learn_motion(residual, [bright[k] for k in others], crowding[others], MEAN_SIGMA_PX, READOUT)
    lose_fits(monkeypatch, (1,), (1,))
    found = learn_motion(residual, bright, crowding, MEAN_SIGMA_PX, READOUT)
    assert found.sigma_px == wanted.sigma_px
    assert set(found.predicted) == set(wanted.predicted)
    for star, channels in wanted.predicted.items():
        for channel, series in channels.items():
            np.testing.assert_array_equal(found.predicted[star][channel], series)


def test_an_anchor_whose_second_fit_is_lost_spoils_no_other(monkeypatch):
    residual, sigma, level, streaks = sky(1, moving=True)
    bright, crowding = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, READOUT, N_ROWS)
    lose_fits(monkeypatch, (1,), (2,))
    motion = learn_motion(residual, bright, crowding, MEAN_SIGMA_PX, READOUT)
    assert len(motion.predicted) >= MIN_ANCHORS
    assert set(motion.predicted) <= {0, 2, 3, 4, 5}
    assert motion.sigma_px == pytest.approx(SIGMA_PX, rel=0.03)
    for channels in motion.predicted.values():
        assert set(channels) == {0, 1, 2}
        assert all(np.isfinite(series).all() for series in channels.values())
    monkeypatch.undo()
    assert subtract_shared(residual, bright, motion) == [True] * len(bright)  # also the one that was lost
    assert (spread(residual) < 1.4).all()  # from 6 to 1.3 before


@pytest.mark.parametrize("calls", [(1,), (2,)])
def test_so_many_lost_anchors_that_too_few_are_left_share_nothing(monkeypatch, calls):
    residual, sigma, level, streaks = sky(1, moving=True)
    bright, crowding = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, READOUT, N_ROWS)
    lose_fits(monkeypatch, (0, 1, 2), calls)
    assert learn_motion(residual, bright, crowding, MEAN_SIGMA_PX, READOUT) is None


def test_masked_stars_and_short_files_say_nothing():
    residual, sigma, level, streaks = sky(8, moving=True)
    bright, crowding = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, READOUT, N_ROWS)
    residual[bright[1].columns] = np.nan
    motion = learn_motion(residual, bright, crowding, MEAN_SIGMA_PX, READOUT)
    assert bright[1].streak_id not in motion.predicted
    for streak in bright[2:4]:
        residual[streak.columns] = np.nan
    assert learn_motion(residual, bright, crowding, MEAN_SIGMA_PX, READOUT) is None
    whole, _, _, _ = sky(8, moving=True)
    assert learn_motion(whole[:, :256], bright, crowding, MEAN_SIGMA_PX, READOUT) is None


def test_a_star_without_an_unmasked_row_is_left_alone():
    residual, sigma, level, streaks = sky(6, moving=True)
    bright, crowding = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, READOUT, N_ROWS)
    motion = learn_motion(residual, bright, crowding, MEAN_SIGMA_PX, READOUT)
    residual[bright[5].columns] = np.nan
    assert subtract_shared(residual, [bright[5]], motion) == [False]
    assert np.isnan(residual[bright[5].columns].astype(np.float32)).all()


def test_bright_streaks_come_brightest_first_without_the_faint():
    _, sigma, level, streaks = sky(7, moving=False)
    streaks = pd.concat([streaks, pd.DataFrame({"streak_id": [9], "x": [130.0], "flux_e_row": [5.0], "y0": [np.nan]})])
    bright, crowding = bright_streaks(sigma, level, SKY_E, streaks, SIGMA_PX, READOUT, N_ROWS)
    assert [streak.streak_id for streak in bright] == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(crowding, 0, atol=1e-3)


def test_stars_say_nothing_before_they_begin_and_after_they_end():
    _, sigma, level, streaks = sky(9, moving=True, y0_known=True)
    readout = replace(READOUT, first_row=0, close_row=5000)
    bright, _ = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, readout, N_ROWS)
    first = bright[0]  # y0 = 100
    assert (first.visible, first.settled) == (slice(108, 5092), slice(500, 5000))
    unknown, _ = bright_streaks(sigma, level, SKY_E, streaks.assign(y0=np.nan), MEAN_SIGMA_PX, readout, N_ROWS)
    assert unknown[0].visible == unknown[0].settled == slice(500, 5000)
    steady = replace(READOUT, first_row=9000)
    later, _ = bright_streaks(sigma, level, SKY_E, streaks, MEAN_SIGMA_PX, steady, N_ROWS)
    assert later[0].visible == slice(0, N_ROWS)

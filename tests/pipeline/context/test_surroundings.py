from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from flat_amplifier import flat_amplifier

from shutterless.pipeline.context.surroundings import SURROUNDINGS, measure_surroundings
from shutterless.pipeline.psf import pixel_profile

SIGMA_PX, X, START, LENGTH = 0.85, 30.3, 3000, 40


def place(x: float = X, start: int = START, length: int = LENGTH, snr: float = 10.0) -> pd.DataFrame:
    return pd.DataFrame({"x": [x], "row_start": [start], "row_stop": [start + length - 1], "snr": [snr]})


def measure(residual: np.ndarray, triggers: pd.DataFrame) -> pd.Series:
    amplifier = flat_amplifier(residual, sky_e=300.0, sigma_e=20.0, sigma_px=SIGMA_PX)
    return measure_surroundings(amplifier, triggers).iloc[0]


def light(x: float, snr: float, length: int = LENGTH) -> np.ndarray:
    """Residual per row and column of a source of a total S/N, spread evenly over some rows."""
    profile = pixel_profile(np.arange(64) - x, SIGMA_PX)
    return snr * profile / np.linalg.norm(profile) / np.sqrt(length)


def test_light_of_a_source_is_flux_and_neither_shift_nor_widening():
    residual = np.zeros((64, 6000))
    residual[:, START : START + LENGTH] += light(X, 10.0)[:, None]
    found = measure(residual, place())
    assert found["box_snr"] == pytest.approx(10, rel=1e-3)
    assert found["first_half"] == pytest.approx(10 / np.sqrt(2), rel=1e-3)
    assert [found[name] for name in ("before_1", "after_1", "scatter_of_width", "scatter_short")] == [0, 0, 0, 0]
    # part of the flux cannot be told from widening, so its error is larger than that of the box
    assert 6 < found["flux_snr"] < 9.9
    assert found["shift_snr"] == pytest.approx(0, abs=1e-2)
    assert found["widening_snr"] == pytest.approx(0, abs=1e-2)
    assert found["place_chi2"] == pytest.approx(0, abs=1e-4)


def test_a_star_that_moved_has_shift_and_no_flux():
    residual = np.zeros((64, 6000))
    moved = light(X + 0.05, 300.0) - light(X, 300.0)
    residual[:, START : START + LENGTH] += moved[:, None]
    found = measure(residual, place())
    assert found["shift_snr"] > 5
    assert abs(found["flux_snr"]) < 0.3
    assert found["shift_scatter"] > 3 > found["widening_scatter"]


def test_a_dip_is_signed_so_that_it_is_positive():
    residual = np.zeros((64, 6000))
    residual[:, START : START + LENGTH] -= light(X, 10.0)[:, None]
    residual[:, START + LENGTH : START + 2 * LENGTH] += light(X, 4.0)[:, None]
    found = measure(residual, place(snr=-10.0))
    assert found["box_snr"] == pytest.approx(10, rel=1e-3)
    assert found["after_1"] == pytest.approx(-4, rel=1e-3)


def test_scatter_of_pure_noise_is_one_at_every_scale():
    residual = np.random.default_rng(5).standard_normal((64, 6000))
    found = measure(residual, place())
    for name in ("scatter_of_width", "scatter_short", "scatter_medium", "scatter_long", "flank_scatter"):
        assert found[name] == pytest.approx(1, abs=0.3), name
    assert found["live_share"] == found["live_share_near"] == 1


def test_masked_rows_are_left_out_and_counted():
    residual = np.zeros((64, 6000))
    residual[:, START : START + LENGTH] += light(X, 10.0)[:, None]
    residual[:, START : START + LENGTH // 4] = np.nan
    residual[:, START - LENGTH : START] = np.nan
    found = measure(residual, place())
    assert found["live_share"] == pytest.approx(0.75)
    assert found["box_snr"] == pytest.approx(10 * np.sqrt(0.75), rel=1e-3)
    assert np.isnan(found["before_1"])


def test_a_trigger_at_the_corner_of_the_amplifier_is_measured():
    residual = np.random.default_rng(6).standard_normal((64, 6000))
    found = measure(residual, place(x=0.2, start=0, length=5))
    assert np.isnan(found["before_1"])
    assert np.isfinite(found[["box_snr", "after_1", "flux_snr", "scatter_long"]].to_numpy(float)).all()


def test_no_trigger_gives_an_empty_table():
    amplifier = flat_amplifier(np.zeros((64, 600)), sky_e=300.0, sigma_e=20.0, sigma_px=SIGMA_PX)
    assert list(measure_surroundings(amplifier, place().iloc[:0]).columns) == list(SURROUNDINGS)

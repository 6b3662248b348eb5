from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from shutterless.pipeline.psf import noise_equivalent_columns, pixel_profile


def test_centred_source_leaves_an_error_function_on_its_pixel():
    # half a pixel to either side of a Gaussian of sigma 0.5 is one sigma: 68.27 %
    assert pixel_profile(0.0, 0.5) == pytest.approx(0.682689, abs=1e-6)
    assert pixel_profile(0.0, 0.84) == pytest.approx(erf(0.5 / 0.84 / np.sqrt(2)))


@pytest.mark.parametrize("sigma_px", [0.3, 0.84, 2.5])
@pytest.mark.parametrize("x", [0.0, 0.25, -0.5, 3.37])
def test_all_light_falls_somewhere_and_its_centre_is_the_source(sigma_px, x):
    columns = np.arange(-40, 41)
    profile = pixel_profile(columns - x, sigma_px)
    assert profile.sum() == pytest.approx(1)
    if sigma_px > 0.5:  # narrower ones are undersampled: their pixels do not give the centre
        assert np.sum(columns * profile) == pytest.approx(x, abs=0.01)


def test_source_between_two_pixels_is_shared_evenly():
    left, right = pixel_profile([-0.5, 0.5], 0.1)
    assert left == right == pytest.approx(0.5, abs=1e-6)


def test_integration_over_pixels_adds_a_twelfth_to_the_variance():
    columns = np.arange(-40, 41)
    assert np.sum(columns**2 * pixel_profile(columns, 2.0)) == pytest.approx(4 + 1 / 12, rel=1e-6)


def test_noise_equivalent_columns_is_the_inverse_sum_of_squares():
    # King 1983: 2 sqrt(pi) sigma; the ZTF streak of 0.84 px collects the background of 2.98 columns
    assert noise_equivalent_columns(0.84) == pytest.approx(2.98, abs=0.01)
    profile = pixel_profile(np.arange(-40, 41), 3.0)
    assert 1 / np.sum(profile**2) == pytest.approx(noise_equivalent_columns(3.0), rel=0.01)

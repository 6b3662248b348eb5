"""Quality of the fit of a template, with numbers that can be computed in the head."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.detection.fit_quality import _best_track, judge_fit

KERNEL = np.array([0.6, 0.8], np.float32)
ONE_ROW, WHOLE = (0, 1), (0, 2)  # three pixels of one row; both bins are judged


def judged(patch, light, snr, live=None):
    """chi2_excess, chi2_significance, sharpness and flatness of a patch (3, 2)."""
    patch = np.asarray(patch, np.float32)
    live = np.ones_like(patch) if live is None else np.asarray(live, np.float32)
    quality = np.empty(4)
    across = patch.astype(np.float64) @ KERNEL
    judge_fit(patch, live, 0, across, np.asarray(light), float(snr), KERNEL, WHOLE, ONE_ROW, quality)
    return quality


@pytest.mark.parametrize("sign", [1, -1])
def test_a_template_without_noise_leaves_nothing(sign):
    """S/N 9 on pixels of 1/3, 2/3 and 2/3 of the light, whether it is added or taken away.

    χ² = 0 of 5 degrees of freedom. The best track is that of the second bin over three pixels, 2.4 + 4.8 + 4.8. Pixels
    alone have 3, 6 and 6.
    """
    light = np.array([1, 2, 2]) / 3
    found = judged(sign * 9 * np.outer(light, KERNEL), light, sign * 9)
    assert found == pytest.approx([-5 / 81, -5 / np.sqrt(10), 12 / np.sqrt(3) / 9, (15 / np.sqrt(3) - 6) / 9], rel=1e-5)


def test_a_single_pixel_is_sharper_than_any_template():
    """10 σ in the middle pixel; the template collects 0.8 x 0.8 of it: S/N 6.4, and χ² keeps 100 - 6.4²."""
    found = judged([[0, 0], [0, 10], [0, 0]], [0.36, 0.8, 0.48], 6.4)
    left = 100 - 6.4**2 - 5
    assert found == pytest.approx([left / 6.4**2, left / np.sqrt(10), 1 / 0.64, (8 / np.sqrt(3) - 8) / 6.4], rel=1e-5)
    assert found[0] == pytest.approx(1 / 0.64**2 - 1 - 5 / 6.4**2, rel=1e-5)


def test_light_shared_by_all_pixels_is_flat():
    """3 pixels of S/N 5 each: together 5 √3; the template of light 0.48, 0.6, 0.64 has S/N 5 x 1.72."""
    shared = 5 * np.outer(np.ones(3), KERNEL)
    assert judged(shared, [0.48, 0.6, 0.64], 8.6)[3] == pytest.approx(5 * (np.sqrt(3) - 1) / 8.6, rel=1e-5)


def test_masked_pixels_count_for_nothing():
    """Without the first pixel: four bins in χ², so 3 degrees of freedom, and two pixels in the sum."""
    light = np.array([0.0, 0.6, 0.8])
    found = judged(10 * np.outer(light, KERNEL), light, 10, live=[[0, 0], [1, 1], [1, 1]])
    assert found[:2] == pytest.approx([-3 / 100, -3 / np.sqrt(6)], rel=1e-5)
    assert found[3] == pytest.approx((14 / np.sqrt(2) - 8) / 10, rel=1e-5)


def test_best_track_in_the_head():
    """Two pixels of 3 in neighbouring columns and rows: 6 / √2 along the track, in either direction."""
    for rows in ((4, 5), (5, 4)):
        patch = np.zeros((7, 12), np.float32)
        patch[2, rows[0]] = patch[3, rows[1]] = 3
        assert _best_track(patch, np.float32(1), (0, 3)) == pytest.approx(6 / np.sqrt(2))
        assert _best_track(-patch, np.float32(-0.5), (0, 3)) == pytest.approx(3 / np.sqrt(2))
    patch[3, rows[1]] = 0
    assert _best_track(patch, np.float32(1), (0, 3)) == 3

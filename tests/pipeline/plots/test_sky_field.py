"""Patches of sky: north up, east left, stars by magnitude."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from matplotlib.figure import Figure

from shutterless.pipeline.plots.sky_field import plot_sky_field

CENTRE = SkyCoord(150 * u.deg, 60 * u.deg)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_east_is_left_north_is_up_and_offsets_are_true_angles(ax):
    """At declination 60 a difference of 0.02 deg in right ascension is 0.6 arcmin on the sky."""
    stars = SkyCoord([150.02, 150.0, 152.0] * u.deg, [60.0, 60.02, 60.0] * u.deg)
    assert plot_sky_field(CENTRE, 0.05, ax, stars=stars, mag=np.array([10.0, 12.0, 9.0])) is ax
    east, north = np.asarray(ax.collections[0].get_offsets()).T  # the third is outside
    assert east == pytest.approx([0.6, 0.0], abs=1e-3)
    assert north == pytest.approx([0.0, 1.2], abs=1e-3)
    left, right = ax.get_xlim()
    assert (left, right) == pytest.approx((3.0, -3.0))
    assert ax.get_xlabel() == "East of the centre (arcmin)"
    brighter, fainter = ax.collections[0].get_sizes()
    assert brighter > fainter
    texts = [text.get_text() for text in ax.texts]
    assert {"N", "E", "1 arcmin"} <= set(texts)


def test_candidates_are_circles_and_lines_with_their_numbers(ax):
    ends = SkyCoord([150.0] * u.deg, [59.9] * u.deg), SkyCoord([150.0] * u.deg, [60.1] * u.deg)
    corners = SkyCoord([149.9, 150.1, 150.1, 149.9] * u.deg, [59.9, 59.9, 60.1, 60.1] * u.deg)
    points = SkyCoord([150.01] * u.deg, [60.0] * u.deg)
    plot_sky_field(
        CENTRE, 0.2, ax, points=points, segments=ends, outlines=[corners], point_names=["7"], segment_names=["8"]
    )
    line = ax.lines[0]
    assert np.ravel(line.get_xdata()) == pytest.approx([0, 0], abs=1e-6)
    assert np.ravel(line.get_ydata()) == pytest.approx([-6, 6], abs=1e-3)
    assert len(ax.patches) >= 1
    assert {"7", "8"} <= {text.get_text() for text in ax.texts}


@pytest.mark.parametrize(("half", "unit"), [(2.0, "deg"), (0.5, "arcmin"), (0.01, "arcsec")])
def test_the_unit_fits_the_patch(ax, half, unit):
    plot_sky_field(CENTRE, half, ax)
    assert ax.get_ylabel() == f"North of the centre ({unit})"

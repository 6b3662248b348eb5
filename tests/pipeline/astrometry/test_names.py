"""Names of streaks: the brightest star of a blend, another star of like brightness, onsets, and what is flagged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.astrometry.names import BLENDED, UNCERTAIN, name_streaks
from shutterless.pipeline.astrometry.solve import SkySolution, Stars

SIGMA = 0.85


def solution(knows_rows=True, rms_px=0.03):
    """A header that is right, with columns to 0.03 px and onsets to a row."""
    return SkySolution(
        0.0, 0.0, 0.0, 0.0 if knows_rows else np.nan, (1535.5, 1539.5), 0.0, 0.1, rms_px, 1.0, 100, 100,
        50 if knows_rows else 0, 0.0,
    )  # fmt: skip


def streaks(*rows):
    """Streaks of (x, mag, y0), and 40 others far away, so that most have a star."""
    far = [(1000.0 + 20 * k, 12 + 0.05 * k, np.nan) for k in range(40)]
    table = pd.DataFrame([*rows, *far], columns=["x", "mag", "y0"])
    flux = 10 ** (-0.4 * (table["mag"] - 20))
    return table.assign(flux_e_row=flux, flux_error_e_row=0.001 * flux)


def stars(*rows):
    """Stars of (x, y0, mag) and those of the other 40 streaks."""
    far = [(1000.0 + 20 * k, 50.0 * k, 12 + 0.05 * k) for k in range(40)]
    return Stars(*np.array([*rows, *far]).T)


def name(table, known, **how):
    return name_streaks(table, known, solution(**how), SIGMA)


def test_each_streak_gets_its_star():
    found = name(streaks((50.0, 13.0, 700.0)), stars((50.02, 700.5, 13.1)))
    assert found.star.tolist() == list(range(41))
    assert (found.flag == "").all()
    assert found.probability.min() > 0.99
    assert found.share[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("other", "share", "flag"), [(13.0, 0.5, BLENDED), (17.0, 0.97, "")])
def test_a_blend_has_the_name_of_its_brightest_star(other, share, flag):
    both = -2.5 * np.log10(10 ** (-0.4 * 12.9) + 10 ** (-0.4 * other))
    found = name(streaks((50.3, both, np.nan)), stars((50.6, 100.0, other), (50.0, 2000.0, 12.9)), knows_rows=False)
    if flag:
        assert found.star[0] == 1
        assert found.share[0] == pytest.approx(share, abs=0.05)
        assert found.flag[0] == flag
    else:
        alone = name(streaks((50.0, 12.9, np.nan)), stars((50.6, 100.0, other), (50.0, 2000.0, 12.9)))
        assert (alone.star[0], alone.flag[0]) == (1, "")


def test_a_star_that_is_not_on_the_amplifier_has_no_streak():
    for row in (-2.0, 3081.0):
        assert name(streaks((50.0, 13.0, np.nan)), stars((50.0, row, 13.0))).star[0] == -1


def test_a_streak_of_another_place_or_brightness_stays_without_a_name():
    found = name(
        streaks((50.0, 13.0, np.nan), (100.0, 13.0, np.nan), (150.0, 13.0, np.nan)),
        stars((50.4, 100.0, 13.0), (100.0, 100.0, 14.0), (180.0, 100.0, 13.0)),
    )
    assert found.star[:3].tolist() == [-1, -1, -1]
    assert np.isnan(found.probability[:3]).all()
    assert found.flag[:3].tolist() == ["", "", ""]


def test_a_match_at_the_edge_of_the_errors_is_uncertain_where_many_stars_are_missing():
    missing = [(500.0 + 3 * k, 13.0 + 0.01 * k, np.nan) for k in range(100)]
    found = name(streaks((50.0, 13.0, np.nan), *missing), stars((50.12, 100.0, 13.35)), knows_rows=False)
    assert found.star[0] == 0
    assert found.flag[0] == UNCERTAIN
    assert found.probability[0] < 0.99
    onset = name(streaks((50.0, 13.0, 1500.0)), stars((50.1, 100.0, 13.3)))
    right = name(streaks((50.0, 13.0, 100.0)), stars((50.1, 100.0, 13.3)))
    assert onset.probability[0] < right.probability[0]  # it was seen to begin elsewhere


def test_no_streaks_have_no_stars():
    assert len(name(streaks().iloc[:0], stars()).star) == 0

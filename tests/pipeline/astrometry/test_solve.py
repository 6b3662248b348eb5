"""Solutions: what was put in comes out, without a third of the stars, without onsets; another field is refused."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.astrometry.solve import NoSolutionError, Stars, match_pairs, solve_amplifier

SIZE, SCALE = (3072, 3080), 1.0
CENTRE = np.array([1535.5, 1539.5])
OFFSET, ROTATION, GROWTH = (-70.0, 55.0), np.radians(0.2), 0.0004


def field(n=130, seed=1, **change):
    """Streaks (x, mag, y0) of random stars, and the stars where a wrong header has them."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SIZE[0] - 1, n), rng.uniform(0, SIZE[1] - 1, n)
    mag = 16 + np.log10(rng.random(n)) / 0.3
    # the inverse of x = x_h + offset + scale (x_h - x_c) + rotation (y_h - y_c)
    true = np.stack([x - OFFSET[0], y - OFFSET[1]]) - CENTRE[:, None]
    turned = np.array([[1 + GROWTH, ROTATION], [-ROTATION, 1 + GROWTH]])
    header = np.linalg.solve(turned, true) + CENTRE[:, None]
    streaks = (
        x + rng.normal(0, 0.02, n),
        mag + rng.normal(0, 0.05, n) + change.get("mag_offset", 0),
        y + rng.normal(0, 0.7, n),
    )
    return streaks, Stars(header[0], header[1], mag), (x, y)


def solve(streaks, stars):
    return solve_amplifier(*streaks, stars, size=SIZE, scale_arcsec=SCALE)


def test_offset_rotation_and_scale_are_found():
    streaks, stars, (x, y) = field(mag_offset=0.7)
    found = solve(streaks, stars)
    assert (found.offset_x, found.offset_y) == pytest.approx(OFFSET, abs=0.3)
    assert found.offset_x == pytest.approx(OFFSET[0], abs=0.01)
    assert found.rotation == pytest.approx(ROTATION, abs=1e-5)
    assert found.scale == pytest.approx(GROWTH, abs=1e-5)
    assert found.mag_offset == pytest.approx(0.7, abs=0.05)
    assert found.rms_px == pytest.approx(0.02, abs=0.005)
    assert found.rms_rows == pytest.approx(0.7, abs=0.2)
    assert found.n_matched >= 0.95 * found.n_expected
    assert found.chance_matches < 1e-50
    there = found.to_pixel(stars.x, stars.y0)
    assert np.abs(there[0] - x).max() < 0.03
    assert np.abs(there[1] - y).max() < 0.5
    assert np.allclose(found.to_header(*there), (stars.x, stars.y0))


def test_a_third_of_the_stars_may_be_missing_on_either_side():
    (x, mag, y0), stars, _ = field(n=150)
    for streaks, known in (
        ((x, mag, y0), stars.take(np.arange(50, 150))),
        ((x[50:], mag[50:], y0[50:]), stars),
    ):
        found = solve(streaks, known)
        assert (found.offset_x, found.offset_y) == pytest.approx(OFFSET, abs=0.3)
        assert found.n_matched >= 0.6 * found.n_expected


def test_without_onsets_columns_tell_all_but_the_offset_along_the_rows():
    (x, mag, y0), stars, (true_x, _) = field()
    found = solve((x, mag, np.full_like(y0, np.nan)), stars)
    assert not found.knows_rows
    assert found.n_onsets == 0
    assert found.rotation == pytest.approx(ROTATION, abs=1e-5)
    assert np.abs(found.to_pixel(stars.x, stars.y0)[0] - true_x).max() < 0.03
    # two true onsets among many wrong ones tell nothing
    some = np.where(np.arange(len(x)) < 2, y0, np.random.default_rng(5).uniform(0, 3000, len(x)))
    assert not solve((x, mag, some), stars).knows_rows


@pytest.mark.parametrize("seed", range(2, 7))
def test_another_field_is_refused_with_the_number_of_chance_matches(seed):
    streaks, _, _ = field(n=400)
    _, stars, _ = field(n=400, seed=seed)
    with pytest.raises(
        NoSolutionError, match=r"the best fit has \d+ of 150 bright stars .* chance makes \S+ such fits"
    ):
        solve(streaks, stars)


def test_a_pointing_that_is_wrong_by_more_than_allowed_is_refused():
    streaks, stars, _ = field()
    with pytest.raises(NoSolutionError, match=r"chance makes"):
        solve(streaks, Stars(stars.x + 300, stars.y0, stars.mag))


def test_few_streaks_or_stars_are_refused():
    streaks, stars, _ = field(n=5)
    with pytest.raises(NoSolutionError, match=r"5 streaks, 6 are needed"):
        solve(streaks, stars)
    streaks, _, _ = field(n=20)
    with pytest.raises(NoSolutionError, match=r"5 stars of the catalogue are near it, 6 are needed"):
        solve(streaks, stars)


def test_a_catalogue_of_which_most_bright_stars_have_no_streak_is_refused():
    (x, mag, y0), stars, _ = field(n=40)
    rng = np.random.default_rng(9)
    ghosts = Stars(rng.uniform(0, 3071, 80), rng.uniform(0, 3079, 80), rng.uniform(5, 8, 80))
    both = Stars(*(np.concatenate([getattr(stars, k), getattr(ghosts, k)]) for k in ("x", "y0", "mag")))
    with pytest.raises(NoSolutionError, match=r"only \d+ of 40 bright stars have a streak|chance makes"):
        solve((x, mag, y0), both)


def test_pairs_are_each_others_nearest():
    x, mag = np.array([10.0, 10.4, 50.0]), np.array([12.0, 12.0, 9.0])
    streak, star = match_pairs(x, mag, np.array([10.3, 50.2]), np.array([12.0, 12.0]), 1.0, 1.0)
    assert (streak.tolist(), star.tolist()) == ([1], [0])
    assert len(match_pairs(x, mag, np.empty(0), np.empty(0), 1.0, 1.0)[0]) == 0

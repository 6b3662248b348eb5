from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.simulation.sky.ghosts import (
    Ghost,
    GhostError,
    add_ghosts,
    annulus_image,
    draw_ghosts,
    own_time_rows,
    steady_light,
)
from shutterless.pipeline.simulation.sky.sky_examples import example_ghost

GHOST = Ghost(x=50.25, y0=40, star_id=0, star_mag=8.0, share=5e-4, radius_px=12.0, flux_e_row=6.0)


def render(ghosts, first_row, n_rows, close_row=np.inf, n_columns=100, n_transit=200) -> np.ndarray:
    mean_e = np.zeros((n_rows, n_columns))
    first, n_star_rows = own_time_rows(ghosts, first_row, n_rows)
    light = steady_light(ghosts, first, n_star_rows, close_row)
    add_ghosts(mean_e, first_row, ghosts, light, first, n_transit)
    return mean_e


def test_columns_of_a_ghost_are_the_marginal_of_an_annulus():
    row = render([GHOST], 150, 1)[0]
    assert row.sum() == pytest.approx(6.0)
    # chords of the outer and of the inner circle, over the area between them
    offset = np.arange(100) - 50.25
    outer, inner = (np.sqrt(np.maximum(radius**2 - offset**2, 0)) for radius in (12.0, 0.45 * 12.0))
    marginal = 6.0 * 2 * (outer - inner) / (np.pi * 144 * (1 - 0.45**2))
    flank = np.abs(np.abs(offset) - 12) > 1.5  # where the chord is not yet steep within a pixel
    np.testing.assert_allclose(row[flank], marginal[flank], atol=0.01)
    assert row @ np.arange(100) / row.sum() == pytest.approx(50.25, abs=0.01)


def test_a_ghost_begins_and_ends_at_its_own_detector_row():
    light = render([GHOST], 0, 300, close_row=180.0).sum(axis=1)
    assert light[: 40 - 12].max() == 0
    assert light[40] == pytest.approx(3.0, rel=1e-3)  # half of the annulus is on
    np.testing.assert_allclose(light[40 + 13 : 220 - 13], 6.0)
    assert light[220] == pytest.approx(3.0, rel=1e-3)
    assert light[220 + 14 :].max() == 0
    assert light.sum() == pytest.approx(6.0 * 180)


def test_a_flash_of_the_star_is_spread_over_the_annulus():
    first, n_star_rows = own_time_rows([GHOST], 100, 100)
    light = np.zeros((n_star_rows, 1))
    light[110 - first] = 1000.0  # one row of star time: read about row 150
    mean_e = np.zeros((100, 100))
    add_ghosts(mean_e, 100, [GHOST], light, first, 200)
    image = annulus_image(12.0, 0.25)
    np.testing.assert_allclose(mean_e[50 - 13 : 50 + 14, 50 - 13 : 50 + 14], 1000 * image)
    assert mean_e.sum() == pytest.approx(1000)
    assert mean_e[50, 50] == 0  # the obstruction


@pytest.mark.parametrize("first_row", [0, 60])
def test_rows_cut_into_blocks_are_the_same_to_the_bit(first_row):
    ghosts = [GHOST, Ghost(97.0, 5, 3, 7.0, 1e-3, 20.3, 30.0)]
    whole = render(ghosts, first_row, 120)
    blocks = [render(ghosts, first_row + first, rows) for first, rows in ((0, 1), (1, 70), (71, 49))]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_light_beside_the_detector_is_lost():
    on_corner = Ghost(-0.5, 0, 0, 8.0, 5e-4, 12.0, 6.0)
    # half of the columns, and the rows from 0 on: a little more than half
    assert render([on_corner], 150, 1).sum() == pytest.approx(1.5, rel=0.1)


def test_draws_are_of_bright_stars_only_and_alike():
    mag = np.array([6.0, 8.9, 9.1, 14.0])
    flux = 10 ** (-0.4 * (mag - 24.49)) / 300
    x, y0 = np.array([100.0, 2000.0, 500.0, 700.0]), np.array([10.0, 3000.0, 50.0, 70.0])
    ghosts = draw_ghosts(np.random.default_rng(1), x, y0, mag, flux)
    assert [ghost.star_id for ghost in ghosts] == [0, 1]
    assert {ghost.kind for ghost in ghosts} == {"ghost"}
    for ghost in ghosts:
        assert 0.8e-4 < ghost.share < 1.25e-3
        assert ghost.flux_e_row == pytest.approx(ghost.share * flux[ghost.star_id])
        assert abs(ghost.x - x[ghost.star_id]) <= 30
        assert abs(ghost.y0 - y0[ghost.star_id]) <= 30.5
    assert ghosts[0].x - 100 == pytest.approx(ghosts[1].x - 2000)
    assert draw_ghosts(np.random.default_rng(1), x, y0, mag, flux) == ghosts


def test_no_ghosts_no_light():
    assert draw_ghosts(np.random.default_rng(1), *np.ones((3, 0)), np.ones(0)) == []
    assert render([], 10, 5).sum() == 0


def test_light_that_does_not_cover_the_rows_is_refused():
    with pytest.raises(GhostError, match="rows 100 to 109 need the light of 1 ghosts from star-time row 47 to 82"):
        add_ghosts(np.zeros((10, 100)), 100, [GHOST], np.ones((36, 1)), 48, 200)
    with pytest.raises(GhostError, match="given are 2 from 47"):
        add_ghosts(np.zeros((10, 100)), 100, [GHOST], np.ones((36, 2)), 47, 200)


def test_example_begins_at_a_quarter_of_the_rows():
    light = example_ghost(256, 128).sum(axis=1)
    assert light[:30].max() == 0
    np.testing.assert_allclose(light[100:], 1310.0)

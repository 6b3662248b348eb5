from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare, poisson

from shutterless.pipeline.simulation.camera.photons import _build_tables, draw_photons


def draw(mean: float, n: int, seed: int = 4) -> np.ndarray:
    counts = np.empty((n // 1000, 1000))
    draw_photons(np.random.default_rng(seed), np.full(counts.shape, mean), counts)
    return counts.ravel()


# below and above a quarter, on and off the grid of tables, in one table, in two, from the generator
@pytest.mark.parametrize("mean", [0.0, 0.1, 0.25, 0.3, 4.0, 60.4, 314.37, 512.0, 900.6, 1535.9, 4000.3])
def test_photons_are_poisson_not_gaussian(mean):
    counts = draw(mean, 200_000)
    if mean == 0:
        assert not counts.any()
        return
    # bins of at least 1e-4 of the probability, the rest in the two tails
    low, high = poisson.ppf([1e-4, 1 - 1e-4], mean)
    edges = np.concatenate([[-1], np.arange(low, high + 1), [np.inf]])
    observed = np.histogram(counts, edges + 0.5)[0]
    expected = np.diff(poisson.cdf(edges, mean)) * counts.size
    keep = expected > 5
    expected, observed = expected[keep], observed[keep]
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    assert counts.mean() == pytest.approx(mean, abs=4.5 * np.sqrt(mean / counts.size))


@pytest.mark.parametrize("mean", [0.3, 4.7, 314.37, 700.1])
def test_tails_hold_what_poisson_says(mean):
    counts = draw(mean, 20_000_000)
    for probability in (1e-5, 1e-6, 1e-7):
        high, low = poisson.isf(probability, mean), poisson.ppf(probability, mean) - 1
        for observed, expected in (
            (np.count_nonzero(counts > high), poisson.sf(high, mean) * counts.size),
            (np.count_nonzero(counts <= low), poisson.cdf(low, mean) * counts.size),
        ):
            assert poisson.cdf(observed, expected) > 1e-5
            assert poisson.sf(observed - 1, expected) > 1e-5


def test_tables_give_back_the_distribution_they_were_made_of():
    tables = _build_tables()
    for table in (0, 1, 19, 1257, 2048):
        part = slice(tables.first[table], tables.first[table] + tables.size[table])
        keep, alias = tables.keep[part], tables.alias[part]
        found = (keep + np.bincount(alias, weights=1 - keep, minlength=len(keep))) / len(keep)
        counts = tables.lowest[table] + np.arange(len(keep))
        np.testing.assert_allclose(found, poisson.pmf(counts, table / 4), rtol=1e-9, atol=1e-15)


def test_means_that_change_from_pixel_to_pixel():
    mean = np.random.default_rng(1).uniform(0, 700, (2000, 500))
    counts = np.empty_like(mean)
    draw_photons(np.random.default_rng(2), mean, counts)
    deviation = (counts - mean) / np.sqrt(mean)
    assert deviation.mean() == pytest.approx(0, abs=5e-3)
    assert deviation.var() == pytest.approx(1, abs=8e-3)
    assert abs(np.mean(deviation[:, 1:] * deviation[:, :-1])) < 5e-3
    assert abs(np.mean(deviation[1:] * deviation[:-1])) < 5e-3


def test_same_generator_same_photons():
    np.testing.assert_array_equal(draw(37.2, 5000), draw(37.2, 5000))
    assert np.any(draw(37.2, 5000) != draw(37.2, 5000, seed=5))

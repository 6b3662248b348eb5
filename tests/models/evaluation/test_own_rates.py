"""Rates of false alarms from the searched frames' own scores, on tails whose rate is known at every score."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.models.evaluation.own_rates import (
    TAIL_REACH,
    AmplifierScores,
    OwnRate,
    fit_own_rates,
    fit_scale,
    stored_rate,
)
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR

ASKED, LOWEST, ALL = 50.0, 5.0, 15_000.0  # per hour; every noise score lies above 5, as those of the template bank
# 50 an hour above 6, and e times fewer every 0.2
STORED = RateCurve(6 - 0.2 * np.log(np.arange(1, 501) / 10), live_hours=0.2)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def draw(rng, hours: float, scale: float = 0.8, flood: float = 1.0) -> np.ndarray:
    """Exponential noise."""
    return LOWEST + rng.exponential(scale, rng.poisson(ALL * flood * hours))


def true_rate(score: float, scale: float = 0.8) -> float:
    return ALL * np.exp(-(score - LOWEST) / scale)


def ccd(rng, hours: float, name: str = "s_c01", **options) -> list[AmplifierScores]:
    """Four amplifiers under one sky."""
    return [AmplifierScores(f"{name}_q{q}", name, draw(rng, hours, **options), hours) for q in (1, 2, 3, 4)]


def kept(searched: list[AmplifierScores], stored: RateCurve | None = STORED, asked: float = ASKED) -> np.ndarray:
    """Noise an hour above the threshold of each amplifier, over what was asked."""
    rates = fit_own_rates(searched, asked, stored)
    return np.array([true_rate(rate.threshold(asked)) / asked for rate in rates.values()])


@pytest.mark.parametrize("asked", [10.0, 50.0, 200.0])
def test_a_known_tail_gives_the_rate_within_its_error(rng, asked):
    searched = [replace(one, scores=draw(rng, 2.0), live_hours=2.0) for one in ccd(rng, 2.0)]
    for rate in fit_own_rates(searched, asked, STORED).values():
        threshold = rate.threshold(asked)
        assert abs(np.log(true_rate(threshold) / asked)) < 3 * rate.rate_error(threshold) < 0.6
        assert abs(threshold - (LOWEST + 0.8 * np.log(ALL / asked))) < 3 * rate.threshold_error(asked)


def test_the_stated_error_is_the_scatter():
    """Of 60 searches of half an hour the logarithms of the kept rates scatter as the error says."""
    logs, errors = [], []
    for seed in range(60):
        (rate,) = fit_own_rates(
            [AmplifierScores("a", "a", draw(np.random.default_rng(seed), 0.5), 0.5)], ASKED, None
        ).values()
        logs.append(np.log(true_rate(rate.threshold(ASKED)) / ASKED))
        errors.append(rate.rate_error(rate.threshold(ASKED)))
    assert np.std(logs) == pytest.approx(np.mean(errors), rel=0.35)
    assert abs(np.mean(logs)) < 0.1


@pytest.mark.parametrize("scale", [0.2, 0.8, 3.0])
@pytest.mark.parametrize("events", [100.0, 200.0])
def test_real_events_move_the_rate_by_less_than_a_factor_of_1_5(rng, scale, events):
    hours = 1.0
    searched = []
    for quadrant in range(4):
        real = LOWEST + scale * rng.uniform(3, 40, rng.poisson(events * hours))
        searched.append(AmplifierScores(str(quadrant), "g", np.append(draw(rng, hours, scale), real), hours))
    rates = fit_own_rates(searched, ASKED, STORED)
    mean = np.mean([true_rate(rate.threshold(ASKED), scale) for rate in rates.values()]) / ASKED
    assert 1 / 1.5 < mean < 1.5


def test_a_thousand_events_an_hour_make_a_search_strict_but_not_blind(rng):
    """As many as a blind test may inject: two thirds of what lies above the start."""
    searched = [
        replace(one, scores=np.append(one.scores, LOWEST + 0.8 * rng.uniform(3, 40, rng.poisson(1000 * 0.5))))
        for one in ccd(rng, 0.5)
    ]
    assert 0.05 < kept(searched).mean() < 1


def test_a_tail_that_is_not_quite_exponential_keeps_its_rate_within_a_factor_of_two(rng):
    """Normal noise falls ever faster; a Lomax tail of eight scores ever slower."""
    hours, n = 2.0, 30_000
    for survival, score in (
        (lambda x: np.exp(-x - x**2 / 32), lambda u: 16 * (np.sqrt(1 - np.log(u) / 8) - 1)),
        (lambda x: (1 + x / 8) ** -8.0, lambda u: 8 * (u ** (-1 / 8) - 1)),
    ):
        one = AmplifierScores("a", "a", score(rng.uniform(size=n)), hours)
        np.testing.assert_allclose(survival(score(0.01)), 0.01)
        threshold = fit_own_rates([one], ASKED, STORED)["a"].threshold(ASKED)
        assert 0.5 < n / hours * survival(threshold) / ASKED < 2


def test_many_short_searches_keep_the_rate_on_average():
    """33 s of four amplifiers: some 55 scores, under a sky where the stored curve is off by a factor of 80."""
    ratios = [kept(ccd(np.random.default_rng(seed), 0.0092)).mean() for seed in range(200)]
    assert 0.7 < np.mean(ratios) < 1.4
    assert true_rate(STORED.threshold(ASKED)[0]) / ASKED > 80


def test_a_short_search_lies_between_its_own_scores_and_the_stored_curve(rng):
    """The fewer scores there are, the nearer the threshold is to the stored one."""
    stored = STORED.threshold(ASKED)[0]
    weights = []
    for n in (15, 30, 60):
        scores = LOWEST + 0.8 * np.log(ALL / 1500) + 0.8 * np.log(n / np.arange(1, n + 1))
        one = AmplifierScores("a", "a", scores, n / 1500)
        alone = fit_own_rates([one], ASKED, None)["a"].threshold(ASKED)
        both = fit_own_rates([one], ASKED, STORED)["a"].threshold(ASKED)
        assert stored < both < alone
        weights.append((alone - both) / (alone - stored))
    assert weights[0] > weights[1] > weights[2]


def test_too_few_scores_leave_the_stored_curve():
    few = [AmplifierScores(str(q), "g", np.array([9.0, 8.0]), 0.01) for q in range(3)]
    for rate in fit_own_rates([*few, AmplifierScores("none", "g", np.empty(0), 0.01)], ASKED, STORED).values():
        assert rate.threshold(ASKED) == STORED.threshold(ASKED)[0]
        assert rate.n_own == 0
    assert fit_own_rates(few, ASKED, None) == {}
    events = [AmplifierScores("a", "a", np.linspace(6, 20, 50), 0.004)]  # of which 6 would be noise
    assert fit_own_rates(events, ASKED, None) == {}
    equal = [AmplifierScores("a", "a", np.full(40, 7.0), 0.01)]  # which have no tail
    assert fit_own_rates(equal, ASKED, None) == {}
    assert fit_own_rates([], ASKED, STORED) == {}


def test_scores_alone_are_enough_without_a_stored_curve(rng):
    assert kept(ccd(rng, 0.5), stored=None).mean() == pytest.approx(1, abs=0.35)


def test_one_flooded_amplifier_leaves_the_others_alone(rng):
    searched = ccd(rng, 0.02)
    flooded = [replace(searched[0], scores=20 + draw(rng, 0.02, scale=3.0, flood=3.0)), *searched[1:]]
    quiet, loud = fit_own_rates(searched, ASKED, STORED), fit_own_rates(flooded, ASKED, STORED)
    for one in searched[1:]:
        before, after = (rates[one.amplifier].threshold(ASKED) for rates in (quiet, loud))
        assert after == pytest.approx(before, abs=0.8)
        assert 0.35 < true_rate(after) / true_rate(before) < 2.8
    first = loud[searched[0].amplifier]
    assert (flooded[0].scores >= first.threshold(ASKED)).sum() <= 5  # one is asked for


def test_an_amplifier_without_scores_has_the_threshold_of_its_group(rng):
    searched = [*ccd(rng, 0.1), AmplifierScores("s_c01_q5", "s_c01", np.empty(0), 0.0)]
    rates = fit_own_rates(searched, ASKED, STORED)
    thresholds = [rate.threshold(ASKED) for rate in rates.values()]
    assert min(thresholds[:4]) - 0.5 < thresholds[4] < max(thresholds[:4]) + 0.5
    assert rates["s_c01_q5"].n_own == 0
    assert rates["s_c01_q5"].rate_error(9.0) > rates["s_c01_q1"].rate_error(9.0)


def test_groups_do_not_know_each_other(rng):
    first, other = ccd(rng, 0.1), ccd(rng, 0.1, "s_c02", scale=3.0)
    both = fit_own_rates([*other, *first], ASKED, STORED)
    assert list(both) == [one.amplifier for one in (*first, *other)]
    assert {name: both[name] for name in list(both)[:4]} == fit_own_rates(first, ASKED, STORED)


def test_the_order_of_amplifiers_and_scores_changes_no_bit(rng):
    searched = ccd(rng, 0.05) + ccd(rng, 0.05, "s_c02")
    shuffled = [replace(searched[k], scores=rng.permutation(searched[k].scores)) for k in rng.permutation(8)]
    assert fit_own_rates(shuffled, ASKED, STORED) == fit_own_rates(searched, ASKED, STORED)


def test_a_smaller_camera_has_as_many_fewer_alarms_an_hour(rng):
    """A tenth of the pixel-rows in an hour, so ten hours of it are one of ZTF, and 5 an hour are 50 of ZTF."""
    (one,) = ccd(rng, 1.0)[:1]
    small = replace(one, live_hours=10.0, pixel_rows_per_hour=PIXEL_ROWS_PER_HOUR / 10)
    wide, slow = (fit_own_rates([part], asked, STORED) for part, asked in ((one, 50.0), (small, 5.0)))
    assert slow[one.amplifier].threshold(5.0) == pytest.approx(wide[one.amplifier].threshold(50.0))


def test_a_rate_beyond_all_scores_takes_every_one(rng):
    searched = ccd(rng, 0.05)
    for rate in fit_own_rates(searched, 1e6, STORED).values():
        assert rate.threshold(1e6) < LOWEST


def test_the_expected_rate_falls_with_the_score_and_meets_the_threshold():
    rate = OwnRate(start=7.0, start_rate=1500.0, scale=0.8, n_start=30.0, n_scale=10.0)
    scores = np.linspace(4, 30, 200)
    assert (np.diff(rate.rate(scores)) < 0).all()
    assert rate.rate(7.0) == 1500.0
    for asked in (1.0, 50.0, 1500.0, 4000.0):
        assert rate.rate(rate.threshold(asked)) == pytest.approx(asked)
    assert rate.rate(6.2) == pytest.approx(1500 * np.e)
    certain = replace(rate, n_scale=1e9)
    assert certain.threshold(1500 / np.e) == pytest.approx(7.8)
    assert rate.threshold(50.0) > certain.threshold(50.0)  # an uncertain scale asks for more
    assert certain.rate_error(7.0) == pytest.approx(1 / np.sqrt(30))


def test_what_is_stored_is_known_to_a_factor_of_three():
    rate = stored_rate(STORED, ASKED, PIXEL_ROWS_PER_HOUR)
    assert rate.threshold(ASKED) == STORED.threshold(ASKED)[0] == 6.0
    assert rate.scale == pytest.approx(0.2, rel=0.05)
    assert rate.rate_error(6.0) == pytest.approx(np.log(3))
    assert rate.rate(6.0) == ASKED


@pytest.mark.parametrize("scores", [[], [8.0], [8.0, 8.0]])
def test_a_stored_curve_without_a_tail_gives_a_threshold_but_no_rates(scores):
    stored = RateCurve(np.array(scores), 1.0)
    (rate,) = fit_own_rates([AmplifierScores("a", "a", np.empty(0), 1.0)], ASKED, stored).values()
    assert rate.threshold(ASKED) == rate.threshold(1.0) == stored.threshold(ASKED)[0]
    assert np.isnan(rate.rate([7.0, 9.0])).all()


def test_a_stored_curve_without_a_tail_does_not_move_a_fit(rng):
    searched = ccd(rng, 0.1)
    assert fit_own_rates(searched, ASKED, RateCurve(np.empty(0), 1.0)) == fit_own_rates(searched, ASKED, None)


def test_what_lies_beyond_the_reach_counts_neither_for_nor_against(rng):
    noise = np.sort(rng.exponential(2.0, 2000))
    near = noise[noise < 2.0 * TAIL_REACH]
    cut, n_cut = fit_scale(np.append(near, near[-1] + np.full(100, 50.0)))
    assert cut == pytest.approx(2.0, abs=3 * 2 / np.sqrt(n_cut))
    assert cut == fit_scale(np.append(near, near[-1] + np.full(100, 5000.0)))[0]
    assert n_cut < len(near)


def test_a_scale_of_no_scores_is_what_was_known():
    assert fit_scale(np.empty(0), before=0.7, n_before=8.0) == (0.7, 8.0)


def test_a_rate_survives_json(rng):
    for rate in fit_own_rates(ccd(rng, 0.05), ASKED, STORED).values():
        assert OwnRate.from_dict(json.loads(json.dumps(rate.to_dict()))) == rate


def test_rates_are_imported_without_torch():
    code = "import sys, shutterless.models.evaluation.own_rates; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

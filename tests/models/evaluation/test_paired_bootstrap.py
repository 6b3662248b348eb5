"""The error of a difference against its analytic value, its coverage, and the effect of whole blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.paired_bootstrap import PairedBootstrapError, choose_blocks, paired_difference


def test_equal_detectors_differ_by_nothing_without_error():
    found = np.arange(40) % 3 == 0
    result = paired_difference(found, found, np.arange(40) // 4)
    assert (result.difference, result.standard_error, result.low, result.high) == (0.0, 0.0, 0.0, 0.0)
    assert result.n_blocks == 10


def test_difference_is_that_of_the_completenesses_and_changes_its_sign():
    first, second = np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 0], bool)
    there = paired_difference(first, second, np.arange(4))
    back = paired_difference(second, first, np.arange(4))
    assert (there.difference, back.difference) == (0.5, -0.5)
    assert (there.low, there.high, there.standard_error) == (-back.high, -back.low, back.standard_error)


def test_standard_error_of_single_events_is_the_textbook_one():
    """With one event per block, the error is s/√n with n - 1 in the variance."""
    rng = np.random.default_rng(3)
    first, second = rng.random(200) < 0.7, rng.random(200) < 0.5
    result = paired_difference(first, second, np.arange(200), n_samples=20_000)
    values = first.astype(float) - second
    assert result.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(200), rel=0.02)
    assert (result.low, result.high) == pytest.approx(
        (result.difference - 1.96 * result.standard_error, result.difference + 1.96 * result.standard_error), abs=0.01
    )


def test_variance_is_unbiased_even_for_four_blocks():
    """Blocks of equal size with means from N(0, 1): the error of their mean is 1/2."""
    rng = np.random.default_rng(4)
    squares = []
    for seed in range(400):
        values = np.repeat(rng.standard_normal(4), 5)
        squares.append(paired_difference(values, 0 * values, np.arange(20) // 5, seed=seed).standard_error ** 2)
    assert np.sqrt(np.mean(squares)) == pytest.approx(0.5, rel=0.06)


def test_events_that_share_a_block_count_once():
    """Ten copies of every event in its block leave the error unchanged; with single events it would be √10 smaller."""
    rng = np.random.default_rng(5)
    first, second = rng.random(60) < 0.7, rng.random(60) < 0.5
    once = paired_difference(first, second, np.arange(60))
    copies = paired_difference(np.repeat(first, 10), np.repeat(second, 10), np.repeat(np.arange(60), 10))
    assert copies.standard_error == pytest.approx(once.standard_error)
    alone = paired_difference(np.repeat(first, 10), np.repeat(second, 10), np.arange(600))
    assert alone.standard_error == pytest.approx(once.standard_error / np.sqrt(10), rel=0.1)


def test_pairing_cancels_what_is_hard_for_both():
    hard = np.random.default_rng(6).random(400)
    first, second = hard < 0.70, hard < 0.65  # the second finds nothing that the first does not
    paired = paired_difference(first, second, np.arange(400)).standard_error
    unpaired = np.hypot(*(found.std(ddof=1) / 20 for found in (first, second)))
    assert paired < unpaired / 2


def test_interval_covers_the_truth_as_often_as_it_says():
    """Thirty sequences of ten events; the first detector finds a tenth more, by an amount that varies by sequence."""
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(200):
        gain = np.repeat(rng.normal(0.1, 0.1, 30), 10)
        first, second = rng.random(300) < 0.5 + gain, rng.random(300) < 0.5
        result = paired_difference(first, second, np.arange(300) // 10, n_samples=500, seed=seed)
        covered += result.low <= 0.1 <= result.high
    assert 0.88 <= covered / 200 <= 0.99


def test_same_seed_gives_the_same_and_another_nearly():
    rng = np.random.default_rng(8)
    first, second, blocks = rng.random(100) < 0.7, rng.random(100) < 0.5, np.arange(100) // 5
    one = paired_difference(first, second, blocks, seed=1)
    assert paired_difference(first, second, blocks, seed=1) == one
    other = paired_difference(first, second, blocks, seed=2)
    assert other.low != one.low
    assert other.standard_error == pytest.approx(one.standard_error, rel=0.1)


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(PairedBootstrapError, match=r"same events: 3 of the first detector, 2 of the second, 3 block"):
        paired_difference(np.ones(3), np.ones(2), np.arange(3))
    with pytest.raises(PairedBootstrapError, match=r"3 events of 1 block: resampling needs at least two sequences"):
        paired_difference(np.ones(3), np.ones(3), np.zeros(3))


def events(n_sequences, files_each, amplifiers_each):
    rows = [
        (f"s{s}", f"s{s}f{f}", f"s{s}f{f}a{a}")
        for s in range(n_sequences) for f in range(files_each) for a in range(amplifiers_each)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["sequence", "file", "entry"])


@pytest.mark.parametrize(
    ("shape", "label"),
    [((8, 2, 4), "sequence"), ((1, 9, 4), "file"), ((1, 2, 4), "entry"), ((3, 1, 1), "sequence"), ((7, 1, 2), "entry")],
)
def test_blocks_are_the_coarsest_of_which_there_are_enough(shape, label):
    assert choose_blocks(events(*shape)).name == label


def test_events_without_any_label_are_refused():
    with pytest.raises(PairedBootstrapError, match=r"need one of \['sequence', 'file', 'entry'\], got \['rho'\]"):
        choose_blocks(pd.DataFrame({"rho": [1.0]}))

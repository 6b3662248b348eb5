"""Triggers on one straight line, in one column or in the same rows are one object; independent events are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.detection.trails import count_members, find_trails

N_COLUMNS, N_ROWS = 3072, 8000


def make_triggers(x, row, snr=6.0, star=None, width=5) -> pd.DataFrame:
    """Triggers of equal width, on a star or on none."""
    row = np.asarray(row, dtype=np.int64)
    return pd.DataFrame(
        {
            "x": np.asarray(x, dtype=np.float64),
            "y": 0.0,
            "row_start": row - width // 2,
            "row_stop": row + width // 2,
            "row_peak": row,
            "width_rows": float(width),
            "snr": snr,
            "streak_id": pd.array([star] * len(row), dtype="Int64"),
        }
    )


def scatter_triggers(seed: int, n: int = 500) -> pd.DataFrame:
    """Independent triggers, as strong as noise is."""
    rng = np.random.default_rng(seed)
    return make_triggers(
        rng.uniform(0, N_COLUMNS, n),
        rng.integers(0, N_ROWS, n),
        (4.5 + rng.exponential(0.5, n)) * rng.choice([-1, 1], n),
    )


def number_last(others: pd.DataFrame, last: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Trails of some triggers, and of the last ones among them."""
    trails = find_trails(pd.concat([others, last], ignore_index=True), N_ROWS)
    return trails[: len(others)], trails[len(others) :]


def line(slope: float, n: int = 10, first: float = 2000, step: float = 60, **more) -> pd.DataFrame:
    """Triggers every so many pixels along a line, half a pixel off it at most."""
    along, angle = step * np.arange(n), np.arctan(slope)
    off = np.random.default_rng(n).uniform(-0.5, 0.5, n)
    return make_triggers(1000 + along * np.sin(angle) + off, first + along * np.cos(angle), **more)


@pytest.mark.parametrize("slope", [0.047, -0.5, 4.0], ids=["satellite", "aircraft", "meteor"])
@pytest.mark.parametrize("seed", range(4))
def test_ten_on_a_line_are_found_among_five_hundred(slope, seed):
    others, members = number_last(scatter_triggers(seed), line(slope))
    assert (members == members[0]).all()
    assert members[0] >= 0
    assert (others == members[0]).sum() <= 1


def test_independent_triggers_are_no_trail():
    """Chance joins 0.05 sets an amplifier at most."""
    assert sum(find_trails(scatter_triggers(seed), N_ROWS).max() >= 0 for seed in range(20)) <= 1


def test_thirty_events_alone_in_an_amplifier_are_no_trail():
    joined = [find_trails(scatter_triggers(100 + seed, 30), N_ROWS).max() >= 0 for seed in range(100)]
    assert sum(joined) <= 5


def test_flares_of_one_star_are_several_events():
    flares = make_triggers(np.full(6, 1500.2), 900 + 1100 * np.arange(6), 12.0, star=3)
    assert (number_last(scatter_triggers(1), flares)[1] == -1).all()


def test_a_column_without_a_star_is_one_object_and_so_is_a_star_with_a_trigger_every_hundred_rows():
    column = make_triggers(np.full(20, 700.0), 100 + 390 * np.arange(20), 12.0)
    others, members = number_last(scatter_triggers(1), column)
    assert np.unique(members).tolist() == [members[0]] != [-1]
    assert (others == members[0]).sum() <= 6  # of 500 triggers, 0.8 are within 2 px of a column
    star = make_triggers(np.full(80, 2000.0), 50 + 100 * np.arange(80), 12.0, star=5)
    assert np.unique(number_last(scatter_triggers(1), star)[1]).tolist() != [-1]


def test_seven_bursts_of_a_source_without_a_streak_are_several_events():
    bursts = make_triggers(np.full(7, 700.3), 500 + 1000 * np.arange(7), 12.0)
    assert (number_last(scatter_triggers(1, 50), bursts)[1] == -1).all()


def test_thirty_columns_in_the_same_rows_are_one_object():
    row = make_triggers(np.linspace(20, 3050, 30), 4000 + np.arange(30) % 3, 9.0)
    others, members = number_last(scatter_triggers(1), row)
    assert np.unique(members).tolist() == [members[0]] != [-1]
    assert (others == members[0]).sum() <= 1


def test_crowded_columns_of_bright_stars_are_no_lines():
    """Five bright stars beside each other with eight triggers each, in any rows."""
    rng = np.random.default_rng(5)
    stars = [make_triggers(np.full(8, 1500 + 7.0 * k), rng.integers(0, N_ROWS, 8), 15.0, star=k) for k in range(5)]
    assert (number_last(scatter_triggers(2), pd.concat(stars))[1] == -1).all()


def test_dashes_with_gaps_and_two_crossing_lights_are_one_object_each():
    dashes = pd.concat([line(0.5, 6, first, 40) for first in (1000.0,)], ignore_index=True)
    later = dashes.assign(x=dashes["x"] + 300, **{name: dashes[name] + 600 for name in ("row_start", "row_stop")})
    _, members = number_last(scatter_triggers(3), pd.concat([dashes, later], ignore_index=True))
    assert np.unique(members).tolist() == [members[0]] != [-1]
    crossing = line(-0.5, 12, first=2000, step=60).assign(snr=20.0)
    _, both = number_last(scatter_triggers(3), pd.concat([line(0.5, 12, step=60).assign(snr=20.0), crossing]))
    assert len(np.unique(both)) == 2
    assert (both >= 0).all()


def test_trails_depend_neither_on_the_order_of_triggers_nor_on_what_was_sought_before():
    triggers = pd.concat([scatter_triggers(4), line(0.2), line(-1.0, first=5000)], ignore_index=True)
    found = find_trails(triggers, N_ROWS)
    shuffled = np.random.default_rng(1).permutation(len(triggers))
    np.testing.assert_array_equal(find_trails(triggers, N_ROWS), found)
    np.testing.assert_array_equal(find_trails(triggers.iloc[shuffled], N_ROWS), found[shuffled])
    assert sorted(set(found)) == [-1, 0, 1]
    assert triggers["row_peak"][found == 0].min() < triggers["row_peak"][found == 1].min()


def test_an_empty_table_three_triggers_and_a_stack_of_images_have_no_trails():
    for few in (scatter_triggers(1).iloc[:0], line(0.1, 3)):
        assert find_trails(few, N_ROWS).tolist() == [-1] * len(few)
    images = line(0.1, 30).assign(y=np.arange(30.0))
    assert (find_trails(images, N_ROWS) == -1).all()
    assert (find_trails(images.assign(y=0.0), N_ROWS) == 0).all()


def test_members_are_counted_and_a_lone_trigger_is_one():
    assert count_members(np.array([1, -1, 0, 1, 1])).tolist() == [3, 1, 1, 3, 3]
    assert count_members(np.array([-1, -1])).tolist() == [1, 1]
    assert count_members(np.empty(0, dtype=np.int64)).tolist() == []

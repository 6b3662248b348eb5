from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from flat_amplifier import flat_amplifier

from shutterless.pipeline.context.neighbours import NEIGHBOUR_FEATURES, count_neighbours

N_ROWS = 6000


def amplifier(streak_x=(), y0=()):
    empty = flat_amplifier(np.zeros((64, N_ROWS)), sky_e=300.0, sigma_e=20.0, sigma_px=0.85, streak_x=streak_x)
    empty.streaks["y0"] = np.asarray(y0, dtype=float) if len(y0) else np.nan
    return empty


def triggers(*places: tuple[float, int, float], length: int = 5) -> pd.DataFrame:
    """Triggers of (x, peak row, S/N)."""
    x, peak, snr = map(np.array, zip(*places, strict=True))
    return pd.DataFrame(
        {"x": x, "row_start": peak - length // 2, "row_stop": peak + length // 2, "row_peak": peak, "snr": snr}
    ).assign(streak_id=pd.array([pd.NA] * len(x), dtype="Int64"))


def test_triggers_of_the_same_star_are_counted_within_ten_seconds():
    table = triggers((30.0, 1000, 8.0), (30.5, 1100, 4.0), (31.0, 3900, 16.0), (30.0, 4100, 9.0), (50.0, 1100, 9.0))
    found = count_neighbours(amplifier(), table).iloc[0]
    assert found["n_same_star"] == 2  # rows 1100 and 3900; 4100 is 10.3 s away
    assert found["loudest_same_star"] == 2.0
    assert found["n_same_star_near"] == 1
    assert found["loudest_same_star_near"] == 0.5


def test_triggers_in_the_same_rows_are_compared_with_chance():
    table = triggers(*((3.0 + 10 * k, 2000, 6.0) for k in range(6)))
    found = count_neighbours(amplifier(), table).iloc[0]
    # 5 others, expected 5 x 6 / 6000 rows
    assert found["same_row_excess"] == pytest.approx((5 - 0.005) / np.sqrt(1.005))
    assert found["loudest_same_row"] == 1.0


def test_a_crowd_of_chance_triggers_gives_no_excess():
    rng = np.random.default_rng(1)
    x, rows = rng.uniform(0, 63, 3000).tolist(), rng.integers(10, N_ROWS - 10, 3000).tolist()
    places = [(place, row, 6.0) for place, row in zip(x, rows, strict=True)]
    found = count_neighbours(amplifier(), triggers(*places))
    assert abs(found["same_row_excess"].mean()) < 0.2
    assert found["same_row_excess"].std() < 1.3


def test_one_flash_on_two_stars_agrees_in_their_own_time():
    table = triggers((10.0, 1500, 8.0), (40.0, 2500, 8.0)).assign(streak_id=pd.array([0, 1], dtype="Int64"))
    found = count_neighbours(amplifier((10.0, 40.0), (100.0, 1100.0)), table)
    assert (found["same_time_excess"] > 0.9).all()
    assert (found["same_row_excess"] <= 0).all()
    unknown = count_neighbours(amplifier((10.0, 40.0)), table)
    assert unknown["same_time_excess"].isna().all()


def test_triggers_beside_it_are_counted():
    table = triggers((30.0, 1000, 8.0), (36.0, 1002, 16.0), (50.0, 1001, 9.0))
    found = count_neighbours(amplifier(), table).iloc[0]
    assert (found["n_beside"], found["loudest_beside"]) == (1, 2.0)


def test_no_trigger_gives_an_empty_table():
    found = count_neighbours(amplifier(), triggers((30.0, 1000, 8.0)).iloc[:0])
    assert list(found.columns) == list(NEIGHBOUR_FEATURES)
    assert found.empty

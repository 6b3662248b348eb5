"""Groups: what one cause in the sky or in the electronics leaves is one, what only agrees by chance is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.astrometry.focal_plane import focal_plane
from shutterless.pipeline.reading.instruments import load_frame_profile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.results.candidates import build_candidates, empty_candidates
from shutterless.pipeline.results.groups import (
    BORDER_PX,
    MOST_CHANCE_GROUPS,
    FileGeometry,
    find_groups,
    group_candidates,
)
from shutterless.pipeline.results.trail_joints import Trail

from ..conftest import streak_table

FILE = "frame_0001.fits.fz"
ZTF = load_frame_profile("ztf")
LONG_NIGHT = FileGeometry(30_000, 3072, tuple((one.flip_columns, one.flip_rows) for one in ZTF.quadrants))


def clock(quadrant=2):
    """A detector row every 1/300 s, 3,080 of them to the register."""
    return Readout(300.0, 6.2, 10.0, 48_000.0, 3080, 0, "2026-03-04T05:06:07", "night", ccd=3, quadrant=quadrant)


def build(*rows, quadrant=2, streaks=None, file=FILE, trail=None):
    """Candidates at (x, first row, last row, peak row, S/N, streak)."""
    names = ["x", "row_start", "row_stop", "row_peak", "snr", "streak_id"]
    table = pd.DataFrame(rows, columns=names).astype({"streak_id": "Int64"}).assign(amplitude_e=500.0, veto="")
    table["trail_id"] = pd.array([trail] * len(table), dtype="Int64")
    streaks = streak_table(((12.5, 1000.0), (300.0, 400.0))) if streaks is None else streaks
    return build_candidates(table, streaks, clock(quadrant), file=file, model="bank")


def groups(table, geometry=LONG_NIGHT, **options):
    """Group of each candidate as a small number, in order of appearance."""
    return pd.factorize(group_candidates(table, {FILE: geometry}, **options)["group_id"])[0].tolist()


def test_no_candidates_make_no_groups():
    assert group_candidates(empty_candidates()).empty


def test_same_rows_in_two_quadrants_are_one():
    """Pickup reaches all quadrants at read time; the group is named after its strongest member."""
    table = pd.concat(
        [build((900.0, 1000, 1003, 1001, 6.0, None)), build((20.0, 1000, 1003, 1002, 9.0, None), quadrant=4)]
    )
    grouped = group_candidates(table)
    assert grouped["group_id"].tolist() == ["frame_0001_c03_q4_x0020.00_r0001002"] * 2
    assert grouped["candidate_id"].tolist() == table["candidate_id"].tolist()


def test_a_dip_and_a_brightening_have_two_causes():
    rise, dip = (900.0, 1000, 1003, 1001, 6.0, None), (20.0, 1000, 1003, 1001, -9.0, None)
    assert groups(build(rise, dip)) == [0, 1]
    assert groups(build(dip, (900.0, 1000, 1003, 1001, -6.0, None))) == [0, 0]


def test_same_rows_of_another_file_are_another_cause():
    table = pd.concat(
        [build((9.0, 1000, 1003, 1001, 6.0, None)), build((9.0, 1000, 1003, 1001, 6.0, None), file="next.fits")]
    )
    assert groups(table) == [0, 1]


@pytest.mark.parametrize(
    ("second", "together"),
    [
        ((900.0, 1003, 1010, 1007, 6.0, None), False),  # peaks three rows apart, but only five of eleven rows shared
        ((900.0, 1002, 1009, 1006, 6.0, None), True),
        ((900.0, 1000, 1007, 1007, 6.0, None), True),
        ((900.0, 1000, 1007, 1008, 6.0, None), False),
        ((900.0, 1000, 1100, 1004, 6.0, None), False),
        ((900.0, 3000, 3007, 3004, 6.0, None), False),
    ],
)
def test_which_rows_are_the_same(second, together):
    """Beside rows 1000 to 1007 with their peak in 1004: within three rows, and more than half of both shared."""
    assert groups(build((9.0, 1000, 1007, 1004, 6.0, None), second)) == ([0, 0] if together else [0, 1])


def test_long_ones_may_differ_by_a_quarter():
    """100 rows each: 25 rows between the peaks are one cause, 26 two."""
    first = (9.0, 1000, 1099, 1010, 6.0, None)
    assert groups(build(first, (900.0, 1010, 1109, 1035, 6.0, None))) == [0, 0]
    assert groups(build(first, (900.0, 1010, 1109, 1036, 6.0, None))) == [0, 1]


def test_nobody_is_joined_through_a_third():
    """The third peaks two rows from either of the others, which peak four rows apart."""
    rows = [(x, 1000 + shift, 1007 + shift, 1003 + shift, 6.0, None) for x, shift in ((9, 0), (500, 4), (900, 2))]
    assert groups(build(*rows)) == [0, 1, 0]
    assert groups(build(*rows[:2])) == [0, 1]


def test_one_flash_on_two_stars():
    """Stars 1,000 rows apart on the detector show one flash in rows 1,000 apart; known y0 identify it."""
    streaks = streak_table(((12.5, 1000.0), (300.0, 400.0))).assign(y0=[300.0, 1300.0])
    first, second = (12.5, 3300, 3303, 3301, 9.0, 0), (300.0, 4300, 4303, 4302, 6.0, 1)
    table = build(first, second, (800.0, 5000, 5003, 5001, 6.0, None), streaks=streaks)
    assert groups(table) == [0, 0, 1]
    assert group_candidates(table)["group_id"].iloc[1] == "frame_0001_c03_q2_x0012.50_r0003301"
    # not identified if one y0 is unknown, at another time, or of the other sign
    assert groups(build(first, second, streaks=streaks.assign(y0=[300.0, np.nan]))) == [0, 1]
    assert groups(build(first, (300.0, 4310, 4313, 4312, 6.0, 1), streaks=streaks)) == [0, 1]
    assert groups(build(first, (300.0, 4300, 4303, 4302, -6.0, 1), streaks=streaks)) == [0, 1]
    # light of row 6081 may be as old as that of row 3301 of the first star, or up to a transit younger
    assert groups(build((800.0, 6080, 6083, 6081, 6.0, None), first, streaks=streaks)) == [0, 1]


def test_a_pair_counts_only_where_pairs_are_rare():
    """Of two candidates in 30,000 rows chance makes 7/30,000 such pairs; in 400 rows 0.0175, which is too many."""
    pair = build((9.0, 300, 303, 301, 6.0, None), (900.0, 300, 303, 304, 6.0, None))
    found = find_groups(pair, {FILE: LONG_NIGHT})
    assert found.chance_groups == pytest.approx(7 / 30_000, rel=1e-3)
    assert found.table["group_id"].nunique() == 1
    assert find_groups(pair, {FILE: FileGeometry(400, 3072)}).table["group_id"].nunique() == 2


def crowd(rng, n, n_rows, n_on_stars):
    """Independent events, as many of either sign and of each length from 4 to 256 rows."""
    row, length, sign = rng.integers(0, n_rows - 300, n), 4 * 2 ** rng.integers(0, 7, n), rng.choice([-1, 1], n)
    x, quadrant, y0 = rng.uniform(0, 3071, n), rng.integers(1, 5, n), rng.integers(0, 3080, n)
    on_star = (np.arange(n) < n_on_stars) & (y0 < row)
    streaks = streak_table([(place, 100.0) for place in x]).assign(y0=y0.astype(float))
    rows = [
        (x[k], row[k], row[k] + length[k] - 1, row[k] + length[k] // 2, 6.0 * sign[k], k if on_star[k] else None)
        for k in range(n)
    ]
    return build(*rows, streaks=streaks).assign(quadrant=quadrant, candidate_id=[f"c{k}" for k in range(n)])


def test_independent_events_are_grouped_as_rarely_as_stated():
    """160 events in 9,000 rows, as in the quickstart: fewer than 0.05 groups of two events are expected in a file."""
    rng = np.random.default_rng(5)
    plan = FileGeometry(9000, 3072, LONG_NIGHT.flips)
    found = [find_groups(crowd(rng, 160, 9000, 110), {FILE: plan}) for _ in range(10)]
    joined = sum(160 - one.table["group_id"].nunique() for one in found)
    assert joined <= 3  # of a mean of 0.5, more are expected in 0.2 %
    assert sum(one.chance_groups for one in found) <= 10 * MOST_CHANCE_GROUPS


def test_pickup_in_many_columns_is_one_group_in_a_crowd():
    rng = np.random.default_rng(6)
    others = crowd(rng, 120, 9000, 0)
    pickup = pd.concat(
        [build((x, 5000, 5002, 5001, 7.0, None), quadrant=q) for q in (1, 2, 3, 4) for x in (90.0, 2000.0)]
    )
    pickup = pickup.assign(candidate_id=[f"pickup{k}" for k in range(8)])
    table = group_candidates(pd.concat([others, pickup], ignore_index=True), {FILE: FileGeometry(9000, 3072)})
    groups_of_pickup = table["group_id"].iloc[-8:].unique()
    assert len(groups_of_pickup) == 1
    assert table["group_id"].eq(groups_of_pickup[0]).sum() == 8


@pytest.mark.parametrize("quadrant", [1, 2, 3, 4])
def test_columns_of_the_ccd_are_those_of_the_focal_plane(quadrant):
    plane = focal_plane(ZTF, 3080)
    left = plane.frame(7, 1).to_focal(0, 0)[0]
    for x in (0.0, 12.5, 3071.0):
        assert LONG_NIGHT.ccd_x(quadrant, x) == plane.frame(7, quadrant).to_focal(x, 0)[0] - left
    assert LONG_NIGHT.width == plane.ccd_size_px[0]
    upper = plane.frame(7, quadrant).sign_y < 0
    assert LONG_NIGHT.half(quadrant) == upper


def test_a_camera_with_amplifiers_side_by_side():
    plan = FileGeometry(100, 10, ((False, False), (False, False), (True, False), (True, False)))
    assert plan.width == 40
    assert [plan.ccd_x(quadrant, 0) for quadrant in (1, 2, 3, 4)] == [0, 10, 39, 29]
    assert FileGeometry(100, 10).ccd_x(None, 3.0) == 3.0
    assert FileGeometry(100, 10).width == 10


def test_a_glint_on_the_border_of_two_quadrants_is_one_also_in_a_crowd():
    """Column 3,071 in read order is the last before the border in all four quadrants of ZTF."""
    others = crowd(np.random.default_rng(7), 160, 9000, 0)
    plan = FileGeometry(9000, 3072, LONG_NIGHT.flips)

    def n_groups(x, row, *, quadrant):
        glint = pd.concat(
            [build((3070.0, 4000, 4005, 4002, 9.0, None), quadrant=1),
             build((x, row - 2, row + 3, row, 7.0, None), quadrant=quadrant)],
        ).assign(candidate_id=["one", "other"])  # fmt: skip
        table = group_candidates(pd.concat([others, glint], ignore_index=True), {FILE: plan})
        return table["group_id"].iloc[-2:].nunique()

    assert n_groups(3068.0, 4003, quadrant=2) == 1
    assert n_groups(3070.0, 4003, quadrant=4) == 1  # across the last rows, at the same column
    assert n_groups(3068.0, 4007, quadrant=2) == 2  # five rows later
    assert n_groups(3071.0 - BORDER_PX, 4003, quadrant=2) == 2  # farther from the border


# ---- trails: places and rows of a light that moves evenly over one CCD of ZTF, from the simulator's focal plane


def satellite(x0, y0, velocity, *, begin_s, step_s, n):
    """Trails by quadrant of a light at (x0, y0) of the CCD at second ``begin_s``, seen every ``step_s``."""
    plane = focal_plane(ZTF, 3080)
    corner = plane.frame(3, 1).to_focal(0, 0)
    seconds = begin_s + step_s * np.arange(n)
    x, y = (corner[k] + start + velocity[k] * (seconds - begin_s) for k, start in enumerate((x0, y0)))
    found = {}
    for quadrant in (1, 2, 3, 4):
        read_x, read_y = plane.frame(3, quadrant).to_read(x, y)
        inside = (read_x >= 0) & (read_x < 3072) & (read_y >= 0) & (read_y < 3080)
        if inside.any():
            row = 300 * seconds[inside] + read_y[inside]
            found[quadrant] = LONG_NIGHT.ccd_x(quadrant, read_x[inside]), row
    return found


def as_trail(quadrant, x, row, half_rows=2.0):
    return Trail("night_3", LONG_NIGHT.half(quadrant), x, row, np.full(len(x), half_rows))


def grouped_trails(parts):
    """Number of groups of candidates that stand for trails of some quadrants."""
    tables, trails = [], {}
    for k, (quadrant, (x, row)) in enumerate(parts):
        first = int(row[len(row) // 2])
        table = build((1000.0 + 100 * k, first, first + 4, first + 2, 8.0, None), quadrant=quadrant, trail=k)
        tables.append(table)
        trails[str(table["trail_id"].iloc[0])] = as_trail(quadrant, x, row)
    found = find_groups(pd.concat(tables, ignore_index=True), {FILE: LONG_NIGHT}, trails)
    return found.table["group_id"].nunique(), found.chance_groups


@pytest.mark.parametrize(
    ("start", "velocity", "crossed"),
    [
        ((50.0, 2000.0), (1500.0, 450.0), {1, 2, 3}),  # along the lower half, then up on the right
        ((6100.0, 5000.0), (-1400.0, -700.0), {3, 4, 1}),  # from the right, down on the left
        ((3000.0, 10.0), (60.0, 1200.0), {1, 2, 3}),
    ],
)
def test_a_satellite_across_three_amplifiers_is_one(start, velocity, crossed):
    parts = satellite(*start, velocity, begin_s=20.0, step_s=0.04, n=150)
    assert set(parts) == crossed
    n_groups, chance = grouped_trails(parts.items())
    assert n_groups == 1
    assert chance <= MOST_CHANCE_GROUPS


def test_two_satellites_stay_two():
    one = satellite(50.0, 500.0, (1500.0, 0.0), begin_s=20.0, step_s=0.04, n=100)
    other = satellite(50.0, 500.0, (1500.0, 0.0), begin_s=31.0, step_s=0.04, n=100)
    assert set(one) == {1, 2}
    n_groups, _ = grouped_trails([*one.items(), *other.items()])
    assert n_groups == 2


def test_a_trail_that_turns_at_the_border_is_another_light():
    """Both end and begin at the border at one moment, but the second moves back, or off the line of the first."""
    x, row = satellite(50.0, 500.0, (1500.0, 0.0), begin_s=20.0, step_s=0.04, n=100)[1]
    after = row[-1] + np.arange(1, len(x) + 1) * 12.0
    assert grouped_trails([(1, (x, row)), (2, (x[-1] + np.arange(1, 1 + len(x)) * 60.0, after))])[0] == 1
    assert grouped_trails([(1, (x, row)), (2, (x[-1] + np.arange(1, 1 + len(x)) * 20.0, after))])[0] == 2
    assert grouped_trails([(1, (x, row)), (1, (x[-1] - np.arange(1, 1 + len(x)) * 60.0, after))])[0] == 2


def test_a_column_and_shared_rows_are_no_moving_light():
    rows = np.arange(100.0, 4100.0, 100.0)
    column = Trail("night_3", False, np.full(40, 3071.0), rows, np.ones(40))
    shared = Trail("night_3", False, np.linspace(0, 3000, 40), np.full(40, 500.0), np.ones(40))
    assert not column.moves
    assert not shared.moves

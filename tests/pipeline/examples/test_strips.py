"""Strips: their bins and rows, zeros beyond borders, units of σ, and no information on where a strip was cut."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.examples.strips import choose_bins, cut_strips, stage1_features, strip_first_rows
from shutterless.pipeline.tokens import STAGE1_FEATURES, TokenGrid, unpatchify

STARS = ((20.25, 1000.0), (44.0, 300.0))  # x, electrons per row
GRID = TokenGrid()
SMALL = TokenGrid(n_columns=6, n_rows=40, patch_rows=8, bins=(1, 4))
FIELDS = ("patches", "context", "profile", "features", "mask")


def triggers_at(*places):
    """Triggers at (x, first row, width): S/N 6, other features as of a quiet place."""
    x, start, width = np.asarray(places, dtype=np.float64).reshape(-1, 3).T
    table = pd.DataFrame({"x": x, "y": 0.0, "row_start": start.astype(np.int64), "width_rows": width})
    table["row_stop"] = table["row_start"] + width.astype(np.int64) - 1
    quiet = {"chi2_excess": 0.1, "chi2_significance": 0.6, "sharpness": 0.3, "flatness": -0.2, "n_same_row": 0}
    return table.assign(snr=6.0, **quiet)


def pixels(batch, grid):
    return unpatchify(batch.patches, grid)[:, 0]  # (b, x, t)


@pytest.mark.parametrize(("width", "bins"), [(1, 1), (64, 1), (65, 4), (256, 4), (257, 16), (5000, 16)])
def test_bins_in_the_head(width, bins):
    """256 rows hold four widths up to 64, four times as many up to 256, and no more than 16 times as many."""
    assert choose_bins(np.array([width]), GRID).tolist() == [bins]


def test_bins_may_be_given_in_any_order():
    assert choose_bins(np.array([1, 65, 300]), replace(GRID, bins=(16, 1, 4))).tolist() == [1, 4, 16]


def test_first_rows_in_the_head():
    """Rows 100 to 103 have their middle at 102, 128 rows into a strip; at four rows to a bin, 512."""
    triggers = triggers_at((5, 100, 4), (5, 1000, 200), (5, 50, 1))
    assert strip_first_rows(triggers, np.array([1, 4, 1]), GRID).tolist() == [-26, 588, -78]


def test_features_in_the_head():
    triggers = triggers_at((5, 10, 1), (9, 500, 128)).assign(snr=[7.5, -6.0], n_same_row=[0, 3])
    features = stage1_features(triggers, np.array([1, 4]))
    assert STAGE1_FEATURES[:4] == ("snr", "sign", "log2_width", "log2_bin")
    expected = [[7.5, 1, 0, 0, 0.1, 0.6, 0.3, -0.2, 0], [6, -1, 7, 2, 0.1, 0.6, 0.3, -0.2, 3]]
    np.testing.assert_array_equal(features, np.array(expected, dtype=np.float32))


def test_trigger_stands_in_the_middle(make_amplifier):
    amplifier = make_amplifier(noise=0)
    amplifier.residual[0, 30, 700] = 9
    strip = pixels(cut_strips(amplifier, triggers_at((30.3, 700, 1)), GRID), GRID)[0]
    assert np.argwhere(strip).tolist() == [[8, 128]]
    assert strip[8, 128] == 9


def test_strip_at_the_border_is_the_interior_with_zeros(make_amplifier):
    """The first corner of one amplifier, and the same pixels in the middle of a larger one that is 0 elsewhere."""
    corner = make_amplifier(n_rows=640, stars=())
    inside = make_amplifier(n_columns=128, n_rows=1280, noise=0, stars=())
    inside.residual[:, 32:96, 320:960] = corner.residual
    places = np.array([(2, 20, 3), (62, 630, 3), (30, 300, 3), (1, 602, 100)])  # the last one in whole bins
    at_border = cut_strips(corner, triggers_at(*places), GRID)
    within = cut_strips(inside, triggers_at(*(places + np.array([32, 320, 0]))), GRID)
    np.testing.assert_array_equal(at_border.patches, within.patches)
    assert np.all(within.mask[:3])
    # 20 to 22 stands in row 128 of a strip, which therefore begins 107 rows (13 whole patches) before the file
    assert at_border.mask[0].tolist() == [False] * 13 + [True] * 19
    assert at_border.mask[2].all()


def test_profile_is_the_baseline_in_units_of_the_sky_noise(make_amplifier):
    """Sky 300 ± 20: a column of 340 electrons is 2; beyond the border the last column is repeated."""
    amplifier = make_amplifier(stars=())
    amplifier.baseline_e[0, 0] = 340
    amplifier.baseline_e[0, 1, 10] = 320  # rows 640 to 703
    profile = cut_strips(amplifier, triggers_at((2, 650, 1), (2, 100, 1)), GRID).profile
    np.testing.assert_allclose(profile[0], [2] * 7 + [1] + [0] * 8, atol=1e-6)
    np.testing.assert_allclose(profile[1], [2] * 7 + [0] * 9, atol=1e-6)


def test_binned_noise_keeps_unit_variance(make_amplifier):
    """Four strips of 4,096 values each, in one row and in bins of four, with and without a tenth of it masked."""
    amplifier = make_amplifier(stars=())
    masked = np.random.default_rng(1).random(amplifier.residual.shape) < 0.1
    holes = replace(amplifier, residual=np.where(masked, np.float16(np.nan), amplifier.residual))
    for width in (1, 100):
        places = triggers_at(*((x, row, width) for x in (8, 24, 40, 56) for row in (1000, 2500)))
        assert pixels(cut_strips(amplifier, places, GRID), GRID).var() == pytest.approx(1, abs=0.03)
        strips = pixels(cut_strips(holes, places, GRID), GRID)
        assert strips[strips != 0].var() == pytest.approx(1, abs=0.03)
        assert np.all(np.isfinite(strips))


def test_binned_box_keeps_its_signal_to_noise(make_amplifier):
    """0.5σ over 400 rows is 0.5 √400 = 10; in 100 bins of four rows each is 1, and 1 √100 = 10."""
    amplifier = make_amplifier(noise=0)
    amplifier.residual[0, 20, 1000:1400] = 0.5
    grid = replace(GRID, n_rows=512)
    line = pixels(cut_strips(amplifier, triggers_at((20, 1000, 400)), grid), grid)[0, 8]
    lit = line[line > 0]
    assert lit.tolist() == [1.0] * 100
    assert lit.sum() / np.sqrt(lit.size) == 10


def test_masked_rows_do_not_dilute_a_bin(make_amplifier):
    """Two live rows of 3σ are 6/√2 whatever the two masked ones would have held."""
    amplifier = make_amplifier(noise=0)
    amplifier.residual[0, 20, 1000:1002] = 3
    amplifier.residual[0, 20, 1002:1004] = np.nan
    strip = pixels(cut_strips(amplifier, triggers_at((20, 960, 80)), GRID), GRID)[0, 8]
    assert strip[strip != 0] == pytest.approx([6 / np.sqrt(2)])


def test_patch_without_a_live_pixel_is_masked(make_amplifier):
    """Rows 1000 to 1015 are masked in all columns of the strip: only its patches of rows 1000 and 1008 are."""
    amplifier = make_amplifier()
    amplifier.residual[0, :, 1000:1016] = np.nan
    batch = cut_strips(amplifier, triggers_at((30, 1000, 1)), GRID)  # begins in row 872, sixteen patches before
    assert np.flatnonzero(~batch.mask[0]).tolist() == [16, 17]
    assert np.all(batch.patches[0, 16:18] == 0)
    amplifier.residual[0, 30, 1003] = 1
    batch = cut_strips(amplifier, triggers_at((30, 1000, 1)), GRID)
    assert np.flatnonzero(~batch.mask[0]).tolist() == [17]


def test_context_is_the_shared_row_residual(make_amplifier):
    amplifier = make_amplifier(noise=0)
    amplifier.row_residual[:] = np.arange(4096) % 2
    short = cut_strips(amplifier, triggers_at((30, 1000, 1)), GRID).context
    np.testing.assert_array_equal(short.ravel(), np.arange(256) % 2)
    binned = cut_strips(amplifier, triggers_at((30, 1000, 100)), GRID).context
    np.testing.assert_array_equal(binned.ravel(), np.ones(256))  # (0 + 1 + 0 + 1) / √4
    edge = cut_strips(amplifier, triggers_at((30, 0, 1)), GRID).context.ravel()
    np.testing.assert_array_equal(edge[:128], 0)
    np.testing.assert_array_equal(edge[128:], np.arange(128) % 2)


def test_batch_is_its_strips_one_at_a_time(make_amplifier):
    amplifier = make_amplifier()
    triggers = triggers_at((20, 100, 2), (63, 4090, 5), (40, 2000, 300), (0, 3, 1))
    together = cut_strips(amplifier, triggers, GRID)
    for i in range(len(triggers)):
        alone = cut_strips(amplifier, triggers.iloc[[i]], GRID)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(together[i : i + 1], name), getattr(alone, name))


def test_no_triggers_give_an_empty_batch(make_amplifier):
    amplifier = make_amplifier(noise=0)
    batch = cut_strips(amplifier, find_triggers(amplifier), GRID)
    assert len(batch) == 0
    assert batch.patches.shape == (0, GRID.n_tokens, GRID.patch_size)
    assert batch.features.shape == (0, len(STAGE1_FEATURES))


def test_nothing_says_where_a_strip_was_cut(make_amplifier):
    """The same sky 8 columns and 384 rows further on, in another quadrant of another CCD: the same in every number.

    384 rows are a whole number of the strides of every box, and of the baseline's blocks.
    """
    content = make_amplifier(n_rows=1024, seed=3)
    content.residual[0, 19:22, 500:506] += np.float16(3)
    content.residual[0, 44, 700] += np.float16(12)

    def placed(column, row, **readout):
        whole = make_amplifier(n_columns=96, n_rows=4480, noise=0, stars=(), **readout)
        whole.residual[:, column : column + 64, row : row + 1024] = content.residual
        whole.baseline_e[:, column : column + 64] = content.baseline_e[:, :, :1]
        whole.sigma_e[:, column : column + 64] = content.sigma_e[:, :, :1]
        streaks = content.streaks.assign(x=content.streaks["x"] + column)
        return replace(whole, streaks=streaks)

    here, there = placed(12, 1536, ccd=1, quadrant=1), placed(20, 1920, ccd=9, quadrant=4, first_row=10_000)
    found, moved = find_triggers(here, 4.2), find_triggers(there, 4.2)
    assert len(found) >= 5
    np.testing.assert_array_equal(moved["x"], found["x"] + 8)
    np.testing.assert_array_equal(moved["row_start"], found["row_start"] + 384)
    before, after = cut_strips(here, found, SMALL), cut_strips(there, moved, SMALL)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_a_shift_by_100_columns_changes_no_number_that_a_model_sees(make_amplifier):
    """The same pixels and stars, 100 columns and 1,024 rows farther, on an amplifier that is 0 elsewhere."""
    small = make_amplifier(n_rows=2048, seed=3)
    small.residual[0, 30, 700:704] += 4
    seen = []
    for column, row in ((32, 0), (132, 1024)):
        shifted = tuple((x + column, flux) for x, flux in STARS)
        wide = make_amplifier(n_columns=300, n_rows=4096, noise=0, stars=shifted)
        wide.residual[:, column : column + 64, row + 512 : row + 2048] = small.residual[:, :, 512:]
        triggers = find_triggers(wide, 4.0)
        bins = choose_bins(triggers["width_rows"].to_numpy(), GRID)
        batch = cut_strips(wide, triggers, GRID)
        places = triggers[["x", "row_peak"]].to_numpy() - [column, row]
        seen.append((places, stage1_features(triggers, bins), *(getattr(batch, name) for name in FIELDS)))
    assert len(seen[0][0]) > 10
    for first, second in zip(*seen, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)

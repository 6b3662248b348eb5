"""A file too long to calibrate at once becomes one store entry, as if it had been calibrated whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_frames import (
    GAIN,
    N_COLUMNS,
    N_TRANSIT,
    NOISE_E,
    RATE_HZ,
    READ_NOISE_E,
    SKY_E,
    column_shares,
    expose,
    write_tiny,
)

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.levels.ramp import SETTLE_ROWS
from shutterless.pipeline.compiled.blocks import BLOCK_ROWS
from shutterless.pipeline.reading import segments as segments
from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.reading.segments import FileSpan, SegmentRows, cut_file
from shutterless.pipeline.store import ingest
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier, read_entry

N_ROWS, CORE, MARGIN, LEAST = 12_200, 4096, 1024, 512  # two whole windows and one of 4,008 rows
BORDERS = (CORE, 2 * CORE)
STARS = ((12.3, 40.0, 10), (30.7, 400.0, 25), (51.0, 90.0, 40))  # column of the first amplifier, e- per row, first row
SATURATED = ((CORE - 1, 5), (CORE, 5), (9000, 60))  # row, column
SPOTS = [(row, 3 + 5 * ((row // 1000) % 2) + (37 if row % 3 else 0)) for row in range(1000, N_ROWS, 1000)]  # off stars
SPOT_E = 30 * NOISE_E
SIZES = {"CORE_ROWS": CORE, "CORE_S": CORE / RATE_HZ, "MARGIN_S": MARGIN / RATE_HZ}
READOUT = Readout(RATE_HZ, GAIN, READ_NOISE_E, 60_000.0, N_TRANSIT)
ARRAYS = ("row_residual", "row_offset_e", "baseline_e", "sigma_e", "column_noise", "column_tails")


@pytest.fixture(scope="module")
def frame(tmp_path_factory) -> Path:
    """From the opening of the shutter on: the ramp of the sky, three stars, bright pixels and saturated ones."""
    rows = np.arange(N_ROWS)
    sky = SKY_E * np.minimum((rows + 1) / N_TRANSIT, 1)
    electrons = np.repeat(sky[:, None], 2 * N_COLUMNS, axis=1)
    for x, flux_e, y0 in STARS:
        electrons += np.outer(rows >= y0, flux_e * column_shares(x, 2 * N_COLUMNS))
    for row, column in SPOTS:
        electrons[row, column] += SPOT_E
    images = expose(electrons, seed=12)
    for row, column in SATURATED:
        images[0][row, column] = 60_000
    return write_tiny(tmp_path_factory.mktemp("frames") / "long.fits", images, 0)


def ingest_with(frame: Path, store: Path, camera: str, max_rows: int) -> dict:
    """Ingest the first amplifier, in windows of `CORE` rows where it has more than so many."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SIZES.items():
            patch.setattr(segments, name, value)
        patch.setattr(segments.SegmentRows, "longest", max_rows)
        return ingest_amplifier(frame, 1, store, instrument=camera)


@pytest.fixture(scope="module")
def split(frame, tiny_camera, tmp_path_factory) -> tuple[Amplifier, dict, Path]:
    """The amplifier calibrated segment by segment, its row of the manifest, and its folder."""
    store = tmp_path_factory.mktemp("split")
    row = ingest_with(frame, store, tiny_camera, CORE + 2 * (MARGIN + LEAST))
    return open_amplifier(store, row["entry"]), row, store / row["entry"]


@pytest.fixture(scope="module")
def whole(frame, tiny_camera, tmp_path_factory) -> tuple[Amplifier, dict, Path]:
    """The same, calibrated at once."""
    store = tmp_path_factory.mktemp("whole")
    row = ingest_with(frame, store, tiny_camera, N_ROWS)
    return open_amplifier(store, row["entry"]), row, store / row["entry"]


def values(amplifier: Amplifier) -> np.ndarray:
    return np.asarray(amplifier.residual[0], dtype=np.float32)


def test_the_file_is_cut_where_the_tests_look(frame, monkeypatch):
    for name, value in SIZES.items():
        monkeypatch.setattr(segments, name, value)
    cut = cut_file(frame, 1, N_ROWS, SegmentRows.of(READOUT, N_COLUMNS))
    assert [segment.own for segment in cut] == [(0, CORE), (CORE, 2 * CORE), (2 * CORE, 3 * CORE)]
    assert cut[2].spans == (FileSpan(frame, 2 * CORE - MARGIN, N_ROWS, 2 * CORE - MARGIN),)


def test_entry_has_the_shapes_of_any_other(split, whole):
    folder, other = split[2], whole[2]
    assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}
    for name in ("residual", *ARRAYS):
        one, two = (np.load(path / f"{name}.npy", mmap_mode="r") for path in (folder, other))
        assert (one.shape, one.dtype) == (two.shape, two.dtype), name
    assert split[0].residual.shape == (1, N_COLUMNS, N_ROWS)
    assert split[0].baseline_e.shape == (1, N_COLUMNS, -(-N_ROWS // BLOCK_ROWS))
    one, two = (read_entry(path.parent, path.name) for path in (folder, other))
    assert set(one) == set(two)


def test_rows_are_where_they_were(split):
    """A pixel of 30 sigma in every 1,000th row, and no other above 8 sigma."""
    residual = values(split[0])
    spots = [(row, column) for column, row in np.argwhere(residual > 8)]
    assert sorted(spots) == sorted(SPOTS)
    for row, column in SPOTS:
        assert residual[column, row] == pytest.approx(SPOT_E / NOISE_E, abs=6)


def test_masked_pixels_are_counted_exactly(split):
    """Saturated ones, and those near the ramp in which streaks are just beginning."""
    amplifier, row, _ = split
    is_masked = np.isnan(values(amplifier))
    settled = N_TRANSIT + SETTLE_ROWS
    masked = [(int(r) + settled, int(column)) for column, r in np.argwhere(is_masked[:, settled:])]
    assert sorted(masked) == sorted(SATURATED)
    n_live = N_ROWS * N_COLUMNS - int(is_masked.sum())
    assert row["live_pixel_rows"] == amplifier.live_pixel_rows == n_live
    description = read_entry(split[2].parent, split[2].name)
    assert description["masked_fraction"] == pytest.approx(1 - n_live / (N_ROWS * N_COLUMNS), abs=1e-12)
    assert description["n_rows"] == N_ROWS


def test_residual_is_that_of_the_whole_file(split, whole):
    """Rows near the borders agree as all others do, up to the noise of the two baselines."""
    difference = values(split[0]) - values(whole[0])
    inside = difference[:, MARGIN:-MARGIN]
    assert np.nanstd(inside) < 0.2
    for border in BORDERS:
        for rows in (slice(border - 64, border), slice(border, border + 64)):
            assert np.nanstd(difference[:, rows]) < 0.2


def test_residual_is_white_noise_across_the_borders(split):
    residual = values(split[0])
    sky = np.array([abs(column - x) > 6 for column in range(N_COLUMNS) for x, *_ in STARS])
    sky = residual[sky.reshape(N_COLUMNS, -1).all(axis=1)]
    for border in BORDERS:
        before, after = sky[:, border - 500 : border], sky[:, border : border + 500]
        n = np.isfinite(before).sum()
        assert np.nanmean(before) - np.nanmean(after) == pytest.approx(0, abs=4 * np.sqrt(2 / n))
        assert np.nanstd(after) == pytest.approx(1, abs=0.05)


def test_baseline_has_no_step_at_the_borders(split, whole):
    """A step there is no larger than the largest that the baseline of the whole file takes anywhere, twice over."""
    steady = slice(2, -2)  # blocks after the ramp
    steps = np.abs(np.diff(split[0].baseline_e[0, :, steady], axis=1))
    usual = np.abs(np.diff(whole[0].baseline_e[0, :, steady], axis=1)).max(axis=1)
    for border in BORDERS:
        at_border = steps[:, border // BLOCK_ROWS - 1 - steady.start]
        assert (at_border < 2 * usual + 0.1 * NOISE_E).all()
    rms = (split[0].baseline_e - whole[0].baseline_e)[0, :, steady].std()
    assert rms < 0.1 * NOISE_E


def test_stars_are_those_of_the_whole_file_with_the_onsets_of_its_first_rows(split, whole):
    """The longest segment is the middle one, in which no star begins."""
    one, two = split[0].streaks, whole[0].streaks
    assert len(one) == len(two) == split[1]["n_streaks"] == len(STARS)
    one, two = one.sort_values("x", ignore_index=True), two.sort_values("x", ignore_index=True)
    np.testing.assert_allclose(one["x"], [x for x, *_ in STARS], atol=0.1)
    np.testing.assert_allclose(one["x"], two["x"], atol=0.05)
    np.testing.assert_allclose(one["flux_e_row"], two["flux_e_row"], rtol=0.03)
    assert list(one.columns) == list(two.columns)
    known = one["y0"].notna() & two["y0"].notna()
    assert known[1]  # the brightest
    np.testing.assert_allclose(one["y0"][known], two["y0"][known], atol=2)
    np.testing.assert_allclose(one["y0"][known], np.array([y0 for *_, y0 in STARS])[known], atol=3)


def test_clocks_are_those_of_the_file(split, whole, frame, tiny_camera):
    assert split[0].readout == whole[0].readout == read_info(frame, tiny_camera).readouts[1]
    same = ("entry", "file", "ccd", "quadrant", "n_rows", "first_row", "row_rate_hz", "instrument", "source")
    assert {name: split[1][name] for name in same} == {name: whole[1][name] for name in same}
    assert split[1]["first_row"] == 0


def test_quality_is_that_of_the_whole_file(split, whole):
    assert split[1]["noise"] == pytest.approx(whole[1]["noise"], abs=0.01)
    assert split[1]["psf_sigma_px"] == pytest.approx(whole[1]["psf_sigma_px"], abs=0.05)
    one, two = (np.load(path[2] / "column_noise.npy") for path in (split, whole))
    np.testing.assert_allclose(one, two, atol=0.02)
    one, two = (read_entry(path[2].parent, path[2].name) for path in (split, whole))
    assert one["above"] == pytest.approx(two["above"], abs=3 * np.sqrt(two["above"] + 1))


def test_content_hash_is_of_what_was_written(split):
    _, row, folder = split
    digest = hashlib.blake2b(np.load(folder / "residual.npy").tobytes(), digest_size=16)
    for name in ARRAYS:
        digest.update(np.load(folder / f"{name}.npy").tobytes())
    digest.update(pd.read_parquet(folder / "streaks.parquet").to_json(double_precision=12).encode())
    assert row["content_hash"] == digest.hexdigest()
    assert json.loads((folder / "entry.json").read_text())["content_hash"] == row["content_hash"]


def test_the_same_file_gives_the_same_hash(split, frame, tiny_camera, tmp_path):
    again = ingest_with(frame, tmp_path, tiny_camera, CORE + 2 * (MARGIN + LEAST))
    assert again["content_hash"] == split[1]["content_hash"]


def test_a_file_of_45000_rows_is_split_by_default(tiny_camera, tmp_path, monkeypatch):
    """With the package's own sizes: two windows, joined at row 28,672."""
    n_rows = 45_000
    assert n_rows > SegmentRows.of(READOUT, N_COLUMNS).longest
    electrons = np.full((n_rows, 2 * N_COLUMNS), SKY_E)
    columns = 5 + np.arange(n_rows // 1000) % 50
    electrons[np.arange(1000, n_rows + 1, 1000) - 1, columns] += SPOT_E
    path = write_tiny(tmp_path / "long.fits", expose(electrons, seed=13), 100_000)
    monkeypatch.setattr(ingest, "read_exposure", lambda *_: pytest.fail("read at once"))
    row = ingest_amplifier(path, 1, tmp_path / "store", instrument=tiny_camera)
    residual = values(open_amplifier(tmp_path / "store", row["entry"]))
    found = np.argwhere(residual > 15)
    np.testing.assert_array_equal(found[np.argsort(found[:, 1])].T, [columns, np.arange(999, n_rows, 1000)])
    assert row["live_pixel_rows"] == n_rows * N_COLUMNS
    assert row["first_row"] == 100_000
    assert np.std(residual[:, 28_600:28_750]) == pytest.approx(1, abs=0.05)


def test_a_damaged_long_file_leaves_no_entry(tiny_camera, tmp_path):
    n_rows = 40_500
    images = expose(np.full((n_rows, 2 * N_COLUMNS), SKY_E), seed=14)
    images[0][20_000:] = round(SKY_E / GAIN)  # every pixel of the second window
    path = write_tiny(tmp_path / "long.fits", images, 100_000)
    with pytest.raises(ValueError, match="quadrant 1: all pixels equal 150; the amplifier is skipped"):
        ingest_amplifier(path, 1, tmp_path / "store", instrument=tiny_camera)
    assert list((tmp_path / "store").iterdir()) == []

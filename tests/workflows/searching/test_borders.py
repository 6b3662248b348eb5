"""Equal pulses at borders of files, segments and amplifiers, and far from any, have equal candidates.

Four files of 16,000 rows begin at sequence row 20,000: they meet at rows 36,000, 52,000 and 68,000, the segments of
28,672 rows at 28,672 and 57,344. The sky is 128 columns wide: the first amplifier has columns 0 to 63 from the left,
the second the rest from the right, so that their last columns touch.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_frames import N_COLUMNS, N_TRANSIT, OPENED, RATE_HZ, SKY_E, add_pulse, expose, write_sequence
from typer.testing import CliRunner

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.detection.matching import TRUTH_MATCH_PX
from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.segments import CORE_ROWS, plan_segments
from shutterless.workflows.cli import app
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching.frame_rates import fit_frame_rates, join_parts
from shutterless.workflows.searching.search import SearchResult, assemble, search_files
from shutterless.workflows.searching.segment_search import read_part
from shutterless.workflows.settings.settings import SearchSettings

FIRST, N_ROWS, N_FILES = 20_000, 16_000, 4
RHO, RATE = 25.0, 50 / 48  # of a 48th of the columns of ZTF: the threshold of 50 false alarms an hour there
FILE_BORDERS = [FIRST + k * N_ROWS for k in range(1, N_FILES)]
SEGMENT_BORDERS = [CORE_ROWS, 2 * CORE_ROWS]
BORDERS = FILE_BORDERS + SEGMENT_BORDERS
MIDDLE = [23_000, 32_400, 41_800, 46_500, 60_600, 65_300, 71_000, 74_700, 79_400]  # 1,500 rows or more from any border
# columns of the short pulses (2 rows of standard deviation) and of the long ones (120 rows: 90 % in 400)
SHORT_X, LONG_X = (20.3, 127 - 20.3), (44.6, 127 - 44.6)
SHORT_ROWS, LONG_ROWS = 2.0, 120.0
TOUCHING_X, LAST_PIXEL_X = 63.5, 62.5  # between the two amplifiers, and a pixel inside the first
TOUCHING_ROW, LAST_PIXEL_ROW = 44_000, 49_000


def make_images(seed: int, *, with_pulses: bool) -> list[np.ndarray]:
    """The whole sequence in read order."""
    electrons = np.full((N_FILES * N_ROWS, 2 * N_COLUMNS), SKY_E)
    if with_pulses:
        for places, sigma_rows in ((SHORT_X, SHORT_ROWS), (LONG_X, LONG_ROWS)):
            for x in places:
                for row in BORDERS + MIDDLE:
                    add_pulse(electrons, row - FIRST, x, sigma_rows, RHO)
        add_pulse(electrons, TOUCHING_ROW - FIRST, TOUCHING_X, SHORT_ROWS, RHO)
        add_pulse(electrons, LAST_PIXEL_ROW - FIRST, LAST_PIXEL_X, SHORT_ROWS, RHO)
    return expose(electrons, seed)


def search(files: list[Path], out: Path, camera: str, reference: str = "template-bank", **options) -> SearchResult:
    settings = options.pop("settings", SearchSettings(false_alarms_per_hour=RATE))
    return search_files(
        files, reference=reference, out=out, settings=settings, instrument=camera, executor=SerialExecutor(), **options
    )


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return make_images(1, with_pulses=True)


@pytest.fixture(scope="module")
def files(images, tmp_path_factory) -> list[Path]:
    return write_sequence(tmp_path_factory.mktemp("night"), images, FIRST, N_FILES)


@pytest.fixture(scope="module")
def table(files, tiny_camera, tmp_path_factory) -> pd.DataFrame:
    """Candidates of the template bank as they are written."""
    result = search(files, tmp_path_factory.mktemp("search") / "out", tiny_camera)
    assert result.failures.empty
    return result.candidates


def with_places(candidates: pd.DataFrame) -> pd.DataFrame:
    """Candidates with their rows in the sequence and their columns in the sky."""
    first = candidates["file"].str.removesuffix(".fits").astype(int)
    rows = {f"sequence_{name}": candidates[f"row_{name}"] + first for name in ("start", "stop", "peak")}
    return candidates.assign(**rows, sky_x=candidates["x"].where(candidates["quadrant"] == 1, 127 - candidates["x"]))


@pytest.fixture(scope="module")
def found(table) -> pd.DataFrame:
    return with_places(table)


def at(found: pd.DataFrame, row: int, x: float) -> pd.DataFrame:
    """Candidates that contain a row of the sequence, within 3 px."""
    here = (found["sequence_start"] <= row) & (row <= found["sequence_stop"])
    return found[here & ((found["sky_x"] - x).abs() <= TRUTH_MATCH_PX)]


def pulses_at(found: pd.DataFrame, rows: list[int], places: tuple[float, float]) -> pd.DataFrame:
    """Candidates of the pulses at some rows, with their true rows."""
    return pd.concat([at(found, row, x).assign(true_row=row) for row in rows for x in places])


def test_the_borders_are_where_the_pulses_are(files, tiny_camera):
    segments = [s for s in plan_segments([read_info(path, tiny_camera) for path in files]) if s.quadrant == 1]
    assert [s.own[0] for s in segments[1:]] == SEGMENT_BORDERS
    assert [p.first for p in dict.fromkeys(p for s in segments for p in s.spans) if p.start == 0][1:] == FILE_BORDERS
    assert min(abs(row - border) for row in MIDDLE for border in BORDERS) > 1500


@pytest.mark.parametrize("places", [SHORT_X, LONG_X], ids=["short", "long"])
@pytest.mark.parametrize("rows", [FILE_BORDERS, SEGMENT_BORDERS, MIDDLE], ids=["files", "segments", "middle"])
def test_every_pulse_is_found_exactly_once(found, rows, places):
    assert [len(at(found, row, x)) for row in rows for x in places] == [1] * len(rows) * 2


def test_nothing_is_listed_twice_and_hardly_anything_else_at_all(found):
    """0.12 amplifier-hours at one false alarm an hour: 0.1 are expected."""
    n_pulses = 2 * 2 * len(BORDERS + MIDDLE) + 1  # and the one beside the border of two amplifiers
    assert n_pulses <= len(found) <= n_pulses + 1
    assert found["candidate_id"].is_unique
    for _, amplifier in found.groupby("quadrant"):
        start, stop, x = (amplifier[name].to_numpy() for name in ("sequence_start", "sequence_stop", "x"))
        same = (start[:, None] <= stop) & (start <= stop[:, None]) & (np.abs(x[:, None] - x) <= TRUTH_MATCH_PX)
        assert same.sum() == len(amplifier)  # each with itself


@pytest.mark.parametrize("column", ["snr", "duration_s", "amplitude_e"])
@pytest.mark.parametrize("places", [SHORT_X, LONG_X], ids=["short", "long"])
@pytest.mark.parametrize("rows", [FILE_BORDERS, SEGMENT_BORDERS, BORDERS], ids=["files", "segments", "both"])
def test_strength_and_length_at_borders_are_those_in_the_middle(found, rows, places, column):
    border, middle = pulses_at(found, rows, places)[column], pulses_at(found, MIDDLE, places)[column]
    error = middle.std() * np.sqrt(1 / len(border) + 1 / len(middle))
    assert abs(border.mean() - middle.mean()) < 3 * error


def test_strength_is_what_was_put_in(found):
    """Within 10 %: the templates differ from these pulses, and the fitted baseline takes a part of their light."""
    for places in (SHORT_X, LONG_X):
        assert pulses_at(found, BORDERS + MIDDLE, places)["snr"].mean() == pytest.approx(RHO, rel=0.1)


@pytest.mark.parametrize(("places", "tolerance_rows"), [(SHORT_X, 1), (LONG_X, 24)], ids=["short", "long"])
def test_times_are_those_of_the_true_row(found, places, tolerance_rows):
    """The long pulses are searched in bins of eight rows."""
    pulses = pulses_at(found, BORDERS + MIDDLE, places)
    assert len(pulses) == 2 * len(BORDERS + MIDDLE)
    for candidate in pulses.itertuples():
        assert abs(candidate.sequence_peak - candidate.true_row) <= tolerance_rows
        read = datetime.fromisoformat(OPENED) + timedelta(seconds=candidate.sequence_peak / RATE_HZ)
        assert abs((datetime.fromisoformat(candidate.time_read_utc) - read).total_seconds()) < 2e-6
        early, late = (datetime.fromisoformat(t) for t in (candidate.time_event_min_utc, candidate.time_event_max_utc))
        assert abs((late - read).total_seconds()) < 2e-6
        assert abs((read - early).total_seconds() - N_TRANSIT / RATE_HZ) < 2e-6


def test_a_candidate_is_listed_in_the_file_that_holds_its_peak(found):
    assert found["row_peak"].between(0, N_ROWS - 1).all()
    for candidate in pulses_at(found, FILE_BORDERS, SHORT_X).itertuples():
        expected = FIRST + (candidate.sequence_peak - FIRST) // N_ROWS * N_ROWS
        assert candidate.file == f"{expected:06d}.fits"
        assert f"_r{candidate.row_peak:07d}" in candidate.candidate_id


def test_an_event_that_begins_in_the_file_before_has_a_negative_first_row(found):
    """Rows are counted in the file of the peak, even before its first or after its last row."""
    long = pulses_at(found, FILE_BORDERS, LONG_X)
    late = long[long["sequence_peak"] >= long["true_row"]]
    early = long[long["sequence_peak"] < long["true_row"]]
    assert len(late) > 0
    assert late["row_start"].between(-300, -100).all()
    assert (early["row_stop"] > N_ROWS).all()
    short = pulses_at(found, FILE_BORDERS, SHORT_X)
    assert (short[short["row_peak"] == 0]["row_start"] < 0).all()
    rows = (found["row_stop"] - found["row_start"] + 1).to_numpy()
    np.testing.assert_allclose(found["duration_s"], rows / RATE_HZ)


def test_an_event_a_pixel_inside_of_its_amplifier_is_found_there_and_only_there(found):
    """The neighbour has 12 % of its light at its edge, and vetoes it as an edge."""
    (candidate,) = at(found, LAST_PIXEL_ROW, LAST_PIXEL_X).itertuples()
    assert (candidate.quadrant, candidate.veto) == (1, "")
    assert candidate.snr == pytest.approx(RHO, abs=4)


def test_an_event_between_two_amplifiers_is_vetoed_by_the_template_bank_on_both(files, tiny_camera, found, tmp_path):
    """Each amplifier has half of its light, which shows no shape; both triggers are kept with the reason."""
    assert at(found, TOUCHING_ROW, TOUCHING_X).empty
    search(files[1:2], tmp_path, tiny_camera)
    infos = [read_info(files[1], tiny_camera)]
    triggers = pd.concat([read_part(tmp_path, segment).triggers for segment in plan_segments(infos)])
    touching = triggers[(triggers["row_peak"] - TOUCHING_ROW).abs() <= 2]
    assert touching["veto"].tolist() == ["edge", "edge"]
    # each has half of the sum of squares
    np.testing.assert_allclose(touching["snr"], RHO / np.sqrt(2), atol=4)


def test_an_event_between_two_amplifiers_is_one_group_for_a_model(files, tiny_camera, tmp_path):
    candidates = with_places(search(files[1:2], tmp_path, tiny_camera, "bundled-transformer").candidates)
    touching = at(candidates, TOUCHING_ROW, TOUCHING_X)
    assert sorted(touching["quadrant"]) == [1, 2]
    assert touching["group_id"].nunique() == 1


def test_noise_is_not_louder_at_borders(tiny_camera, tmp_path):
    """Counted down to 4 sigma, where every second of an amplifier has some."""
    files = write_sequence(tmp_path, make_images(2, with_pulses=False), FIRST, N_FILES)
    out = tmp_path / "out"
    search(files, out, tiny_camera, settings=SearchSettings(trigger_threshold=4.0))
    segments = plan_segments([read_info(path, tiny_camera) for path in files])
    parts = [part for segment in segments if (part := read_part(out, segment)) is not None]
    joined = join_parts(parts)
    rates = fit_frame_rates(parts, joined, "template-bank", 1.0, RateCurve(np.array([4.0]), 1.0), own=False)
    noise = with_places(assemble(parts, joined, "template-bank", rates)[0])
    reach = 500
    near = np.abs(noise["sequence_peak"].to_numpy()[:, None] - BORDERS).min(axis=1) <= reach
    expected = (~near).sum() * len(BORDERS) * 2 * reach / (N_FILES * N_ROWS - len(BORDERS) * 2 * reach)
    assert expected > 30
    assert near.sum() < expected + 3 * np.sqrt(expected)
    assert near.sum() > expected - 3 * np.sqrt(expected)


def test_one_file_of_all_rows_holds_the_same_candidates_to_the_bit(images, found, tiny_camera, tmp_path):
    (path,) = write_sequence(tmp_path, images, FIRST, 1)
    alone = with_places(search([path], tmp_path / "out", tiny_camera).candidates)
    columns = ["quadrant", "x", "sequence_start", "sequence_stop", "sequence_peak", "snr", "amplitude_e", "duration_s"]
    columns += ["streak_id", "star_mag", "time_read_utc", "time_event_min_utc", "time_event_max_utc", "kind"]
    order = ["quadrant", "sequence_peak", "x"]
    pd.testing.assert_frame_equal(
        alone[columns].sort_values(order, ignore_index=True),
        found[columns].sort_values(order, ignore_index=True),
        check_exact=True,
    )


def test_files_that_come_one_by_one_give_the_same_table(files, table, tiny_camera, tmp_path):
    for n in range(1, N_FILES + 1):
        again = search(files[:n], tmp_path, tiny_camera, resume=n > 1).candidates
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_the_order_of_the_files_does_not_matter_to_the_command(files, table, tiny_camera, tmp_path):
    options = ["--out", str(tmp_path / "out"), "--model", "template-bank", "--instrument", tiny_camera, "--no-dask"]
    options += ["--false-alarms-per-hour", str(RATE)]
    shuffled = [str(files[k]) for k in (2, 0, 3, 1)]
    result = CliRunner().invoke(app, ["search", *shuffled, *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"{len(table)} candidates in" in result.stdout
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "candidates.parquet"), table, check_exact=True)

"""Segments cover every row of a sequence once, in any division into files, and read its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from shutterless.pipeline.detection.scan import LONGEST_BOX_S
from shutterless.pipeline.reading.frames import FrameError, FrameInfo, read_amplifier, read_frame_info
from shutterless.pipeline.reading.instruments import load_profile
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.reading.segments import (
    CORE_ROWS,
    MARGIN_S,
    FileSpan,
    Segment,
    SegmentRows,
    Workspace,
    cut_file,
    plan_segments,
    read_exposures,
)

FOLDER = Path("/frames")
READOUT = Readout(300.0, 6.2, 10.0, 48_000.0, 3080, sequence="night/1", ccd=7)
ROWS = SegmentRows.of(READOUT, 3072)
MARGIN_ROWS, LEAST_ROWS, MAX_ROWS = ROWS.margin, ROWS.least, ROWS.longest


def make_info(
    name: str, first: int | None, n_rows: int, quadrants: tuple[int, ...] = (1,), **readout: Any
) -> FrameInfo:
    """Headers of a file that does not exist."""
    readouts = {q: replace(READOUT, quadrant=q, first_row=first, **readout) for q in quadrants}
    return FrameInfo(FOLDER / name, load_profile("ztf"), n_rows, readouts, {}, 3072)


def make_infos(*rows: tuple[int, int]) -> list[FrameInfo]:
    """Files of one amplifier of one sequence at half-open ranges of its rows."""
    return [make_info(f"{start:09d}.fits", start, stop - start) for start, stop in rows]


def random_rows(rng: np.random.Generator) -> list[tuple[int, int]]:
    """Rows of up to twelve files that follow each other, with gaps of all sizes and files that are not there."""
    lengths = rng.choice([1, 50, 500, 2500, 10_000, 30_000, 90_000], rng.integers(1, 13)) + rng.integers(0, 50, 1)
    gaps = np.where(rng.random(lengths.size) < 0.5, 0, rng.choice([1, 1000, 5000, 28_672, 60_000], lengths.size))
    stops = rng.integers(0, 100_000) + np.cumsum(lengths + gaps)
    there = rng.random(lengths.size) < 0.9
    there[0] = True
    return [(int(stop - n), int(stop)) for stop, n in zip(stops[there], lengths[there], strict=True)]


def rows_of(ranges: list[tuple[int, int]], n_rows: int) -> np.ndarray:
    """How many of some half-open ranges hold each row."""
    count = np.zeros(n_rows, dtype=np.int64)
    for start, stop in ranges:
        count[max(start, 0) : stop] += 1
    return count


def owns(segments: list[Segment]) -> list[tuple[int, int]]:
    return [segment.own for segment in segments]


@pytest.mark.parametrize(("row_rate_hz", "margin"), [(1.0, 128), (20.0, 192), (300.0, 2048), (1000.0, 6848)])
def test_margins_are_as_long_in_time_at_every_row_rate(row_rate_hz, margin):
    """In whole blocks of 64 rows: 7 s are 140, 2,048 and 6,827 rows."""
    assert SegmentRows.of(replace(READOUT, row_rate_hz=row_rate_hz), 3072).margin == margin
    first, second, *_ = plan_segments([make_info("a.fits", 0, 90_000, row_rate_hz=row_rate_hz)])
    assert first.spans[0].stop - first.own[1] == second.own[0] - second.spans[0].start == margin


@pytest.mark.parametrize(
    ("row_rate_hz", "n_columns", "core"),
    [
        *((20.0, 64, 28_672), (300.0, 64, 28_672), (300.0, 3072, 28_672), (300.0, 6144, 28_672)),
        *((1000.0, 64, 94_208), (1000.0, 1024, 86_016), (1000.0, 3072, 28_672)),
    ],
)
def test_cores_last_as_long_where_rows_are_fast_and_memory_allows(row_rate_hz, n_columns, core):
    """96 s of 1,000 rows/s in whole 4,096 rows; 1,024 columns have room for 86,016, 3,072 for 28,672."""
    rows = SegmentRows.of(replace(READOUT, row_rate_hz=row_rate_hz), n_columns)
    assert rows.core == core
    assert rows.longest == core + 2 * (rows.margin + core // 8)


def test_margins_are_twice_the_longest_box_of_the_bank():
    assert MARGIN_S == 2 * LONGEST_BOX_S


def test_one_short_file_is_one_segment():
    (segment,) = plan_segments(make_infos((0, 5000)))
    assert segment.spans == (FileSpan(FOLDER / "000000000.fits", 0, 5000, 0),)
    assert segment.own == (0, CORE_ROWS)
    assert segment.n_rows == 5000


def test_files_are_joined_across_their_border():
    """28,000 + 40,000 rows: the border is inside the first segment, whose margin ends 2,048 rows after it."""
    first, second, *rest = plan_segments(make_infos((0, 28_000), (28_000, 68_000)))
    assert [(span.start, span.stop) for span in first.spans] == [(0, 28_000), (0, CORE_ROWS + MARGIN_ROWS - 28_000)]
    assert second.spans[0].first == CORE_ROWS - MARGIN_ROWS
    assert owns([first, second, *rest]) == [(k * CORE_ROWS, (k + 1) * CORE_ROWS) for k in range(3)]


@pytest.mark.parametrize("seed", range(4))
def test_every_row_is_owned_once_and_read_with_its_margins(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        rows = random_rows(rng)
        firsts = {FOLDER / f"{start:09d}.fits": start for start, _ in rows}
        segments = plan_segments(make_infos(*rows))
        n = max(segment.own[1] for segment in segments) + MARGIN_ROWS
        there = rows_of(rows, n)
        assert there.max() == 1
        np.testing.assert_array_equal(rows_of(owns(segments), n)[there == 1], 1)
        assert len({segment.name for segment in segments}) == len(segments)
        for segment in segments:
            start, stop = segment.own
            assert start % CORE_ROWS == stop % CORE_ROWS == 0
            read = rows_of([(span.first, span.last) for span in segment.spans], n)
            np.testing.assert_array_equal(read, there * rows_of([(start - MARGIN_ROWS, stop + MARGIN_ROWS)], n))
            assert 0 < segment.n_rows == read.sum() <= MAX_ROWS
            assert all(span.first - span.start == firsts[span.path] for span in segment.spans)
            assert list(segment.spans) == sorted(segment.spans, key=lambda span: span.first)


@pytest.mark.parametrize("seed", range(4))
def test_few_rows_are_a_segment_only_if_no_neighbour_has_room(seed):
    rng = np.random.default_rng(100 + seed)
    for _ in range(40):
        rows = random_rows(rng)
        segments = plan_segments(make_infos(*rows))
        there = rows_of(rows, max(segment.own[1] for segment in segments))
        n_own = [there[slice(*segment.own)].sum() for segment in segments]
        for k in range(len(segments) - 1):
            if segments[k].own[1] == segments[k + 1].own[0] and min(n_own[k : k + 2]) < LEAST_ROWS:
                assert sum(n_own[k : k + 2]) > CORE_ROWS + 2 * LEAST_ROWS


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((0, CORE_ROWS + LEAST_ROWS - 1), [(0, 2)]),
        ((0, CORE_ROWS + LEAST_ROWS), [(0, 1), (1, 2)]),
        ((CORE_ROWS - LEAST_ROWS + 1, 2 * CORE_ROWS), [(0, 2)]),
        ((CORE_ROWS - LEAST_ROWS, 2 * CORE_ROWS), [(0, 1), (1, 2)]),
        ((CORE_ROWS - 1, 2 * CORE_ROWS + 1), [(0, 3)]),
    ],
)
def test_window_of_few_rows_joins_its_neighbour(rows, expected):
    assert owns(plan_segments(make_infos(rows))) == [(a * CORE_ROWS, b * CORE_ROWS) for a, b in expected]


def test_many_windows_of_few_rows_do_not_become_one_without_end():
    """Forty files of 3,000 rows, one in each core."""
    segments = plan_segments(make_infos(*((k * CORE_ROWS, k * CORE_ROWS + 3000) for k in range(40))))
    own = [span.within(*segment.own) for segment in segments for span in segment.spans]
    assert sum(span.stop - span.start for span in own if span is not None) == 40 * 3000
    assert len(segments) == 4  # eleven files each, and the margin that lies in the next one; the rest
    assert max(segment.n_rows for segment in segments) <= MAX_ROWS


@pytest.mark.parametrize("missing", [1, 20_000, 40_000, 100_000])
def test_windows_lie_where_they_did_without_the_first_rows(missing):
    """All remaining segments but the first two are the same to the last row."""
    whole = plan_segments(make_infos((0, 150_000), (150_000, 200_000)))
    rest = plan_segments([make_info("000000000.fits", missing, 150_000 - missing), *make_infos((150_000, 200_000))])
    first = (missing // CORE_ROWS + 2) * CORE_ROWS
    assert owns([s for s in whole if s.own[0] >= first]) == owns([s for s in rest if s.own[0] >= first]) != []
    assert {s.name for s in rest if s.own[0] >= first} <= {s.name for s in whole}


@pytest.mark.parametrize("seed", range(4))
def test_a_later_file_changes_the_last_windows_only(seed):
    rng = np.random.default_rng(200 + seed)
    n_same = 0
    for _ in range(40):
        *rows, last = random_rows(rng)
        if not rows:
            continue
        before = plan_segments(make_infos(*rows))
        after = plan_segments(make_infos(*rows, last))
        # the core before that of the new rows may be joined to it, and the segment before that reaches into it
        end = (last[0] // CORE_ROWS - 1) * CORE_ROWS
        same = [segment for segment in before if segment.own[1] <= end]
        assert same == [segment for segment in after if segment.own[1] <= end]
        n_same += len(same)
    assert n_same > 100


def test_order_of_the_files_does_not_matter():
    rng = np.random.default_rng(5)
    infos = make_infos(*random_rows(rng)) + [
        make_info(f"other{k}.fits", 9000 * k, 9000, (1, 3), ccd=2) for k in range(9)
    ]
    infos += [make_info(name, None, 40_000) for name in ("b.fits", "a.fits")]
    plan = plan_segments(infos)
    for _ in range(10):
        rng.shuffle(infos)
        assert plan_segments(infos) == plan


@pytest.mark.parametrize(
    "other",
    [
        {"gain_e_per_adu": 6.3},
        {"read_noise_e": 11.0},
        {"sequence": "night/2"},
        {"row_rate_hz": 301.0},
        {"ccd": 8},
        {"shutter_open_utc": "2026-03-04T05:06:07"},
        {"supplied": (("GAIN", "6.2"),)},
    ],
)
def test_files_that_differ_are_not_joined(other):
    segments = plan_segments([make_info("a.fits", 0, 9000), make_info("b.fits", 9000, 9000, **other)])
    assert [[span.path.name for span in segment.spans] for segment in segments] == [["a.fits"], ["b.fits"]]
    assert len({segment.series for segment in segments}) == 2


def test_files_of_another_profile_are_not_joined():
    other = replace(make_info("b.fits", 9000, 9000), profile=replace(load_profile("ztf"), name="mine"))
    assert len(plan_segments([make_info("a.fits", 0, 9000), other])) == 2


def test_files_of_another_seeing_are_joined():
    infos = [make_info("a.fits", 0, 9000), make_info("b.fits", 9000, 9000, seeing_arcsec=3.5)]
    (segment,) = plan_segments(infos)
    assert [span.path.name for span in segment.spans] == ["a.fits", "b.fits"]


def test_quadrants_are_series_of_their_own():
    segments = plan_segments([make_info("a.fits", 0, 9000, (1, 2, 4)), make_info("b.fits", 9000, 9000, (1, 4))])
    assert [(s.quadrant, len(s.spans)) for s in segments] == [(1, 2), (2, 1), (4, 2)]


def test_overlapping_files_are_two_series():
    """A copy of a file, and one that begins a row too early: rows are never searched as if they were twice as many."""
    infos = [make_info("a.fits", 0, 9000), make_info("a_copy.fits", 0, 9000), make_info("b.fits", 9000, 9000)]
    segments = plan_segments(infos)
    assert [[p.path.name for p in s.spans] for s in segments] == [["a.fits", "b.fits"], ["a_copy.fits"]]
    segments = plan_segments(make_infos((0, 9000), (8999, 12_000), (12_000, 13_000)))
    assert [[p.first for p in s.spans] for s in segments] == [[0, 12_000], [8999]]
    assert len({segment.name for segment in segments}) == 2


def test_files_without_a_first_row_are_not_joined():
    segments = plan_segments([make_info("a.fits", None, 40_000), make_info("b.fits", None, 9000)])
    assert [{span.path.name for span in segment.spans} for segment in segments] == [
        {"a.fits"},
        {"a.fits"},
        {"b.fits"},
    ]
    assert owns(segments) == [(0, CORE_ROWS), (CORE_ROWS, 2 * CORE_ROWS), (0, CORE_ROWS)]


def test_a_stack_of_images_is_one_segment_whatever_its_length():
    readout = replace(READOUT, quadrant=None, ccd=None, n_transit=0, first_row=0)
    cube = FrameInfo(FOLDER / "k2.fits.gz", load_profile("kepler"), 100_000, {None: readout}, {}, 9, 8)
    (segment,) = plan_segments([cube])
    assert (segment.quadrant, segment.own) == (None, (0, 100_000))
    assert segment.spans == (FileSpan(FOLDER / "k2.fits.gz", 0, 100_000, 0),)
    assert segment.name.startswith("k2_q0_")


def test_names_depend_on_nothing_but_the_series_and_the_row():
    """Names are valid file names, and do not depend on names and lengths of files or on other sequences."""
    segments = plan_segments([make_info("a.fits", 0, 40_000)])
    assert segments[0].name.startswith("night-1_c07_q1_")
    assert [segment.name[-11:] for segment in segments] == ["_r000000000", "_r000028672"]
    others = [make_info("z.fits", 0, 99_000, sequence="before"), make_info("c.fits", 0, 50_000)]
    assert {segment.name for segment in segments} < {segment.name for segment in plan_segments(others)}


def test_pieces_are_found_from_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    info = replace(make_info("a.fits", 0, 9000), path=Path("night/a.fits"))
    (segment,) = plan_segments([info])
    assert segment.spans[0].path == tmp_path / "night" / "a.fits"


def test_one_file_is_cut_from_its_own_first_row():
    path = FOLDER / "a.fits.fz"
    segments = cut_file(path, 3, 2 * CORE_ROWS + LEAST_ROWS, ROWS)
    assert owns(segments) == [(k * CORE_ROWS, (k + 1) * CORE_ROWS) for k in range(3)]
    assert [segment.name for segment in segments] == ["a_r000000000", "a_r000028672", "a_r000057344"]
    assert [segment.quadrant for segment in segments] == [3, 3, 3]
    assert segments[1].spans == (FileSpan(path, CORE_ROWS - MARGIN_ROWS, 2 * CORE_ROWS + MARGIN_ROWS, 26_624),)


def test_part_of_a_piece():
    span = FileSpan(Path("a.fits"), 100, 200, 1000)
    assert span.last == 1100
    assert span.within(0, 5000) == span
    assert span.within(1010, 1050) == FileSpan(Path("a.fits"), 110, 150, 1010)
    assert span.within(900, 1001) == FileSpan(Path("a.fits"), 100, 101, 1000)
    assert span.within(0, 1000) is None
    assert span.within(1100, 1200) is None


@pytest.fixture
def write_tiny(tmp_path: Path) -> Callable[..., Path]:
    """Write a frame of the small instrument: ``write_tiny(first, stop, dtype=np.uint16, suffix=".fits", **cards)``."""

    def write(first: int, stop: int, dtype: type = np.uint16, suffix: str = ".fits", **cards: Any) -> Path:
        rng = np.random.default_rng(first)
        kind = fits.CompImageHDU if suffix == ".fits.fz" else fits.ImageHDU
        images = [rng.integers(0, 30_000, (stop - first, width)).astype(dtype) for width in (64, 64, 30, 30)]
        header = fits.Header({"TINYCAM": True, "CHIP": 2, "CLOCK": 100.0, "ROW0": first, "SEQ": "s", **cards})
        path = tmp_path / f"{first:05d}{suffix}"
        fits.HDUList([fits.PrimaryHDU(header=header), *map(kind, images)]).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture
def plan(tiny_profile) -> Callable[..., Segment]:
    """Segment of one quadrant of some files."""

    def make(paths: list[Path], quadrant: int = 2) -> Segment:
        (segment,) = (
            s for s in plan_segments(read_frame_info(p, tiny_profile) for p in paths) if s.quadrant == quadrant
        )
        return segment

    return make


@pytest.fixture
def read(tiny_profile) -> Callable[..., list[tuple[int, np.ndarray, np.ndarray]]]:
    """First row, pixels and overscan of every exposure, copied before the next is read."""

    def exposures(
        segment: Segment, failures: list[tuple[Path, str]] | None = None
    ) -> list[tuple[int, np.ndarray, np.ndarray]]:
        return [
            (exposure.first, exposure.frame.pixels_adu.copy(), exposure.frame.overscan_adu.copy())
            for exposure in read_exposures(segment, Workspace(), tiny_profile, failures=failures)
        ]

    return exposures


@pytest.mark.parametrize("quadrant", [1, 2])
@pytest.mark.parametrize("suffix", [".fits", ".fits.fz"])
def test_run_is_what_its_files_hold(write_tiny, plan, read, tiny_profile, suffix, quadrant):
    paths = [write_tiny(*rows, suffix=suffix) for rows in ((0, 40), (40, 70), (70, 71), (71, 120))]
    frames = [read_amplifier(path, quadrant, tiny_profile) for path in paths]
    ((first, pixels, overscan),) = read(plan(paths, quadrant))
    assert first == 0
    np.testing.assert_array_equal(pixels, np.concatenate([frame.pixels_adu for frame in frames]))
    np.testing.assert_array_equal(overscan, np.concatenate([frame.overscan_adu for frame in frames]))
    assert pixels.dtype == frames[0].pixels_adu.dtype


def test_part_of_a_file_has_the_clocks_of_its_rows(write_tiny, plan, tiny_profile):
    path = write_tiny(50, 100)
    segment = replace(plan([path]), spans=(FileSpan(path, 20, 45, 70),))
    (exposure,) = read_exposures(segment, Workspace(), tiny_profile)
    np.testing.assert_array_equal(exposure.frame.pixels_adu, read_amplifier(path, 2, tiny_profile).pixels_adu[20:45])
    assert exposure.frame.readout.first_row == exposure.first == 70
    assert exposure.frame.readout.seconds(0) == 0.7
    assert exposure.spans == segment.spans


def test_rows_of_a_file_without_a_first_row_are_counted_from_its_own(write_tiny, plan, tiny_profile):
    path = write_tiny(0, 50, ROW0=None)
    segment = replace(plan([path]), spans=(FileSpan(path, 20, 45, 20),))
    (exposure,) = read_exposures(segment, Workspace(), tiny_profile)
    assert (exposure.frame.readout.first_row, exposure.first) == (None, 20)


def test_a_gap_makes_two_runs(write_tiny, plan, read, tiny_profile):
    paths = [write_tiny(*rows) for rows in ((0, 40), (40, 60), (61, 90))]
    whole = [read_amplifier(path, 2, tiny_profile).pixels_adu for path in paths]
    exposures = read(plan(paths))
    assert [exposure[0] for exposure in exposures] == [0, 61]
    np.testing.assert_array_equal(exposures[0][1], np.concatenate(whole[:2]))
    np.testing.assert_array_equal(exposures[1][1], whole[2])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-6000])


def make_constant(path: Path) -> None:
    with fits.open(path, mode="update", memmap=False) as hdus:
        hdus[2].data[:] = 9


DAMAGES = [
    (cut, "is not a complete FITS file"),
    (Path.unlink, "does not exist"),
    (make_constant, "quadrant 2: all pixels equal 9"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_damaged_file_is_recorded_and_its_neighbours_are_read(
    write_tiny, plan, read, tiny_profile, damage, reason, position
):
    paths = [write_tiny(*rows) for rows in ((0, 40), (40, 60), (60, 90))]
    whole = [read_amplifier(path, 2, tiny_profile).pixels_adu for path in paths]
    segment = plan(paths)
    damage(paths[position])
    failures: list[tuple[Path, str]] = []
    exposures = read(segment, failures)
    assert [path for path, _ in failures] == [paths[position]]
    assert failures[0][1].startswith("FrameError: ")
    assert reason in failures[0][1]
    assert [exposure[0] for exposure in exposures] == {0: [40], 1: [0, 60], 2: [0]}[position]
    expected = {0: [whole[1:]], 1: [whole[:1], whole[2:]], 2: [whole[:2]]}[position]
    for exposure, images in zip(exposures, expected, strict=True):
        np.testing.assert_array_equal(exposure[1], np.concatenate(images))


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_file_is_an_error_without_a_list_of_failures(write_tiny, plan, read, damage, reason):
    paths = [write_tiny(*rows) for rows in ((0, 40), (40, 60))]
    segment = plan(paths)
    damage(paths[1])
    with pytest.raises(FrameError, match=reason):
        read(segment)


def test_nothing_that_can_be_read_is_no_run(write_tiny, plan, read):
    paths = [write_tiny(0, 40), write_tiny(40, 60)]
    segment = plan(paths)
    for path in paths:
        cut(path)
    failures: list[tuple[Path, str]] = []
    assert read(segment, failures) == []
    assert [path for path, _ in failures] == paths


def test_a_file_that_lost_rows_is_an_error(write_tiny, plan, read):
    paths = [write_tiny(0, 40), write_tiny(40, 60)]
    segment = plan(paths)
    write_tiny(40, 55)
    with pytest.raises(FrameError, match=r"00040\.fits: 15 rows, where there were 20 before; did it change\?"):
        read(segment)


def test_a_file_of_another_type_is_an_error(write_tiny, plan, read):
    segment = plan([write_tiny(0, 40), write_tiny(40, 60, np.int32)])
    with pytest.raises(FrameError, match=r"00040\.fits holds int32 pixels, the files before it uint16"):
        read(segment)


def test_a_damaged_file_of_another_type_spoils_none_after_it(write_tiny, plan, read):
    paths = [write_tiny(0, 40, np.int32), write_tiny(40, 60), write_tiny(60, 90)]
    segment = plan(paths)
    make_constant(paths[0])
    failures: list[tuple[Path, str]] = []
    exposures = read(segment, failures)
    assert len(failures) == 1
    assert [(first, pixels.dtype, len(pixels)) for first, pixels, _ in exposures] == [(40, np.uint16, 50)]


def test_files_of_another_seeing_are_one_run_with_that_of_the_first(write_tiny, plan, tiny_profile, tmp_path):
    seeing = tmp_path / "seeing.toml"
    seeing.write_text(Path(tiny_profile).read_text().replace("[keywords]", '[keywords]\nseeing_arcsec = "FWHM"'))
    infos = [
        read_frame_info(write_tiny(*rows, FWHM=fwhm), str(seeing)) for *rows, fwhm in ((0, 40, 1.5), (40, 60, 3.0))
    ]
    segment = plan_segments(infos)[0]
    (exposure,) = read_exposures(segment, Workspace(), str(seeing))
    assert (len(exposure.frame.pixels_adu), exposure.frame.readout.seeing_arcsec) == (60, 1.5)


def test_workspace_gives_the_same_memory_again_and_grows():
    workspace = Workspace()
    large = workspace.array("a", (10, 20), np.uint16)
    small = workspace.array("a", (5, 5), np.float32)
    assert (small.shape, small.dtype) == ((5, 5), np.float32)
    assert np.shares_memory(small, large)
    assert np.shares_memory(workspace.array("a", (400,), np.uint8), large)  # all 400 bytes of it
    assert not np.shares_memory(workspace.array("b", (10, 20), np.uint16), large)
    grown = workspace.array("a", (11, 20), np.uint16)
    assert grown.shape == (11, 20)
    assert not np.shares_memory(grown, large)
    grown[:] = 7
    assert np.all(workspace.array("a", (11, 20), np.uint16) == 7)


def test_runs_lie_in_the_same_memory(write_tiny, plan, tiny_profile):
    workspace = Workspace()
    segment = plan([write_tiny(0, 40), write_tiny(50, 60)])
    first, second = (exposure.frame.pixels_adu for exposure in read_exposures(segment, workspace, tiny_profile))
    assert np.shares_memory(first, second)

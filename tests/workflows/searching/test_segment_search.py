"""Parts of a search on disk: their content, when a part is made again, and what a failed write leaves."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_cubes import star_images, write_kepler
from tiny_frames import N_COLUMNS, SKY_E, add_pulse, expose, write_sequence, write_tiny

from shutterless.pipeline.detection.threshold import NO_LIMIT, TriggerBudget
from shutterless.pipeline.reading.cubes import read_cube
from shutterless.pipeline.reading.exposures import read_info
from shutterless.pipeline.reading.segments import plan_segments
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching.detect import Detector
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.searching.segment_search import (
    SegmentTask,
    part_folder,
    read_part,
    search_segment,
    settings_fingerprint,
)
from shutterless.workflows.searching.set_aside import describe_budget
from shutterless.workflows.settings.settings import SearchSettings

FIRST, N_ROWS = 1000, 2000  # three files, in the steady state
PULSE_ROWS, PULSE_X = (500, 2500, 5500), 30.2  # one pulse in each file, not at its border
BANK = Detector("template-bank", None)


def make_images(n_files: int = 3) -> list[np.ndarray]:
    electrons = np.full((n_files * N_ROWS, 2 * N_COLUMNS), SKY_E)
    for row in PULSE_ROWS[:n_files]:
        add_pulse(electrons, row, PULSE_X, 2.0, 25.0)
    return expose(electrons, seed=4)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return make_images()


@pytest.fixture
def files(images, tmp_path) -> list[Path]:
    (tmp_path / "night").mkdir()
    return write_sequence(tmp_path / "night", images, FIRST, 3)


def make_task(files: list[Path], out: Path, camera: str, *, resume: bool = True, **values) -> SegmentTask:
    """The only segment of the first amplifier of some files."""
    segment = plan_segments([read_info(path, camera) for path in files])[0]
    detector, threshold, supplied = (
        values.get(name, default) for name, default in (("detector", BANK), ("threshold", 5.0), ("supplied", {}))
    )
    settings = settings_fingerprint(detector, threshold, 256, camera, supplied)
    return SegmentTask(segment, out, detector, threshold, 256, camera, supplied, settings, resume)


@pytest.fixture
def task(files, tiny_camera, tmp_path) -> SegmentTask:
    return make_task(files, tmp_path / "out", tiny_camera)


def found_rows(task: SegmentTask) -> list[int]:
    """Rows of the sequence, counted from its first file, at which triggers above 10 sigma peak."""
    triggers = read_part(task.out, task.segment).triggers
    return sorted((triggers["row_peak"] - FIRST)[triggers["snr"] > 10].tolist())


def write_anew(path: Path) -> None:
    """The same bytes, a second later: the fingerprint does not cover the bytes between the ends."""
    status = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def test_part_comes_back_as_it_was_searched(task, files, tiny_camera):
    assert search_segment(task)
    part = read_part(task.out, task.segment)
    (exposure,) = part.exposures
    assert part.segment == task.segment
    assert part.failures == ()
    assert exposure.spans == task.segment.spans
    assert exposure.readout == read_info(files[0], tiny_camera).readouts[1]
    assert (exposure.n_y, exposure.numbers["live_pixel_rows"]) == (1, 3 * N_ROWS * N_COLUMNS)
    assert list(exposure.streaks.columns[:3]) == ["streak_id", "x", "y"]
    assert exposure.streaks.empty  # there is no star
    np.testing.assert_allclose(found_rows(task), PULSE_ROWS, atol=1)
    assert {"template-bank/score", "exposure"} <= set(part.triggers.columns)
    assert sorted(path.name for path in (task.out / "parts").iterdir()) == [task.segment.name]
    assert {path.name for path in part_folder(task.out, task.segment).iterdir()} == {
        "segment.json",
        "streaks.parquet",
        "triggers.parquet",
    }


def test_nothing_is_no_part(task):
    assert read_part(task.out, task.segment) is None


def test_a_part_that_is_there_is_not_searched_again(task, n_searched):
    assert search_segment(task)
    before = read_part(task.out, task.segment)
    assert not search_segment(task)
    assert len(n_searched) == 1
    again = read_part(task.out, task.segment)
    pd.testing.assert_frame_equal(again.triggers, before.triggers, check_exact=True)
    assert again.content == before.content


def test_without_resume_it_is(task, n_searched):
    assert search_segment(replace(task, resume=False))
    assert search_segment(replace(task, resume=False))
    assert len(n_searched) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 6.0},
        {"supplied": {"RDN": "6"}},
        {"detector": "cnn"},
    ],
)
def test_other_settings_make_a_part_anew(task, files, tiny_camera, make_model, n_searched, change):
    search_segment(task)
    if "detector" in change:
        change = {"detector": Detector("cnn", str(make_model()))}
    other = make_task(files, task.out, tiny_camera, **change)
    if "supplied" in change:  # the clocks are still those of the headers: only the argument differs
        other = replace(other, segment=task.segment)
    assert search_segment(other)
    assert not search_segment(other)
    assert search_segment(task)
    assert len(n_searched) == 3


def test_a_changed_file_makes_a_part_anew(task, files, n_searched):
    search_segment(task)
    write_anew(files[1])
    assert search_segment(task)
    assert not search_segment(task)
    assert len(n_searched) == 2


def test_the_hash_of_a_part_is_of_bytes_and_not_of_when_they_were_written(task, files):
    search_segment(task)
    before = read_part(task.out, task.segment).content
    write_anew(files[1])
    search_segment(task)
    assert read_part(task.out, task.segment).content == before
    write_tiny(files[1], make_images(1), FIRST + N_ROWS)
    search_segment(task)
    assert read_part(task.out, task.segment).content != before


def test_a_further_file_makes_a_part_anew(task, files, tiny_camera, n_searched):
    search_segment(make_task(files[:2], task.out, tiny_camera))
    assert search_segment(task)
    assert len(n_searched) == 2
    np.testing.assert_allclose(found_rows(task), PULSE_ROWS, atol=1)


@pytest.mark.parametrize("left", [b"", b'{"made_from": {"quadr'])
def test_a_cut_off_description_makes_a_part_anew(task, n_searched, left):
    """As after a power cut, although the folder was moved as a whole."""
    search_segment(task)
    (part_folder(task.out, task.segment) / "segment.json").write_bytes(left)
    assert read_part(task.out, task.segment) is None
    assert search_segment(task)
    assert len(n_searched) == 2
    np.testing.assert_allclose(found_rows(task), PULSE_ROWS, atol=1)


@pytest.mark.parametrize("name", ["triggers.parquet", "streaks.parquet"])
def test_a_cut_off_table_makes_a_part_anew(task, n_searched, name):
    """The description reached the disk, a table beside it did not."""
    search_segment(task)
    table = part_folder(task.out, task.segment) / name
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    assert read_part(task.out, task.segment) is None
    assert search_segment(task)
    assert table.read_bytes() == whole


def test_a_file_that_vanished_after_its_part_was_finished_keeps_it(task, files, n_searched):
    search_segment(task)
    files[0].unlink()
    assert not search_segment(task)
    assert len(n_searched) == 1
    np.testing.assert_allclose(found_rows(task), PULSE_ROWS, atol=1)


def test_a_part_with_failures_is_tried_again(task, files, n_searched):
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-6000])
    search_segment(task)
    (failure,) = read_part(task.out, task.segment).failures
    assert failure[0] == str(files[1])
    assert "is not a complete FITS file" in failure[1]
    assert search_segment(task)  # still damaged
    files[1].write_bytes(whole)
    assert search_segment(task)
    assert not search_segment(task)
    assert read_part(task.out, task.segment).failures == ()


def test_on_both_sides_of_a_damaged_file_events_are_found(files, tiny_camera, tmp_path):
    """The headers are right and no byte is missing, but all pixels of the first amplifier have one value."""
    damaged = make_images(1)
    damaged[0][:] = 7
    write_tiny(files[1], damaged, FIRST + N_ROWS)
    result = search_files(
        files, reference="template-bank", out=tmp_path / "out", settings=SearchSettings(), instrument=tiny_camera,
        executor=SerialExecutor(),
    )  # fmt: skip
    (failure,) = result.failures.to_dict("records")
    assert (failure["file"], failure["quadrant"]) == (files[1].name, 1)
    assert failure["reason"].endswith("quadrant 1: all pixels equal 7; the amplifier is skipped")
    found = result.candidates.set_index("file")["row_peak"]
    assert sorted(found.index) == [files[0].name, files[2].name]
    np.testing.assert_allclose(found[[files[0].name, files[2].name]], [500, 1500], atol=1)
    amplifiers = pd.read_parquet(tmp_path / "out" / "amplifiers.parquet")
    assert amplifiers[["quadrant", "first_row", "n_rows"]].to_numpy().tolist() == [
        [1, FIRST, N_ROWS],
        [1, FIRST + 2 * N_ROWS, N_ROWS],
        [2, FIRST, 3 * N_ROWS],
    ]


def test_two_runs_of_a_segment_keep_their_own_clocks(files, tiny_camera, tmp_path):
    task = make_task([files[0], files[2]], tmp_path / "out", tiny_camera)
    search_segment(task)
    exposures = read_part(task.out, task.segment).exposures
    assert [exposure.readout.first_row for exposure in exposures] == [FIRST, FIRST + 2 * N_ROWS]
    triggers = read_part(task.out, task.segment).triggers
    strong = triggers[triggers["snr"] > 10]
    np.testing.assert_allclose(strong["row_peak"], [FIRST + PULSE_ROWS[0], FIRST + PULSE_ROWS[2]], atol=1)
    assert strong["exposure"].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["streaks.parquet", "triggers.parquet"])
def test_a_full_disk_leaves_no_part_and_is_listed_with_its_reason(files, tiny_camera, tmp_path, monkeypatch, name):
    write = pd.DataFrame.to_parquet

    def fail(table, path, *arguments, **options):
        if Path(path).name == name and "_q1_" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(table, path, *arguments, **options)

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    out = tmp_path / "out"
    options = {"reference": "template-bank", "settings": SearchSettings(), "instrument": tiny_camera}
    result = search_files(files, out=out, executor=SerialExecutor(retries=0), **options)
    assert result.failures["file"].tolist() == [path.name for path in files]
    assert result.failures["quadrant"].tolist() == [1, 1, 1]
    assert result.failures["reason"].str.contains("No space left on device").all()
    assert {path.name[:12] for path in (out / "parts").iterdir()} == {"night_c02_q2"}
    monkeypatch.undo()
    again = search_files(files, out=out, executor=SerialExecutor(), resume=True, **options)
    assert again.failures.empty
    assert len(again.candidates) == len(PULSE_ROWS)


def test_a_part_that_was_there_outlives_a_writing_that_fails(task, monkeypatch):
    search_segment(task)
    before = read_part(task.out, task.segment)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="No space left on device"):
        search_segment(replace(task, resume=False))
    monkeypatch.undo()
    assert [path.name for path in (task.out / "parts").iterdir()] == [task.segment.name]
    pd.testing.assert_frame_equal(read_part(task.out, task.segment).triggers, before.triggers, check_exact=True)


def test_the_fingerprint_of_settings_depends_on_the_weights_and_not_on_their_place(make_model, tmp_path):
    first, other = make_model("one", seed=1), make_model("two", seed=2)
    moved = shutil.copytree(first, tmp_path / "moved")
    prints = [settings_fingerprint(Detector("m", str(folder)), 5.0, 256, None, {}) for folder in (first, other, moved)]
    assert prints[0] == prints[2] != prints[1]
    config = moved / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"note": 1}))
    assert settings_fingerprint(Detector("m", str(moved)), 5.0, 256, None, {}) != prints[0]
    assert settings_fingerprint(BANK, 5.0, 256, None, {}) not in prints


def test_the_fingerprint_of_settings_depends_on_the_lines_of_a_profile(tiny_camera, tmp_path):
    copy = Path(shutil.copy(tiny_camera, tmp_path / "copy.toml"))
    before = settings_fingerprint(BANK, 5.0, 256, tiny_camera, {})
    assert settings_fingerprint(BANK, 5.0, 256, str(copy), {}) == before
    copy.write_text(copy.read_text().replace("seeing_arcsec = 2.0", "seeing_arcsec = 2.5"))
    assert settings_fingerprint(BANK, 5.0, 256, str(copy), {}) != before


def test_a_stack_of_images_keeps_the_times_of_its_rows(tmp_path):
    path = write_kepler(tmp_path / "k.fits", star_images(120, 7, 7), untimed=(50,))
    (segment,) = plan_segments([read_info(path)])
    assert segment.quadrant is None
    task = SegmentTask(segment, tmp_path / "out", BANK, 5.0, 256, None, {}, "settings")
    assert search_segment(task)
    (exposure,) = read_part(task.out, segment).exposures
    cube = read_cube(path)
    assert (exposure.n_y, exposure.readout) == (7, cube.readout)
    np.testing.assert_array_equal(exposure.readout.row_times.seconds, cube.readout.row_times.seconds)
    np.testing.assert_array_equal(exposure.readout.row_times.archive, cube.readout.row_times.archive)
    assert exposure.numbers["live_pixel_rows"] < 120 * 49
    assert len(exposure.streaks) == 1
    assert not search_segment(replace(task, resume=True))


def test_what_is_beyond_the_budget_is_counted_in_the_part_and_said(files, tiny_camera, tmp_path):
    whole, short = (
        replace(make_task(files, tmp_path / name, tiny_camera), budget=budget)
        for name, budget in (("whole", NO_LIMIT), ("short", TriggerBudget(0.05, 0.05)))
    )
    parts = []
    for task in (whole, short):
        assert search_segment(task)
        parts.append(read_part(task.out, task.segment))
    numbers = [part.exposures[0].numbers for part in parts]
    assert (numbers[0]["n_unmeasured"], numbers[0]["n_unasked"]) == (0, 0)
    assert describe_budget(parts[:1]) == []
    measured, found = (part.triggers for part in parts)
    assert numbers[1]["n_unmeasured"] >= len(measured) - len(found) > 0
    assert set(found["snr"]) <= set(measured["snr"])
    (line,) = describe_budget(parts)
    assert line.startswith(
        f"{numbers[1]['n_unmeasured']:,} places above the trigger threshold were not measured, in 1 of 2"
    )
    assert "search.most_measured_per_second" in line

"""A watched folder in which files arrive, grow, break and vanish; the test sets the clock."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from tiny_frames import N_COLUMNS, OPENED, RATE_HZ, SKY_E, add_pulse, expose, write_sequence, write_tiny
from typer.testing import CliRunner

from shutterless.pipeline.reading.instruments import ProfileError
from shutterless.workflows.cli import app
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching import segment_search as segment_search
from shutterless.workflows.searching.search import SearchJob, search_files
from shutterless.workflows.searching.watch import (
    GIVE_UP_S,
    SETTLE_S,
    Pass,
    Watcher,
    WatchError,
    describe_pass,
    watch_folder,
)
from shutterless.workflows.settings.settings import SearchSettings

FIRST, N_ROWS, N_FILES = 1000, 2000, 3
PULSE_ROWS, PULSE_X = (500, 4000, 5500), 30.2  # the second at the border of the last two files
OPENED_S = datetime.fromisoformat(OPENED).replace(tzinfo=UTC).timestamp()
START_S = OPENED_S + 3600.0


class Clock:
    """Seconds since 1970 that grow only when the test advances them."""

    def __init__(self) -> None:
        self.now = START_S

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Path]:
    """Three files of one sequence with three pulses: the first holds one, the first two one and a half."""
    electrons = np.full((N_FILES * N_ROWS, 2 * N_COLUMNS), SKY_E)
    for row in PULSE_ROWS:
        add_pulse(electrons, row, PULSE_X, 2.0, 25.0)
    return write_sequence(tmp_path_factory.mktemp("telescope"), expose(electrons, seed=5), FIRST, N_FILES)


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "night"
    path.mkdir()
    return path


@pytest.fixture
def bring(folder, clock) -> Callable[..., Path]:
    """Copy a frame, or its first bytes, to the folder as if written now: ``bring(path, n_bytes=None)``."""

    def write(path: Path, n_bytes: int | None = None, name: str | None = None) -> Path:
        target = folder / (name or path.name)
        target.write_bytes(path.read_bytes()[:n_bytes])
        os.utime(target, (clock.now, clock.now))
        return target

    return write


@pytest.fixture
def make_watcher(folder, clock, tiny_camera, tmp_path) -> Callable[..., Watcher]:
    """Make a watcher of the folder, as each start of the command does: ``make_watcher(**values)``."""

    def make(**values) -> Watcher:
        job = SearchJob.prepare("template-bank", tmp_path / "out", SearchSettings(), instrument=tiny_camera)
        return Watcher(values.pop("folder", folder), job, SerialExecutor(retries=0), clock=clock, **values)

    return make


def candidates_in(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "candidates.parquet")


def failures_in(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "failures.parquet")


def look_later(watcher: Watcher, clock: Clock, after_s: float = SETTLE_S + 1) -> Pass | None:
    """Look at the folder now, and again after some seconds."""
    first = watcher.look()
    clock.sleep(after_s)
    return watcher.look() or first


def test_an_empty_folder_leads_to_nothing(make_watcher, clock, tmp_path):
    assert look_later(make_watcher(), clock) is None
    assert not (tmp_path / "out" / "candidates.parquet").exists()


def test_a_file_is_taken_once_it_has_not_changed_for_a_while(make_watcher, clock, bring, frames):
    watcher = make_watcher()
    bring(frames[0])
    assert watcher.look() is None
    clock.sleep(SETTLE_S - 0.1)
    assert watcher.look() is None
    clock.sleep(0.2)
    found = watcher.look()
    assert (found.arrived, found.n_new, found.n_candidates, found.n_failures) == ([frames[0].name], 1, 1, 0)
    assert watcher.look() is None


def test_a_file_that_was_there_before_is_taken_at_once(make_watcher, clock, bring, frames):
    bring(frames[0])
    clock.sleep(3600)
    assert make_watcher().look().arrived == [frames[0].name]


def test_a_growing_file_is_not_taken_before_it_has_settled(make_watcher, clock, bring, frames, n_searched):
    watcher, whole = make_watcher(), frames[0].stat().st_size
    for part in np.linspace(0.1, 1.0, 12):  # the step that completes the file is a change, too
        bring(frames[0], round(part * whole))
        assert watcher.look() is None
        clock.sleep(SETTLE_S - 1)
        assert watcher.look() is None
    assert n_searched == []
    clock.sleep(1.1)
    assert watcher.look().arrived == [frames[0].name]


def test_a_file_whose_time_of_change_is_in_the_future_is_taken_later(make_watcher, clock, bring, frames):
    """The clock of a file server is 20 seconds ahead of this one's."""
    watcher, path = make_watcher(), bring(frames[0])
    os.utime(path, (clock.now + 20, clock.now + 20))
    watcher.look()
    clock.sleep(20)
    assert watcher.look() is None
    clock.sleep(SETTLE_S + 0.1)
    assert watcher.look().arrived == [frames[0].name]


def test_a_truncated_file_waits_and_is_listed_when_it_is_given_up(make_watcher, clock, bring, frames, tmp_path):
    watcher = make_watcher()
    bring(frames[0], -6000)
    assert look_later(watcher, clock) is None
    assert watcher.n_waiting == 1
    bring(frames[1])
    assert look_later(watcher, clock).n_failures == 0  # it may still be completed
    assert failures_in(tmp_path / "out").empty
    clock.sleep(GIVE_UP_S)
    found = watcher.look()
    assert (found.arrived, found.given_up, found.n_failures) == ([], [frames[0].name], 1)
    assert watcher.n_waiting == 0
    (failure,) = failures_in(tmp_path / "out").to_dict("records")
    assert failure["file"] == frames[0].name
    assert re.match(r"FrameError: .*is not a complete FITS file", failure["reason"])
    assert watcher.look() is None  # printed once


def test_a_truncated_file_is_given_up_also_where_nothing_else_came(make_watcher, clock, bring, frames, tmp_path):
    watcher = make_watcher()
    bring(frames[0], -6000)
    assert look_later(watcher, clock) is None
    assert look_later(watcher, clock, GIVE_UP_S + 1).given_up == [frames[0].name]
    assert failures_in(tmp_path / "out")["file"].tolist() == [frames[0].name]
    assert candidates_in(tmp_path / "out").empty


@pytest.mark.parametrize("after_s", [60.0, GIVE_UP_S + 60])
def test_a_truncated_file_is_taken_once_it_is_whole(make_watcher, clock, bring, frames, tmp_path, after_s):
    watcher = make_watcher()
    bring(frames[0], -6000)
    look_later(watcher, clock, SETTLE_S + 1)
    look_later(watcher, clock, after_s)
    bring(frames[0])
    found = look_later(watcher, clock)
    assert (found.arrived, found.n_failures, found.n_candidates) == ([frames[0].name], 0, 1)
    assert failures_in(tmp_path / "out").empty


def test_a_truncated_file_that_is_taken_away_is_no_failure(make_watcher, clock, bring, frames):
    watcher = make_watcher()
    path = bring(frames[0], -6000)
    look_later(watcher, clock)
    path.unlink()
    assert look_later(watcher, clock, GIVE_UP_S + 1) is None
    assert watcher.n_waiting == 0


def test_hidden_files_and_others_are_ignored(make_watcher, clock, bring, folder, frames):
    watcher = make_watcher()
    bring(frames[0], name=f".{frames[0].name}")
    bring(frames[0], name=f"{frames[0].name}.part")
    bring(frames[0], name="notes.txt")
    (folder / "folder.fits").mkdir()
    assert look_later(watcher, clock) is None
    (folder / f".{frames[0].name}").rename(folder / frames[0].name)  # like the last step of a copying program
    assert look_later(watcher, clock).arrived == [frames[0].name]


def watch_one_by_one(watcher: Watcher, clock: Clock, bring, frames: list[Path]) -> list[Pass]:
    passes = []
    for path in frames:
        bring(path)
        passes.append(look_later(watcher, clock))
    return passes


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_candidates_are_those_of_a_search_of_the_same_files_to_the_bit(
    make_watcher, clock, bring, frames, folder, tiny_camera, tmp_path, order
):
    passes = watch_one_by_one(make_watcher(), clock, bring, [frames[k] for k in order])
    assert [found.arrived for found in passes] == [[frames[k].name] for k in order]
    assert sum(found.n_new for found in passes) >= passes[-1].n_candidates == len(PULSE_ROWS)
    search_files(
        sorted(folder.iterdir()), reference="template-bank", out=tmp_path / "search", settings=SearchSettings(),
        instrument=tiny_camera, executor=SerialExecutor(),
    )  # fmt: skip
    found = candidates_in(tmp_path / "out")
    pd.testing.assert_frame_equal(found, candidates_in(tmp_path / "search"), check_exact=True)
    watched, searched = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("out", "search"))
    assert watched.pop("made").keys() == searched.pop("made").keys()
    assert watched == searched
    at_border = found[found["file"] == frames[2].name].sort_values("row_peak").iloc[0]
    assert at_border["row_peak"] in (0, 1)
    assert at_border["row_start"] < 0


def test_one_quadrant_that_cannot_be_read_is_listed(make_watcher, clock, bring, frames, folder, tmp_path):
    electrons = np.full((200, 2 * N_COLUMNS), SKY_E)
    images = expose(electrons, seed=9)
    path = write_tiny(folder / "narrow.fits", [images[0], images[1][:, 4:], *images[2:]], FIRST)
    os.utime(path, (clock.now, clock.now))
    assert look_later(make_watcher(), clock).n_failures == 1
    (failure,) = failures_in(tmp_path / "out").to_dict("records")
    assert (failure["file"], failure["quadrant"]) == ("narrow.fits", 2)
    assert "has shape (200, 60)" in failure["reason"]


def test_a_file_that_is_written_again_is_searched_again(make_watcher, clock, bring, frames, n_searched, tmp_path):
    """The same rows with other pixels, in one session: a damaged file may be sent again."""
    watcher = make_watcher()
    electrons = np.full((N_ROWS, 2 * N_COLUMNS), SKY_E)
    damaged = expose(electrons, seed=8)
    damaged[0][:] = 7
    bring(write_tiny(tmp_path / frames[0].name, damaged, FIRST))
    found = look_later(watcher, clock)
    assert (found.n_candidates, found.n_failures, len(n_searched)) == (0, 1, 1)
    bring(frames[0])
    found = look_later(watcher, clock)
    assert (found.arrived, found.n_candidates, found.n_failures) == ([frames[0].name], 1, 0)
    assert len(n_searched) == 3


def test_a_restart_searches_nothing_again_and_goes_on(make_watcher, clock, bring, frames, n_searched, tmp_path):
    watch_one_by_one(make_watcher(), clock, bring, frames[:2])
    before, n_before = candidates_in(tmp_path / "out"), len(n_searched)
    restarted = make_watcher()
    found = restarted.look()
    assert (found.arrived, found.n_candidates) == ([], len(before))
    assert restarted.look() is None
    assert len(n_searched) == n_before
    pd.testing.assert_frame_equal(candidates_in(tmp_path / "out"), before, check_exact=True)
    bring(frames[2])
    assert look_later(restarted, clock).n_candidates == len(PULSE_ROWS)


def test_a_restart_knows_the_hdus_of_a_file(make_watcher, clock, bring, frames, tmp_path):
    """A table stands before the images, so that they are not where the profile has them."""
    shifted = tmp_path / frames[0].name
    with fits.open(frames[0], memmap=False) as hdus:
        table = fits.BinTableHDU.from_columns([fits.Column("TEMP", "E", array=np.ones(2))])
        fits.HDUList([hdus[0].copy(), table, *(hdu.copy() for hdu in hdus[1:])]).writeto(shifted)
    bring(shifted)
    assert look_later(make_watcher(), clock).n_candidates == 1
    before = candidates_in(tmp_path / "out")
    assert make_watcher().look().n_candidates == 1
    assert before["hdu"].tolist() == [int(before["quadrant"].iloc[0]) + 1]
    pd.testing.assert_frame_equal(candidates_in(tmp_path / "out"), before, check_exact=True)


def test_a_restart_reads_no_header_twice(make_watcher, clock, bring, frames, monkeypatch):
    watch_one_by_one(make_watcher(), clock, bring, frames[:2])
    monkeypatch.setattr("shutterless.workflows.searching.watch.read_info", lambda *_: pytest.fail("a header was read"))
    assert make_watcher().look().n_candidates == 2


def test_a_file_that_was_removed_after_its_search_keeps_its_events(
    make_watcher, clock, bring, frames, n_searched, tmp_path
):
    watcher = make_watcher()
    watch_one_by_one(watcher, clock, bring, frames[:1])
    other = write_other_night(tmp_path)
    before = candidates_in(tmp_path / "out")
    (watcher.folder / frames[0].name).unlink()
    bring(other)  # of another sequence, so that the first is not read again
    assert look_later(watcher, clock).n_candidates == len(before) + 1
    n_before = len(n_searched)
    found = make_watcher().look()
    assert (found.n_candidates, found.n_failures) == (len(before) + 1, 0)
    assert len(n_searched) == n_before
    kept = candidates_in(tmp_path / "out")
    kept = kept[kept["file"] == frames[0].name].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before, check_exact=True)


def test_a_file_that_is_gone_before_its_last_segment_is_full_is_listed(make_watcher, clock, bring, frames, tmp_path):
    """The segment is searched again with the next file, while the first can no longer be read."""
    watcher = make_watcher()
    watch_one_by_one(watcher, clock, bring, frames[:1])
    (watcher.folder / frames[0].name).unlink()
    bring(frames[1])
    assert look_later(watcher, clock).n_failures == 1
    failures = failures_in(tmp_path / "out")
    assert failures[["file", "quadrant"]].to_numpy().tolist() == [[frames[0].name, 1], [frames[0].name, 2]]
    assert failures["reason"].str.contains("does not exist").all()


def write_other_night(folder: Path) -> Path:
    electrons = np.full((N_ROWS, 2 * N_COLUMNS), SKY_E)
    add_pulse(electrons, 700, PULSE_X, 2.0, 25.0)
    return write_tiny(folder / "other.fits", expose(electrons, seed=6), 9000, SEQ="other")


def test_a_killed_search_is_taken_up_where_it_was(make_watcher, clock, bring, frames, monkeypatch, tmp_path):
    """Killed after the search of a segment and before it was recorded."""
    watcher = make_watcher()
    bring(frames[0])
    watcher.look()
    clock.sleep(SETTLE_S + 1)
    with monkeypatch.context() as patch:
        patch.setattr(SearchJob, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            watcher.look()
    assert not (tmp_path / "out" / "watch.json").exists()
    monkeypatch.setattr(segment_search, "find_triggers_for", lambda *_: pytest.fail("searched again"))
    assert make_watcher().look().n_candidates == 1


def test_the_lag_is_the_clock_minus_the_read_of_the_last_row(make_watcher, clock, bring, frames):
    found = watch_one_by_one(make_watcher(), clock, bring, frames[:2])[-1]
    last_row_s = (FIRST + 2 * N_ROWS - 1) / RATE_HZ
    assert found.lag_s == pytest.approx(clock.now - OPENED_S - last_row_s, abs=1e-5)
    line = describe_pass(found)
    assert line == f"{frames[1].name}: 1 new candidates, 2 in all; {found.lag_s:,.1f} s behind the sky"


def test_without_utc_there_is_no_lag(make_watcher, clock, frames, folder):
    electrons = np.full((200, 2 * N_COLUMNS), SKY_E)
    path = write_tiny(folder / "a.fits", expose(electrons, seed=7), FIRST, TOPEN=None)
    os.utime(path, (clock.now, clock.now))
    assert "no UTC known" in describe_pass(look_later(make_watcher(), clock))


def test_a_line_names_three_files_and_what_failed():
    found = Pass(list("abcde"), ["x"], 2, 9, float("nan"), 1)
    assert (
        describe_pass(found)
        == "a, b, c and 2 more, gave up x: 2 new candidates, 9 in all; no UTC known, 1 files failed"
    )
    assert describe_pass(Pass([], [], 0, 9, 1234.56, 0)) == (
        "what was there before: 0 new candidates, 9 in all; 1,234.6 s behind the sky"
    )


def test_watching_stops_when_nothing_has_come_for_so_long(make_watcher, clock, bring, frames):
    printed: list[str] = []
    bring(frames[0])
    assert watch_folder(make_watcher(), printed.append, stop_after_s=60.0, sleep=clock.sleep) == 0
    assert [line.split(":")[0] for line in printed] == [frames[0].name]
    taken_s = 6.0  # first look, of one every 2 s, after 5 s without change
    assert clock.now == pytest.approx(START_S + taken_s + 60.0, abs=2.1)


def test_files_that_are_still_awaited_or_given_up_are_counted_at_the_end(make_watcher, clock, bring, frames):
    printed: list[str] = []
    bring(frames[0], -6000)
    assert watch_folder(make_watcher(), printed.append, stop_after_s=60.0, sleep=clock.sleep) == 1
    assert printed == []
    assert watch_folder(make_watcher(), printed.append, stop_after_s=2 * GIVE_UP_S, sleep=clock.sleep) == 1
    assert printed == [f"gave up {frames[0].name}: 0 new candidates, 0 in all; no UTC known, 1 files failed"]


def test_an_interrupt_ends_the_watch_and_says_how_to_go_on(make_watcher, clock, bring, frames):
    printed: list[str] = []

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > START_S + 20:
            raise KeyboardInterrupt

    bring(frames[0])
    assert watch_folder(make_watcher(), printed.append, sleep=sleep) == 0
    assert printed[-1] == "stopped; the same command goes on from here"
    assert make_watcher().look().n_candidates == 1


def test_what_is_no_folder_cannot_be_watched(make_watcher, frames, tmp_path):
    for path in (frames[0], tmp_path / "nowhere"):
        with pytest.raises(WatchError, match=rf"{re.escape(str(path))} is not a folder that could be watched"):
            make_watcher(folder=path)


def test_an_unknown_instrument_is_found_before_any_file_comes(folder, tmp_path):
    job = SearchJob.prepare("template-bank", tmp_path / "out", SearchSettings(), instrument="zft")
    with pytest.raises(ProfileError, match="no built-in instrument profile 'zft'"):
        Watcher(folder, job, SerialExecutor())


def test_a_detector_without_a_curve_cannot_watch(folder, tmp_path):
    job = SearchJob.prepare("template-bank", tmp_path / "out", SearchSettings())
    with pytest.raises(WatchError, match="the first file is too short to tell a threshold; evaluate the model"):
        Watcher(folder, replace(job, curve=None), SerialExecutor())


def watch_command(folder: Path, out: Path, camera: str, *options: str):
    arguments = ["watch", str(folder), "--out", str(out), "--model", "template-bank", "--instrument", camera]
    arguments += ["--no-dask", "--every", "0.05", "--settle", "0.1", *options]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_the_command_watches_and_stops(folder, frames, tiny_camera, tmp_path):
    for path in frames:
        (folder / path.name).write_bytes(path.read_bytes())
        os.utime(folder / path.name, (OPENED_S, OPENED_S))  # unchanged for long
    result = watch_command(folder, tmp_path / "out", tiny_camera, "--stop-after", "0.5")
    assert result.exit_code == 0
    assert result.stdout == f"candidates: {tmp_path / 'out'}\n"
    names = ", ".join(path.name for path in frames)
    assert re.search(rf"{names}: 3 new candidates, 3 in all; [\d,.]+ s behind the sky", result.stderr)
    assert len(candidates_in(tmp_path / "out")) == 3
    (folder / frames[1].name).write_bytes(frames[1].read_bytes()[:-6000])
    assert watch_command(folder, tmp_path / "out", tiny_camera, "--stop-after", "0.5").exit_code == 1


def test_the_command_refuses_what_is_no_folder(tiny_camera, tmp_path):
    result = watch_command(tmp_path / "nowhere", tmp_path / "out", tiny_camera)
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'nowhere'} is not a folder that could be watched\n"

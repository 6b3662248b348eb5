"""Alerts of a watched folder: each written once, in whatever order files arrive and whenever the watch is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_frames import N_COLUMNS, OPENED, RATE_HZ, SKY_E, add_pulse, expose, write_sequence

from shutterless.pipeline.results.candidates import empty_candidates
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.export import alert_folder as module
from shutterless.workflows.export.alert_folder import JOURNAL, AlertFolder, new_causes
from shutterless.workflows.export.alerts import read_alert
from shutterless.workflows.searching.search import SearchJob
from shutterless.workflows.searching.watch import Watcher, describe_pass
from shutterless.workflows.settings.settings import SearchSettings

FIRST, PULSES = 1000, [500, 1000, 1600]
OPENED_S = datetime.fromisoformat(OPENED).replace(tzinfo=UTC).timestamp()


def expose_pulses(folder: Path, n_files: int, n_rows: int, rows: list[int]) -> list[Path]:
    """Files of one sequence with a pulse at each of some rows, in columns of their own of both amplifiers."""
    electrons = np.full((n_files * n_rows, 2 * N_COLUMNS), SKY_E)
    for number, row in enumerate(rows):
        add_pulse(electrons, row, 6.2 + 9.3 * number, 2.0, 25.0)
    return write_sequence(folder, expose(electrons, seed=5), FIRST, n_files)


def pulses_of(alerts: list[Path], rows: list[int]) -> list[int]:
    """Number of the pulse nearest to each alert in time; it must be within 10 rows."""
    found = []
    for path in alerts:
        read = read_alert(path)["candidate"]["time_read"].timestamp()
        distance = np.abs(np.array(rows) + FIRST - (read - OPENED_S) * RATE_HZ)
        assert distance.min() < 10, path.name
        found.append(int(distance.argmin()))
    return sorted(found)


def candidate(name: str, x: float, row: int, **values) -> pd.DataFrame:
    """A candidate of five rows, read at its row of 300 a second."""
    read = pd.Timestamp("2026-03-04T05:06:07", tz="UTC") + pd.Timedelta(seconds=row / 300)
    given = {
        "candidate_id": name, "path": "/night/a.fits", "ccd": 1, "quadrant": 1, "x": x, "row_start": row - 2,
        "row_stop": row + 2, "row_peak": row, "duration_s": 5 / 300, "time_read": read, **values,
    }  # fmt: skip
    table = empty_candidates()
    return pd.DataFrame([{**dict.fromkeys(table), **given}]).astype(table.dtypes.to_dict())


@pytest.mark.parametrize(
    ("other", "is_new"),
    [
        ({}, False),
        ({"x": 32.0}, False),  # 2 px beside it
        ({"x": 40.0}, True),
        ({"quadrant": 2}, True),
        ({"ccd": pd.NA}, True),
        ({"row": 112}, True),
        ({"path": "/night/b.fits", "row_start": -3, "row_stop": 1, "row_peak": -1}, False),  # the same moment
        ({"path": "/night/b.fits", "time_read": None}, True),  # rows of another file, on no common clock
        ({"quadrant": pd.NA}, True),
    ],
)
def test_a_cause_is_new_unless_an_alert_is_near_it_in_time(other, is_new):
    values = {"x": 30.0, "row": 100, **other}
    found = new_causes(
        candidate("later", values.pop("x"), values.pop("row"), **values), candidate("alerted", 30.0, 100)
    )
    assert len(found) == is_new


def test_without_utc_rows_of_one_file_are_compared():
    first, again = (candidate(name, 30.0, 100, time_read=None) for name in ("first", "again"))
    assert new_causes(again, first).empty
    assert new_causes(first, empty_candidates())["candidate_id"].tolist() == ["first"]


def test_of_two_candidates_of_one_cause_the_first_is_announced():
    both = pd.concat([candidate("sure", 30.0, 100), candidate("weak", 31.0, 103)], ignore_index=True)
    assert new_causes(both, empty_candidates())["candidate_id"].tolist() == ["sure"]
    assert new_causes(empty_candidates(), empty_candidates()).empty


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Path]:
    """Two files with three pulses, one of them at their border."""
    return expose_pulses(tmp_path_factory.mktemp("telescope"), 2, 1000, PULSES)


@pytest.fixture
def start(tmp_path, tiny_camera):
    """Start to watch a folder with alerts: ``start()`` gives the watcher."""
    (tmp_path / "night").mkdir()

    def make() -> Watcher:
        job = SearchJob.prepare(
            "template-bank",
            tmp_path / "out",
            SearchSettings(own_rates=False, false_alarms_per_hour=1.0),
            instrument=tiny_camera,
        )
        executor = SerialExecutor(retries=0)
        alerts = AlertFolder(tmp_path / "alerts", job, executor)
        return Watcher(tmp_path / "night", job, executor, clock=lambda: time.time() + 60, announce=alerts.update)

    return make


def bring(path: Path, folder: Path) -> None:
    (folder / path.name).write_bytes(path.read_bytes())


def test_an_event_at_the_border_of_two_files_has_one_alert(start, frames, tmp_path):
    """Found at the end of the first file, and again, with another name, when the second one comes."""
    watcher, n_alerts = start(), []
    for path in frames:
        bring(path, tmp_path / "night")
        found = watcher.look()
        n_alerts.append(found.n_alerts)
    alerts = sorted((tmp_path / "alerts").iterdir())
    assert pulses_of(alerts, PULSES) == [0, 1, 2]
    assert sum(n_alerts) == 3
    assert f"3 in all, {n_alerts[-1]} alerts; " in describe_pass(found)
    assert start().look().n_alerts == 0


def test_an_alert_that_was_taken_away_is_not_written_again(start, frames, tmp_path):
    bring(frames[0], tmp_path / "night")
    assert start().look().n_alerts >= 1
    for path in (tmp_path / "alerts").iterdir():
        path.unlink()
    assert start().look().n_alerts == 0
    assert list((tmp_path / "alerts").iterdir()) == []


def test_alerts_that_a_kill_left_unrecorded_are_not_written_again(start, frames, tmp_path, monkeypatch):
    bring(frames[0], tmp_path / "night")
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_parquet", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start().look()
    before = {path: path.stat().st_ino for path in (tmp_path / "alerts").iterdir()}
    assert before
    assert not (tmp_path / "out" / JOURNAL).exists()
    bring(frames[1], tmp_path / "night")
    start().look()
    alerts = sorted((tmp_path / "alerts").iterdir())
    assert pulses_of(alerts, PULSES) == [0, 1, 2]
    assert {path: path.stat().st_ino for path in before} == before


def test_alerts_of_a_file_that_is_gone_have_no_cut_outs_and_say_why(start, frames, tmp_path, monkeypatch):
    bring(frames[0], tmp_path / "night")
    watcher = start()
    announce, watcher.announce = watcher.announce, None
    watcher.look()
    (tmp_path / "night" / frames[0].name).unlink()
    announce(pd.read_parquet(tmp_path / "out" / "candidates.parquet"))
    packet = read_alert(next((tmp_path / "alerts").iterdir()))
    assert packet["cutoutStrip"] is packet["cutoutLightCurve"] is None
    assert "does not exist" in packet["cutoutReason"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_files_in_random_order_and_two_kills_give_each_alert_once(tiny_camera, tmp_path):
    n_files, n_rows = 20, 600
    rows = [n_rows * k + 300 for k in range(0, n_files, 2)] + [n_rows * k for k in (3, 9, 14)]  # three at borders
    frames = expose_pulses(tmp_path, n_files, n_rows, rows)
    night, alerts, out = (tmp_path / name for name in ("night", "alerts", "out"))
    night.mkdir()
    command = [Path(sys.executable).parent / "shutterless", "watch", night, "--out", out, "--alerts", alerts]
    command += ["--model", "template-bank", "--instrument", tiny_camera, "--no-dask", "--tracking", tmp_path / "runs"]
    command += ["--set", "search.own_rates=false"]  # 1,200 events an hour would pass for noise
    command += ["--every", "0.1", "--settle", "0.2", "--stop-after", "8"]
    waiting = [frames[k] for k in np.random.default_rng(7).permutation(n_files)]
    record, seen = out / "search.json", {}

    def watch(until: int | None) -> int:
        """Watch and bring a file after every search; kill once there are more alerts. Returns the exit code."""
        searched = None
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            now = record.stat().st_mtime_ns if record.is_file() else 0
            if waiting and now != searched:
                path, searched = waiting.pop(), now
                path.replace(night / path.name)
            for path in alerts.glob("*.avro"):
                status = path.stat()
                first = seen.setdefault(path.name, (status.st_ino, status.st_mtime_ns))
                assert first == (status.st_ino, status.st_mtime_ns), f"{path.name} was written again"
            if until is not None and len(seen) >= until:
                process.kill()
            time.sleep(0.002)
        return process.wait()

    assert watch(4) == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert watch(9) == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert watch(None) == 0, (tmp_path / "log").read_text()
    assert waiting == []
    found = sorted(alerts.glob("*.avro"))
    assert pulses_of(found, rows) == list(range(len(rows)))
    assert {path.name for path in found} == set(seen)
    assert {path.suffix for path in alerts.iterdir()} == {".avro"}

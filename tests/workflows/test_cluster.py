"""Executors: Dask = plain, failures recorded, order kept, memory bounded; and what progress says."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from rich.console import Console

from shutterless.pipeline.frames import FrameError
from shutterless.workflows.cluster import (
    ITEMS_IN_FLIGHT_PER_WORKER,
    ClusterError,
    SerialExecutor,
    call_recorded,
    open_executor,
)
from shutterless.workflows.progress import Progress


def square_or_fail(item):
    """Squares; multiples of 5 fail as a damaged file does; early items take longest, so that they finish last."""
    time.sleep(max(0, 0.02 * (5 - item)))
    if item % 5 == 0:
        raise FrameError(f"item {item}\nis damaged")
    return item**2


def thread_settings(_item):
    return os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"]


def die_on_two(item):
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def divide_by_zero(_item):
    return 1 / 0


@pytest.fixture(scope="module")
def dask():
    with open_executor(workers=2) as executor:
        yield executor


def test_serial_map_keeps_order_and_records_failures():
    outcomes = list(SerialExecutor().map(square_or_fail, [5, 6, 7], describe="squares"))
    assert [outcome.item for outcome in outcomes] == [5, 6, 7]
    assert [outcome.value for outcome in outcomes] == [None, 36, 49]
    assert outcomes[0].error == "FrameError: item 5 is damaged"


def test_dask_gives_the_outcomes_of_the_serial_executor(dask):
    items = list(range(20))
    serial = list(SerialExecutor().map(square_or_fail, items, describe="squares"))
    assert list(dask.map(square_or_fail, items, describe="squares")) == serial
    assert dask.n_workers == 2


def test_empty_list_of_items_gives_no_outcome(dask):
    assert list(dask.map(square_or_fail, [], describe="squares")) == []


def test_workers_run_one_thread_each(dask):
    (outcome,) = dask.map(thread_settings, [0], describe="threads")
    assert outcome.value == ("1", "1")


def test_mistake_in_the_program_is_raised_not_recorded(dask):
    for executor in (SerialExecutor(), dask):
        with pytest.raises(ZeroDivisionError, match="division by zero"):
            list(executor.map(divide_by_zero, [1], describe="mistake"))


def test_keyboard_interrupt_passes_through():
    def interrupt(_item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_recorded(interrupt, 1)


def test_at_most_four_items_per_worker_are_in_flight(dask, monkeypatch):
    submitted = []
    submit = dask._client.submit
    monkeypatch.setattr(dask._client, "submit", lambda *a, **k: submitted.append(a[1]) or submit(*a, **k))
    for done, _ in enumerate(dask.map(square_or_fail, range(1, 40), describe="squares")):
        assert len(submitted) - done <= ITEMS_IN_FLIGHT_PER_WORKER * dask.n_workers


def test_item_that_kills_its_workers_is_recorded_and_the_others_finish():
    with open_executor(workers=2) as executor:
        outcomes = list(executor.map(die_on_two, range(5), describe="deaths"))
    assert [outcome.value for outcome in outcomes] == [0, 1, None, 3, 4]
    assert outcomes[2].error.startswith("KilledWorker: every worker that tried this died")


def test_existing_scheduler_is_used_and_left_running(dask):
    address = dask._client.scheduler.address
    with open_executor(scheduler=address) as executor:
        assert [outcome.value for outcome in executor.map(square_or_fail, [6, 7], describe="squares")] == [36, 49]
    assert next(dask.map(square_or_fail, [8], describe="still there")).value == 64


def test_console_script_with_spawned_workers_is_silent_and_leaves_the_environment_alone(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import os
        from shutterless.workflows.cluster import open_executor
        if __name__ == "__main__":
            os.environ.pop("OMP_NUM_THREADS", None)
            with open_executor(workers=1) as executor:
                print([outcome.value for outcome in executor.map(abs, [-3, -4], describe="abs")])
            print(os.environ.get("OMP_NUM_THREADS"))
        """)
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[3, 4]\nNone\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_dask": True, "workers": 2}, "--no-dask runs in one process and takes neither"),
        ({"scheduler": "tcp://127.0.0.1:1", "workers": 2}, "leave out --workers"),
        ({"workers": 0}, "--workers 0: at least one worker is needed"),
    ],
)
def test_contradicting_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message), open_executor(**options):
        pass


def test_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr("shutterless.workflows.cluster._CONNECT_TIMEOUT_S", 0.3)
    with (
        pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
        open_executor(scheduler="tcp://127.0.0.1:1"),
    ):
        pass


def plain_progress(times=(), **options):
    stream = io.StringIO()
    clock = iter(times).__next__ if times else time.monotonic
    return Progress(console=Console(file=stream, width=80, **options), clock=clock), stream


def test_plain_progress_says_first_last_and_every_ten_seconds():
    progress, stream = plain_progress(times=[0, 1, 2, 12, 13, 14])
    assert list(progress.track("abcde", "letters", 5)) == list("abcde")
    assert stream.getvalue() == "letters: 1/5 (1 s)\nletters: 3/5 (12 s)\nletters: 5/5 (14 s)\n"


def test_bar_on_a_terminal_reaches_its_total():
    progress, stream = plain_progress(force_terminal=True)
    assert list(progress.track("ab", "letters [x]", 2)) == ["a", "b"]
    assert "letters [x]" in stream.getvalue()
    assert "2/2" in stream.getvalue()


def test_quiet_progress_says_nothing(capsys):
    progress = Progress(quiet=True)
    assert list(progress.track("ab", "letters", 2)) == ["a", "b"]
    progress.say("done")
    assert capsys.readouterr() == ("", "")

"""Executors: Dask = plain, failures recorded, order kept, memory bounded; and lines of progress."""

from __future__ import annotations

import errno
import io
import mmap
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from shutterless.pipeline.reading.frames import FrameError
from shutterless.workflows.execution import cluster as cluster_module
from shutterless.workflows.execution.cluster import (
    ClusterError,
    DaskExecutor,
    SerialExecutor,
    call_recorded,
    describe_cluster,
    open_executor,
)
from shutterless.workflows.execution.dask_executor import ITEMS_IN_FLIGHT_PER_WORKER
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.execution.retries import pause_before, worth_retrying
from shutterless.workflows.execution.workers import own_memory


def square_or_fail(item):
    """Squares. Multiples of 5 fail like damaged files; early items take longest, so that they finish last."""
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


def wait_for(condition, timeout_s=20.0):
    """Whether a condition comes true in time."""
    stop = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < stop:
        time.sleep(0.05)
    return condition()


def nap(seconds):
    time.sleep(seconds)
    return seconds


def nap_on_zero(item):
    time.sleep(0 if item else 1.0)
    return item


def leave_mark(folder, item):
    """Record every call with the item's number and its process."""
    with (Path(folder) / "marks").open("a") as file:
        file.write(f"{item} {os.getpid()}\n")


def read_marks(folder):
    return [line.split() for line in (Path(folder) / "marks").read_text().splitlines()]


def fail_first(folder, item):
    """Item (name, n, error): raise the error the first n times."""
    name, n_failures, error = item
    leave_mark(folder, name)
    if sum(mark == name for mark, _ in read_marks(folder)) <= n_failures:
        raise error
    return name


def die_once(folder, item):
    """Item 3 kills its worker on its first try."""
    leave_mark(folder, item)
    time.sleep(0.05)
    if item == 3 and sum(mark == "3" for mark, _ in read_marks(folder)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item**2


def die(folder, item):
    leave_mark(folder, item)
    os.kill(os.getpid(), signal.SIGKILL)


def process_of(item):
    time.sleep(0.01)
    return item, os.getpid()


def prepare_twice(folder):
    """Succeed in the first process that calls it, and in no later one."""
    leave_mark(folder, "prepared")
    if len(read_marks(folder)) > 1:
        raise OSError("model folder is not mounted")


def touch_file(path):
    """Read every page of a mapped file; return the growth of the process's own memory."""
    before = own_memory()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        sum(pages[offset] for offset in range(0, len(pages), mmap.PAGESIZE))
        time.sleep(0.5)
        return own_memory() - before


def take_memory(n_bytes):
    if not isinstance(n_bytes, int):
        return touch_file(n_bytes)
    taken = bytearray(n_bytes)
    taken[:: mmap.PAGESIZE] = b"x" * len(taken[:: mmap.PAGESIZE])
    time.sleep(2)
    return len(taken)


@pytest.fixture(scope="module")
def dask():
    with open_executor(workers=2) as executor:
        yield executor


def test_number_of_workers_and_the_dashboard_are_told(dask, monkeypatch):
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: None)
    assert describe_cluster(dask._client) == "2 Dask workers; dashboard: needs `pip install 'dask[diagnostics]'`"
    monkeypatch.setattr(cluster_module, "find_spec", lambda name: name == "bokeh")
    assert describe_cluster(dask._client) == f"2 Dask workers; dashboard: {dask._client.dashboard_link}"
    assert dask._client.dashboard_link.startswith("http://127.0.0.1:")


def test_no_workers_are_started_for_one_item():
    with open_executor(when_worth=True, announce=lambda line: pytest.fail(line)) as executor:
        (outcome,) = executor.map(square_or_fail, [6], describe="squares")
    assert outcome.value == 36


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
    in_flight = [
        len(submitted) - done for done, _ in enumerate(dask.map(square_or_fail, range(1, 40), describe="squares"))
    ]
    assert len(in_flight) == len(submitted) == 39
    assert max(in_flight) == in_flight[0] == ITEMS_IN_FLIGHT_PER_WORKER * dask.n_workers


def test_item_that_kills_its_workers_is_recorded_and_the_others_finish():
    with open_executor(workers=2) as executor:
        outcomes = list(executor.map(die_on_two, range(5), describe="deaths"))
    assert [outcome.value for outcome in outcomes] == [0, 1, None, 3, 4]
    assert outcomes[2].error.startswith("KilledWorker: every worker that tried this died")


def test_outcomes_come_as_they_are_finished_when_asked(dask):
    outcomes = list(dask.map(nap_on_zero, range(6), describe="naps", ordered=False))
    assert outcomes[0].value != 0  # item 0 sleeps for a second
    assert sorted(outcome.value for outcome in outcomes) == list(range(6))
    assert [o.value for o in SerialExecutor().map(nap_on_zero, [1, 0], describe="naps", ordered=False)] == [1, 0]


def test_a_thousand_items_never_have_more_futures_than_the_window(dask):
    most, at_scheduler = 0, 0
    for index, outcome in enumerate(dask.map(abs, range(1000), describe="numbers")):
        assert outcome.value == index
        most = max(most, len(dask._client.futures))
        if index % 250 == 249:
            n_tasks = dask._client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
            at_scheduler = max(at_scheduler, n_tasks)
    assert most <= ITEMS_IN_FLIGHT_PER_WORKER * dask.n_workers
    assert at_scheduler <= ITEMS_IN_FLIGHT_PER_WORKER * dask.n_workers + 1  # one may be about to be released
    assert wait_for(lambda: not dask._client.futures)


def test_outcomes_that_wait_for_a_slow_item_count_for_the_window(dask, monkeypatch):
    submitted = []
    submit = dask._client.submit
    monkeypatch.setattr(dask._client, "submit", lambda *a, **k: submitted.append(a[1]) or submit(*a, **k))
    outcomes = dask.map(nap_on_zero, range(100), describe="naps")
    assert next(outcomes).item == 0
    assert submitted == list(range(ITEMS_IN_FLIGHT_PER_WORKER * dask.n_workers))
    outcomes.close()
    assert wait_for(lambda: not dask._client.futures)
    submitted.clear()
    unordered = dask.map(nap_on_zero, range(100), describe="naps", ordered=False)
    overtook = [outcome.item for outcome in unordered].index(0)
    assert overtook > ITEMS_IN_FLIGHT_PER_WORKER * dask.n_workers  # more than a window, which would have held them


def test_window_follows_the_number_of_workers(monkeypatch):
    monkeypatch.setattr("shutterless.workflows.execution.dask_executor._LOOK_EVERY_S", 0.1)
    futures = {}
    with open_executor(workers=1) as executor:
        cluster = executor._client.cluster
        for index, _ in enumerate(executor.map(nap, [0.03] * 300, describe="naps")):
            futures[executor.n_workers] = len(executor._client.futures)
            if index == 5:
                cluster.scale(2)
            if index == 150:
                assert executor.n_workers == 2
                cluster.scale(1)
        assert executor.n_workers == 1
    assert futures[1] <= ITEMS_IN_FLIGHT_PER_WORKER < futures[2] <= 2 * ITEMS_IN_FLIGHT_PER_WORKER


STALE = OSError(errno.ESTALE, "Stale file handle")
DAMAGED = FrameError("frame is damaged")


def frame_error_of(cause):
    error = FrameError("frame cannot be read")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (STALE, float("inf")),
        (FileNotFoundError(errno.ENOENT, "No such file"), 1),
        (frame_error_of(STALE), float("inf")),
        (frame_error_of(FileNotFoundError(errno.ENOENT, "No such file")), 1),
        (frame_error_of(OSError("Header missing END card.")), 0),  # astropy's error on a damaged file
        (frame_error_of(None), 0),
        (MemoryError(), 0),
    ],
)
def test_only_errors_that_may_pass_are_worth_another_try(error, tries):
    assert worth_retrying(error) == tries


def test_pauses_grow():
    assert [pause_before(attempt) for attempt in range(4)] == [0, 0.5, 2, 8]


@pytest.mark.parametrize("kind", ["serial", "dask"])
def test_input_output_errors_are_tried_again_and_damage_is_not(kind, dask, tmp_path, monkeypatch):
    monkeypatch.setattr("shutterless.workflows.execution.retries._FIRST_PAUSE_S", 0.01)
    executor = SerialExecutor() if kind == "serial" else dask
    missing = FileNotFoundError(errno.ENOENT, "No such file")
    items = [("twice", 2, STALE), ("thrice", 3, STALE), ("damaged", 1, DAMAGED), ("late", 1, missing)]
    items += [("absent", 2, missing), ("good", 0, None)]
    outcomes = list(executor.map(partial(fail_first, tmp_path), items, describe="files"))
    assert [outcome.value for outcome in outcomes] == ["twice", None, None, "late", None, "good"]
    assert outcomes[1].error == "OSError: [Errno 116] Stale file handle"
    assert outcomes[2].error == "FrameError: frame is damaged"
    assert outcomes[4].error == "FileNotFoundError: [Errno 2] No such file"
    names = [name for name, _ in read_marks(tmp_path)]
    calls = {name: names.count(name) for name, *_ in items}
    assert calls == {"twice": 3, "thrice": 3, "damaged": 1, "late": 2, "absent": 2, "good": 1}


def test_number_of_retries_can_be_chosen(tmp_path):
    with open_executor(no_dask=True, retries=0) as executor:
        (outcome,) = executor.map(partial(fail_first, tmp_path), [("once", 1, STALE)], describe="files")
    assert outcome.error == "OSError: [Errno 116] Stale file handle"


def test_item_of_a_killed_worker_runs_again_and_the_worker_comes_back(tmp_path):
    with open_executor(workers=2) as executor:
        before = set(executor._client.run(os.getpid).values())
        outcomes = list(executor.map(partial(die_once, tmp_path), range(60), describe="squares"))
        assert [outcome.value for outcome in outcomes] == [item**2 for item in range(60)]
        assert wait_for(lambda: len(executor._client.nthreads()) == 2)
        after = set(executor._client.run(os.getpid).values())
    assert len(before & after) == 1
    assert len(after) == 2


@pytest.mark.slow
def test_nothing_is_lost_while_workers_are_killed_again_and_again():
    """Longer than the 15 s after which Dask checks whether a dead worker is back."""
    with open_executor(workers=2, allowed_failures=100) as executor:
        killed, values = 0, []
        for outcome in executor.map(process_of, range(1500), describe="processes"):
            item, process = outcome.value
            values.append(item)
            if item % 100 == 50 and process in executor._client.run(os.getpid).values():
                os.kill(process, signal.SIGKILL)
                killed += 1
        assert wait_for(lambda: len(executor._client.nthreads()) == 2)
    assert values == list(range(1500))
    assert killed >= 8


def test_item_is_given_up_after_the_allowed_failures(tmp_path):
    with open_executor(workers=1, allowed_failures=1) as executor:
        (outcome,) = executor.map(partial(die, tmp_path), ["deadly"], describe="deaths")
    assert outcome.error.startswith("KilledWorker: ")
    assert len(read_marks(tmp_path)) == 2


def test_mapped_files_do_not_count_as_memory_and_a_worker_that_takes_too_much_is_ended(tmp_path):
    mapped = tmp_path / "store"
    with mapped.open("wb") as file:
        file.truncate(800_000_000)
    with open_executor(workers=1, memory_limit=500e6, allowed_failures=0) as executor:
        # one after the other: without a failure to spare, a worker that ends takes the items that wait in it along
        first, second, third = (
            outcome
            for item in (mapped, 600_000_000, 1000)
            for outcome in executor.map(take_memory, [item], describe="memory")
        )
    assert first.value < 100e6
    assert second.error.startswith("KilledWorker: ")
    assert third.value == 1000


def test_preparation_runs_once_in_every_process_and_before_its_items(tmp_path):
    (tmp_path / "calls").mkdir()
    with open_executor(workers=2, preload=partial(leave_mark, tmp_path / "calls", "prepared")) as executor:
        first = read_marks(tmp_path / "calls")
        assert len({process for _, process in first}) == len(first) == 2
        list(executor.map(partial(die_once, tmp_path), range(40), describe="squares"))
        assert wait_for(lambda: len(executor._client.nthreads()) == 2)
        assert wait_for(lambda: len(read_marks(tmp_path / "calls")) == 3)  # and in the worker that was started again
    prepared = {process for _, process in read_marks(tmp_path / "calls")}
    assert {process for _, process in read_marks(tmp_path)} <= prepared


def test_serial_preparation_runs_once_here(tmp_path):
    with open_executor(no_dask=True, preload=partial(leave_mark, tmp_path, "prepared")) as executor:
        list(executor.map(abs, [1, 2], describe="numbers"))
    assert read_marks(tmp_path) == [["prepared", str(os.getpid())]]


def raise_error(error):
    raise error


def test_preparation_that_fails_stops_the_run_at_once(dask):
    with pytest.raises(ClusterError, match="a worker could not prepare for the work: FrameError: frame is damaged"):
        dask.prepare(partial(raise_error, DAMAGED))
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        dask.prepare(partial(raise_error, ZeroDivisionError("a mistake")))
    dask.close()  # removes it from the workers
    assert [outcome.value for outcome in dask.map(abs, [-1], describe="numbers")] == [1]


def test_worker_that_cannot_prepare_later_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("shutterless.workflows.execution.dask_executor._LOOK_EVERY_S", 0.1)
    failed = "no worker is left; the last could not prepare for the work: OSError: model folder is not mounted"
    with (
        pytest.warns(RuntimeWarning, match=r"worker tcp://.* could not prepare for the work and is left out: OSError"),
        pytest.raises(ClusterError, match=failed),
        open_executor(workers=1, preload=partial(prepare_twice, tmp_path)) as executor,
    ):
        list(executor.map(partial(die_once, tmp_path), range(10), describe="squares"))


def test_preparation_is_taken_off_a_scheduler_that_goes_on(dask, tmp_path):
    def plugins():
        return dask._client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.worker_plugins))

    before = plugins()
    address = dask._client.scheduler.address
    with open_executor(scheduler=address, preload=partial(leave_mark, tmp_path, "prepared")):
        assert len(plugins()) == len(before) + 1
    assert plugins() == before
    assert len(read_marks(tmp_path)) == 2


def test_cluster_without_workers_is_given_up(monkeypatch):
    monkeypatch.setattr("shutterless.workflows.execution.dask_executor._LOOK_EVERY_S", 0.1)
    with open_executor(workers=1) as executor:
        client = executor._client
        client.cluster.scale(0)
        assert wait_for(lambda: not client.nthreads())
        deserted = DaskExecutor(client, patience_s=0.2)
        with pytest.raises(ClusterError, match=r"has had no worker for 0\.2 s; .*with --resume"):
            list(deserted.map(abs, [1], describe="numbers"))


@pytest.fixture
def other_cluster():
    """A scheduler and a worker in their own processes; yields the scheduler's process and address."""
    modules = "distributed.cli.dask_scheduler", "distributed.cli.dask_worker"
    command = [sys.executable, "-m", modules[0], "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
    worker = subprocess.Popen([sys.executable, "-m", modules[1], address, "--nthreads", "1"], stderr=subprocess.PIPE)
    next(line for line in worker.stderr if b"Registered to:" in line)
    yield scheduler, address
    for process in (scheduler, worker):
        process.kill()
        process.communicate()


def test_lost_scheduler_is_named_with_the_way_out(other_cluster):
    scheduler, address = other_cluster
    message = rf"the Dask scheduler at {address} is lost \(.+\); .* again with --resume"
    with open_executor(scheduler=address) as executor:
        outcomes = executor.map(nap, [0.1] * 100, describe="naps")
        assert next(outcomes).value == 0.1
        scheduler.kill()
        with pytest.raises(ClusterError, match=message):
            list(outcomes)


def test_scheduler_lost_between_two_maps_is_named(other_cluster):
    scheduler, address = other_cluster
    with open_executor(scheduler=address) as executor:
        assert next(executor.map(nap, [0.1], describe="naps")).value == 0.1
        scheduler.kill()
        scheduler.wait()
        with pytest.raises(ClusterError, match=f"{address} is lost"):
            list(executor.map(nap, [0.1] * 3, describe="naps"))


def processes_of(group):
    """Processes of a group that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group_of = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(group_of) == group and state != "Z":
            found.append(status.parent.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
@pytest.mark.parametrize("work", ["time.sleep(600)", "sum(range(10**13))"])
def test_killed_driver_leaves_no_worker_behind(work, tmp_path):
    """The sum holds the interpreter's lock for hours, as compiled code can."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from shutterless.workflows.execution.cluster import open_executor
        def work(item):
            open(f"{tmp_path}/started{{item}}", "w").close()
            {work}
        if __name__ == "__main__":
            with open_executor(workers=2) as executor:
                list(executor.map(work, range(2), describe="work"))
        """)
    )
    driver = subprocess.Popen([sys.executable, script], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: len(list(tmp_path.glob("started*"))) == 2)
        assert len(processes_of(driver.pid)) >= 3
        driver.kill()
        driver.wait()
        assert wait_for(lambda: not processes_of(driver.pid), timeout_s=10)
    finally:
        if processes_of(driver.pid):
            os.killpg(driver.pid, signal.SIGKILL)


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
        from shutterless.workflows.execution.cluster import open_executor
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
        ({"no_dask": True, "slurm": "a.toml"}, "takes neither --workers nor --scheduler nor --slurm"),
        ({"slurm": "a.toml", "workers": 2}, "--slurm starts its own scheduler and workers"),
        ({"workers": 0}, "--workers 0: at least one worker is needed"),
    ],
)
def test_contradicting_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message), open_executor(**options):
        pass


def test_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr("shutterless.workflows.execution.cluster._CONNECT_TIMEOUT_S", 0.3)
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
    assert stream.getvalue() == "letters: 1/5 (1 s)\nletters: 3/5 (12 s, 11 s left)\nletters: 5/5 (14 s)\n"


def test_bar_on_a_terminal_reaches_its_total():
    progress, stream = plain_progress(force_terminal=True)
    assert list(progress.track("ab", "letters [x]", 2)) == ["a", "b"]
    assert "letters [x]" in stream.getvalue()
    assert "2/2" in stream.getvalue()


def test_quiet_progress_says_nothing(capsys):
    progress = Progress(quiet=True)
    assert list(progress.track("ab", "letters", 2)) == ["a", "b"]
    progress.write_line("done")
    assert capsys.readouterr() == ("", "")


def test_worker_that_is_killed_while_all_prepare_does_not_end_the_run(dask, monkeypatch):
    from distributed.comm import CommClosedError

    register, calls = dask._client.register_plugin, []

    def lose_one_first(plugin, name):
        calls.append(name)
        if len(calls) == 1:
            raise CommClosedError("a worker was killed")
        return register(plugin, name=name)

    monkeypatch.setattr(dask._client, "register_plugin", lose_one_first)
    dask.prepare(partial(abs, -1))
    assert len(calls) == 2
    assert [outcome.value for outcome in dask.map(abs, [-3], describe="numbers")] == [3]


def kill_first_child(seen):
    """Kill the first worker process that comes up, as soon as it is there; ``seen`` gets its number."""
    while not seen:
        children = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
        for child in children[:1]:
            seen.append(child.pid)
            child.kill()


def test_worker_that_is_killed_while_it_starts_does_not_end_the_run():
    seen = []
    killer = threading.Thread(target=kill_first_child, args=(seen,))
    killer.start()
    with open_executor(workers=2) as executor:
        killer.join()
        assert [outcome.value for outcome in executor.map(abs, [-3, -4], describe="numbers")] == [3, 4]
        assert seen[0] not in executor._client.run(os.getpid).values()


def test_workers_that_never_start_end_the_run(monkeypatch):
    starts = []

    def fail(**_options):
        starts.append(1)
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("distributed.LocalCluster", fail)
    with pytest.raises(ClusterError, match="local workers did not start: RuntimeError: Nanny failed to start"):
        open_executor(workers=2).__enter__()
    assert len(starts) == 3

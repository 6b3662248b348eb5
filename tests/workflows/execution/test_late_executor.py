"""Workers are started only for work that is worth their start."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from shutterless.workflows.execution.executors import SerialExecutor
from shutterless.workflows.execution.late_executor import (
    START_S,
    LateExecutor,
    estimate_duration,
    is_worth_workers,
)


class Crew(SerialExecutor):
    """Stands for workers; what they prepared and did is listed."""

    def __init__(self):
        super().__init__()
        self.done = []

    def prepare(self, function):
        self.done.append("prepared")

    def map(self, function, items, **options):
        self.done += items
        return super().map(function, items, **options)


@pytest.mark.parametrize(
    ("n_items", "n_workers", "seconds", "worth"),
    [
        (1, 8, 1e6, False),  # one item runs on one worker, wherever that is
        (100, 1, 1e6, False),
        (2, 2, 1.9 * START_S, False),  # two workers save half
        (2, 2, 2.1 * START_S, True),
        (100, 8, 8.1 / 7 * START_S, True),
        (2, 2, None, True),
    ],
)
def test_worth_of_workers(n_items, n_workers, seconds, worth):
    assert is_worth_workers(n_items, n_workers, seconds) == worth


def test_a_duration_counts_the_start_and_as_many_processes_as_have_work():
    (few, one), (many, two) = estimate_duration(4, 10.0, 1), estimate_duration(4, 100.0, 2)
    assert (one, two) == (1, 2)
    assert many - few == START_S + 100 / 2 - 10
    assert estimate_duration(1, 100.0, 8)[0] == estimate_duration(2, 200.0, 8)[0]
    assert estimate_duration(1, 1e6)[1] == 1


def test_little_work_runs_here_and_the_rest_on_workers_that_are_started_once():
    started, crew, prepared = [], Crew(), []

    @contextmanager
    def start():
        started.append("start")
        yield crew
        started.append("end")

    with LateExecutor(start, 2) as executor:
        executor.prepare(lambda: prepared.append("here"))
        small = executor.map(abs, [-1, -2], describe="", seconds=0.1)
        assert [outcome.value for outcome in small] == [1, 2]
        assert (started, prepared) == ([], ["here"])
        for _ in range(2):
            assert [outcome.value for outcome in executor.map(abs, [-3, -4], describe="", seconds=1e3)] == [3, 4]
        assert [outcome.value for outcome in executor.map(abs, [-5], describe="")] == [5]
        assert started == ["start"]
        assert crew.done == ["prepared", -3, -4, -3, -4, -5]
        executor.prepare(lambda: prepared.append("never here"))
        assert crew.done[-1] == "prepared"
    assert (started, prepared) == (["start", "end"], ["here"])


def test_nothing_is_prepared_where_there_is_nothing_to_do():
    prepared = []
    with LateExecutor(lambda: pytest.fail("no workers"), 2) as executor:
        executor.prepare(lambda: prepared.append(1))
        assert list(executor.map(abs, [], describe="")) == []
    assert prepared == []

"""Runs whose drivers and workers `benchmarks/survival.py` kills have the results of an undisturbed run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_frames import N_COLUMNS, SKY_E, add_pulse, expose, write_sequence

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "survival.py"
N_FILES, N_ROWS = 3, 2000


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Path]:
    electrons = np.full((N_FILES * N_ROWS, 2 * N_COLUMNS), SKY_E)
    for row in (500, N_ROWS, 4500):
        add_pulse(electrons, row, 30.2, 2.0, 25.0)
    return write_sequence(tmp_path_factory.mktemp("night"), expose(electrons, seed=3), 1000, N_FILES)


def run_benchmark(frames: list[Path], camera: str, *options: str) -> list[tuple[str, str, int, int, int]]:
    """Line by line: command, killed process, number of runs, of runs hit, and of runs with equal results."""
    words = [*options, "--frames", *map(str, frames), "--options", "instrument", camera]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pattern = r"(\w+): (\d+) runs of [\d.]+ s, a (\w+) killed in (\d+): (\d+) the same to the bit"
    lines = re.findall(pattern, done.stdout)
    return [(command, who, int(n_runs), int(hit), int(same)) for command, n_runs, who, hit, same in lines]


@pytest.mark.timeout(120)  # 20 s on an idle machine, most of it imports
def test_two_kills_of_a_search_change_no_bit(frames, tiny_camera):
    (line,) = run_benchmark(frames, tiny_camera, "--kills", "2", "--commands", "search", "--workers", "0")
    command, who, n_runs, hit, same = line
    assert (command, who, same) == ("search", "driver", n_runs)
    assert 0 <= hit <= 2 <= n_runs <= 6


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_three_kills_of_drivers_and_workers_of_both_commands_change_no_bit(frames, tiny_camera):
    lines = run_benchmark(frames, tiny_camera, "--kills", "3")
    assert [line[:2] for line in lines] == [(c, who) for c in ("search", "ingest") for who in ("driver", "worker")]
    assert [line[4] for line in lines] == [line[2] for line in lines]
    assert sum(line[3] for line in lines) > 6  # most kills hit a running command


@pytest.fixture(scope="module")
def survival() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("survival", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["survival"] = module  # its dataclass looks up its module here
    spec.loader.exec_module(module)
    yield module
    del sys.modules["survival"]


@pytest.mark.parametrize(("n_same", "code"), [(5, 0), (3, 8), (0, 20)])
def test_the_exit_code_is_the_number_of_runs_that_differ(survival, monkeypatch, capsys, n_same, code):
    """Two commands, each killed twice in five runs; the number of runs with equal results is given."""
    monkeypatch.setattr(survival.Undisturbed, "run", lambda *_: survival.Undisturbed(None, 8.6))
    monkeypatch.setattr(survival, "survive", lambda *_: (5, 4, n_same))
    monkeypatch.setattr(sys, "argv", ["survival.py", "--kills", "5", "--frames", "a.fits"])
    with pytest.raises(SystemExit) as ended:
        survival.main()
    assert ended.value.code == code
    assert capsys.readouterr().out.splitlines() == [
        f"{command}: 5 runs of 8.6 s, a {who} killed in 4: {n_same} the same to the bit"
        for command in ("search", "ingest")
        for who in ("driver", "worker")
    ]


def test_more_differing_runs_than_an_exit_code_holds_are_not_none(survival, monkeypatch):
    """The shell would read 256 as 0."""
    monkeypatch.setattr(survival.Undisturbed, "run", lambda *_: survival.Undisturbed(None, 8.6))
    monkeypatch.setattr(survival, "survive", lambda *_: (128, 0, 0))
    monkeypatch.setattr(sys, "argv", ["survival.py", "--kills", "128", "--commands", "search", "--frames", "a.fits"])
    with pytest.raises(SystemExit) as ended:
        survival.main()
    assert ended.value.code == 255


def test_options_of_the_commands_are_passed_on(survival, monkeypatch):
    given = []

    def run(command, files, options, out):
        given.append(options)
        return survival.Undisturbed(None, 8.6)

    monkeypatch.setattr(survival.Undisturbed, "run", run)
    monkeypatch.setattr(survival, "survive", lambda *_: (1, 0, 1))
    words = ["--kills", "1", "--commands", "search", "--frames", "a.fits", "--options", "instrument", "camera.toml"]
    monkeypatch.setattr(sys, "argv", ["survival.py", *words])
    with pytest.raises(SystemExit):
        survival.main()
    assert given == [["--instrument", "camera.toml", "--workers", "2"]]


def test_results_that_differ_by_one_bit_are_not_the_same(survival):
    table = survival.pd.DataFrame({"snr": [7.0, 8.0]})
    other = survival.pd.DataFrame({"snr": [7.0, np.nextafter(8.0, 9.0)]})
    assert survival.is_same((table, b"a"), (table.copy(), b"a"))
    assert not survival.is_same((table, b"a"), (other, b"a"))
    assert not survival.is_same((table, b"a"), (table, b"b"))

"""Searches on real engines: SLURM of Debian's packages, and a Dask scheduler with workers in folders of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import real_slurm
from typer.testing import CliRunner

from shutterless.workflows.cli import app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SLURM_FILE = """
jobs = 2
cores = 1
memory = "2GB"
walltime = "00:30:00"
job_script_prologue = ["export PYTHONPATH={path}"]
interface = "lo"
"""


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Path]:
    """Six files of one CCD with events, enough work for a job to be killed in the middle."""
    folder = tmp_path_factory.mktemp("frames")
    arguments = ["simulate", "--out", folder, "--rows", 3000, "--files", 3, "--ccds", "1,2", "--events", 4, "--seed", 4]
    assert CliRunner().invoke(app, [*map(str, arguments), "--no-dask", "-q"]).exit_code == 0
    return sorted(folder.glob("*.fits.fz"))


@pytest.fixture(scope="module")
def expected(frames, tmp_path_factory) -> pd.DataFrame:
    """What a search without any cluster finds."""
    return search(frames, tmp_path_factory.mktemp("plain") / "out", "--no-dask")


def search(frames, out, *options) -> pd.DataFrame:
    """Search in a process of its own, as a user does."""
    command = [sys.executable, "-m", "shutterless.workflows.cli", "search", *map(str, frames), "--out", str(out)]
    done = subprocess.run(
        [*command, "--model", "template-bank", "-q", *map(str, options)], capture_output=True, text=True, check=False,
        cwd=out.parent, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return pd.read_parquet(out / "candidates.parquet")


def when_searched(out: Path, n_parts: int, act) -> threading.Thread:
    """Do something once so many parts of a search are finished."""

    def watch():
        while len(list((out / "parts").glob("*"))) < n_parts:
            time.sleep(0.1)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.skipif(not real_slurm.is_installed(), reason="apt-get install slurmctld slurmd slurm-client munge; root")
def test_a_search_in_slurm_jobs_one_of_them_cancelled_has_the_same_table(frames, expected, tmp_path, monkeypatch):
    folder, out = tmp_path / "slurm", tmp_path / "out"
    folder.mkdir()
    settings = tmp_path / "cluster.toml"
    settings.write_text(SLURM_FILE.format(path=os.environ.get("PYTHONPATH", "")))
    with real_slurm.running_slurm(folder) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        cancelled = []

        def cancel():
            cancelled.append(real_slurm.jobs(environment)[0])
            subprocess.run(["scancel", "--signal=KILL", "--full", cancelled[0]], check=True)

        thread = when_searched(out, 1, cancel)
        found = search(frames, out, "--slurm", settings)
        thread.join(timeout=10)
        assert len(cancelled) == 1
    pd.testing.assert_frame_equal(found, expected)
    logs = sorted(path.name for path in (out / "jobs").iterdir())
    assert f"shutterless-{cancelled[0]}.out" in logs
    assert list(tmp_path.glob("*.out")) == []  # none in the current folder


def test_a_dask_cluster_that_loses_one_worker_and_gains_another_has_the_same_table(frames, expected, tmp_path):
    out, running = tmp_path / "out", []

    def start(*arguments):
        folder = tmp_path / f"here-{len(running)}"
        folder.mkdir()
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
            running.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT))
        return running[-1]

    scheduler_file = tmp_path / "scheduler.json"
    worker = "dask_worker", "--scheduler-file", str(scheduler_file), "--nthreads", "1", "--no-nanny", "--no-dashboard"
    try:
        start(
            "dask_scheduler",
            "--scheduler-file",
            str(scheduler_file),
            "--port",
            "0",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
        )
        first = start(*worker)
        start(*worker)
        address = _wait_for_address(scheduler_file)

        def lose_and_gain():
            first.kill()
            start(*worker)

        thread = when_searched(out, 1, lose_and_gain)
        found = search(frames, out, "--scheduler", address)
        thread.join(timeout=10)
        assert first.poll() is not None
    finally:
        for process in running:
            process.kill()
            process.wait()
    pd.testing.assert_frame_equal(found, expected)


def _wait_for_address(scheduler_file: Path) -> str:
    from distributed import Client

    limit = time.monotonic() + 120
    while not scheduler_file.is_file() and time.monotonic() < limit:
        time.sleep(0.2)
    address = json.loads(scheduler_file.read_text())["address"]
    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
    return str(address)

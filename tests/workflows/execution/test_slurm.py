"""SLURM jobs: the script that would be submitted, settings that are refused, and a run on a stand-in for SLURM."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from shutterless.pipeline.settings import SettingsError
from shutterless.workflows import cli
from shutterless.workflows.execution import slurm
from shutterless.workflows.execution.cluster import describe_jobs, open_executor
from shutterless.workflows.execution.slurm import JobKeeper, SlurmError, load_slurm, walltime_seconds

SETTINGS = """
jobs = 10
cores = 4
memory = "16GB"
walltime = "04:00:00"
queue = "short"
account = "astro"
job_extra_directives = ["--constraint=avx2"]
job_script_prologue = ["module load python"]
local_directory = "$TMPDIR"
worker_extra_args = ["--resources", "disk=1"]
"""
# runs the script here at once, in a process group whose number is the job's
SBATCH = """#!/bin/sh
[ "$1" = --test-only ] && exec cat > /dev/null
cp "$1" "$HERE/script.sh"
setsid bash "$HERE/script.sh" > "$HERE/job.log" 2>&1 &
echo $! >> "$HERE/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -KILL -- "-$1"
"""


@pytest.fixture
def write_settings(tmp_path):
    def write(text=SETTINGS):
        path = tmp_path / "slurm.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """A machine on which jobs start at once; yields the folder with their numbers and script."""
    pytest.importorskip("dask_jobqueue")
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    yield tmp_path
    for job in (tmp_path / "jobs").read_text().split() if (tmp_path / "jobs").exists() else ():
        if group_lives(int(job)):
            os.killpg(int(job), signal.SIGKILL)


def group_lives(group):
    """Whether a process of a group still runs; an ended process that is not yet reaped does not count."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group_of = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group_of) == group and state != "Z":
            return True
    return False


def where(item):
    time.sleep(0.1)
    return item**2, os.environ["NUMBA_NUM_THREADS"], os.getpgid(0)


def test_script_has_the_directives_and_workers_that_stop_before_the_wall_time(write_settings):
    pytest.importorskip("dask_jobqueue")
    script, n_workers = describe_jobs(write_settings())
    assert n_workers == 40
    lines = script.splitlines()
    assert [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")] == [
        "-J shutterless", "-p short", "-A astro", "-n 1", "--cpus-per-task=4", "--mem=15G", "-t 04:00:00",
        "--constraint=avx2",
    ]  # fmt: skip
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        assert f"export {variable}=1" in lines
    for threshold in ("TARGET", "SPILL", "PAUSE", "TERMINATE"):
        assert f"export DASK_DISTRIBUTED__WORKER__MEMORY__{threshold}=False" in lines
    assert lines[-2] == "module load python"
    words = shlex.split(lines[-1])
    assert words[:3] == [sys.executable, "-m", "distributed.cli.dask_worker"]
    options = dict(pairwise(words))
    assert (options["--nworkers"], options["--nthreads"], options["--memory-limit"]) == ("4", "1", "3.73GiB")
    assert (options["--local-directory"], options["--resources"]) == ("$TMPDIR", "disk=1")
    # 240 minutes less a margin of 10 and a stagger of 5: between 220 and 230
    assert (options["--lifetime"], options["--lifetime-stagger"]) == ("13500s", "300s")


def test_workers_of_the_script_understand_its_memory_thresholds(write_settings):
    pytest.importorskip("dask_jobqueue")
    from dask.config import collect_env

    lines = describe_jobs(write_settings())[0].splitlines()
    exported = dict(line.removeprefix("export ").split("=") for line in lines if line.startswith("export DASK"))
    assert set(collect_env(exported)["distributed"]["worker"]["memory"].values()) == {False}


def test_python_and_logs_of_the_file_are_used(write_settings, tmp_path):
    pytest.importorskip("dask_jobqueue")
    logs = tmp_path / "logs"
    script, _ = describe_jobs(write_settings(f'{SETTINGS}python = "/opt/python"\nlog_directory = "{logs}"\n'))
    assert script.splitlines()[-1].startswith("/opt/python -m distributed.cli.dask_worker ")
    assert f"#SBATCH -o {logs}/shutterless-%J.out" in script
    assert not logs.exists()  # a dry run writes nothing


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800), ("30:15", 1815), ("04:00:00", 14_400), ("2-0", 172_800), ("1-12:30", 131_400),
        ("1-00:00:05", 86_405),
    ],
)  # fmt: skip
def test_wall_times_are_read_as_slurm_reads_them(text, seconds):
    assert walltime_seconds(text) == seconds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('walltme = "1:00:00"', r"\[walltme\]: unknown key; did you mean 'walltime'\?"),
        ("jobs = 0", r"\[jobs\] = 0: input should be greater than or equal to 1"),
        ('walltime = "4 hours"', r"walltime '4 hours': expected HH:MM:SS or D-HH:MM:SS"),
        ('walltime = "00:20:00"', r"walltime 00:20:00 leaves no time to work: workers would stop 10 minutes .*twice 5"),
        ('memory = "16"', r"memory '16': expected the size of one job with its unit, for example 64GB"),
        ('memory = "much"', r"memory 'much': expected the size of one job"),
        ('job_name = "my job"', r"\[job_name\] = 'my job': string should match"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message, write_settings):
    key = change.partition(" ")[0]
    kept = [line for line in SETTINGS.splitlines() if line.partition(" ")[0] != key]
    path = write_settings("\n".join([*kept, change]))
    with pytest.raises(SettingsError, match=message):
        load_slurm(path)


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read"):
        load_slurm(tmp_path / "absent.toml")


def test_extra_to_install_is_named(write_settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(SlurmError, match=r"pip install 'shutterless\[slurm\]'"):
        describe_jobs(write_settings())


def test_machine_without_slurm_is_told(write_settings, monkeypatch, tmp_path):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="sbatch is not on this machine"), open_executor(slurm=write_settings()):
        pass


def test_what_slurm_refuses_is_passed_on(write_settings, fake_slurm):
    (fake_slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    refused = r"SLURM refuses the job: sbatch: error: Invalid account; see the script with --dry-run"
    with pytest.raises(SlurmError, match=refused), open_executor(slurm=write_settings()):
        pass


def test_dry_run_shows_the_script_and_starts_nothing(write_settings, tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr(slurm.subprocess, "run", None)
    arguments = ["--out", tmp_path / "out", "--slurm", write_settings(), "--dry-run"]
    for command in ("ingest", "search"):
        result = CliRunner().invoke(cli.app, [command, str(tmp_path / "absent.fits"), *map(str, arguments)])
        assert result.exit_code == 1  # the file
        assert result.stdout.startswith("#!/usr/bin/env bash\n\n#SBATCH -J shutterless\n")
        assert "with 40 workers" in result.stdout
        assert f"#SBATCH -o {tmp_path}/out/jobs/shutterless-%J.out" in result.stdout
    assert not (tmp_path / "out").exists()


def test_dry_run_refuses_contradicting_options(write_settings, tmp_path):
    arguments = ["ingest", "a.fits", "--out", tmp_path, "--slurm", write_settings(), "--workers", 2, "--dry-run"]
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    assert "--slurm starts its own scheduler and workers" in result.stderr


def settings_for_here(**changes):
    values = {"jobs": 1, "cores": 2, "memory": "4GB", "walltime": "01:00:00", **changes}
    return "".join(f"{key} = {value!r}\n" for key, value in values.items())


def test_items_run_in_jobs_that_are_cancelled_at_the_end(write_settings, fake_slurm, monkeypatch):
    monkeypatch.setattr("shutterless.workflows.execution.dask_executor._LOOK_EVERY_S", 0.1)
    path = write_settings(settings_for_here(log_directory=str(fake_slurm / "logs")))
    with open_executor(slurm=path) as executor:
        outcomes = list(executor.map(where, range(12), describe="squares"))
        (job,) = (int(text) for text in (fake_slurm / "jobs").read_text().split())
        assert group_lives(job)
    assert [outcome.value for outcome in outcomes] == [(item**2, "1", job) for item in range(12)]
    assert executor.n_workers == 2
    for _ in range(100):  # killed, but perhaps not yet gone
        if not group_lives(job):
            break
        time.sleep(0.1)
    assert not group_lives(job)
    assert (fake_slurm / "logs").is_dir()


@pytest.mark.slow
def test_workers_stop_in_time_and_their_job_is_replaced(write_settings, fake_slurm, monkeypatch):
    def nap(item):
        time.sleep(0.5)
        return item, os.getpgid(0)

    monkeypatch.setattr(slurm, "_ENDED_AFTER_S", 1.0)
    times = {"walltime": "0:15", "margin_minutes": 0.05, "stagger_minutes": 0.02}
    with open_executor(slurm=write_settings(settings_for_here(**times))) as executor:
        outcomes = list(executor.map(nap, range(80), describe="naps"))
    assert [outcome.value[0] for outcome in outcomes] == list(range(80))
    jobs = {int(text) for text in (fake_slurm / "jobs").read_text().split()}
    assert {outcome.value[1] for outcome in outcomes} == jobs
    assert len(jobs) >= 2


class StandInCluster:
    """Jobs a and b of two workers each; records the requests."""

    def __init__(self):
        self.worker_spec = {"jobs-0": {}, "jobs-1": {}}
        self.scheduler_info = {"workers": {}}
        self.asked = []

    def show(self, *names):
        self.scheduler_info["workers"] = {name: {"name": name} for name in names}

    def scale_down(self, names):
        self.asked.append(names)
        for name in names:
            del self.worker_spec[name]

    def sync(self, function, *arguments):
        function(*arguments)

    def scale(self, jobs):
        self.asked.append(jobs)


def test_only_jobs_that_had_workers_and_lost_all_of_them_are_replaced():
    cluster, clock = StandInCluster(), SimpleNamespace(now=0.0)
    keep = JobKeeper(cluster, 2, clock=lambda: clock.now)
    for now, names in [(0, ()), (500, ("jobs-0-0", "jobs-0-1")), (600, ("jobs-0-1",)), (610, ()), (620, ())]:
        clock.now = now
        cluster.show(*names)
        keep()
    assert cluster.asked == []  # jobs-1 waits in the queue, jobs-0 may be back: a worker that died takes seconds
    clock.now = 631
    keep()
    assert cluster.asked == [["jobs-0"], 2]
    clock.now = 1000
    keep()
    assert cluster.asked == [["jobs-0"], 2]


def test_job_of_one_worker_has_the_name_of_its_worker():
    cluster, clock = StandInCluster(), SimpleNamespace(now=0.0)
    keep = JobKeeper(cluster, 2, clock=lambda: clock.now)
    cluster.show("jobs-0")
    keep()
    cluster.show()
    clock.now = 40
    keep()
    assert cluster.asked == [["jobs-0"], 2]

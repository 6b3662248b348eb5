"""Run workers as SLURM jobs: settings from a TOML file, the job script, and new jobs in place of those that end.

The scheduler runs in the command's process and ends with it. So the compute nodes must be able to reach that process,
which usually runs on a login node or in its own small job.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from shutterless.pipeline.settings import Count, CountFrom0, NotNegative, Positive, settings_class, validate_settings
from shutterless.workflows.settings.settings import read_toml

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster

_WALLTIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
# a worker whose process died is back within seconds; a job that is gone stays away
_ENDED_AFTER_S = 30.0
_SUBMIT_TIMEOUT_S = 60
JOB_LOGS = "jobs"
_UNKNOWN_ADDRESS = "tcp://ADDRESS-OF-THIS-COMMAND:PORT"


class SlurmError(OSError):
    """A SLURM cluster that accepts no jobs from this machine."""


@settings_class()
class SlurmSettings:
    """One job of ``cores`` worker processes with one thread each, submitted ``jobs`` times.

    Every worker stops by itself ``margin_minutes`` before the wall time or up to twice ``stagger_minutes`` earlier,
    each at a different time. It finishes its item or passes it to another worker. The margin must be longer than one
    amplifier takes. Ended jobs are submitted again until the work is done.
    """

    jobs: Count
    cores: Count
    memory: str
    walltime: str
    queue: str | None = None
    account: str | None = None
    job_name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "shutterless"
    job_extra_directives: tuple[str, ...] = ()
    job_script_prologue: tuple[str, ...] = ()
    python: str | None = None
    interface: str | None = None
    local_directory: str | None = None
    log_directory: str | None = None
    worker_extra_args: tuple[str, ...] = ()
    margin_minutes: Positive = 10.0
    stagger_minutes: NotNegative = 5.0
    death_timeout_s: Positive = 120.0
    wait_hours: Positive = 24.0
    allowed_failures: CountFrom0 = 5

    @model_validator(mode="after")
    def _check_times(self) -> SlurmSettings:
        _check_memory(self.memory)
        if self.lifetime_s - self.stagger_s <= 0:
            raise ValueError(
                f"walltime {self.walltime} leaves no time to work: workers would stop {self.margin_minutes:g} minutes "
                f"(margin_minutes) and up to twice {self.stagger_minutes:g} (stagger_minutes) before it; raise the "
                "wall time or lower these"
            )
        return self

    @property
    def stagger_s(self) -> float:
        """Seconds by which a worker's lifetime differs from the others' at most."""
        return 60 * self.stagger_minutes

    @property
    def lifetime_s(self) -> float:
        """Middle of the workers' lifetimes; the longest ends a margin before the wall time."""
        return walltime_seconds(self.walltime) - 60 * self.margin_minutes - self.stagger_s


def load_slurm(path: str | Path, out: Path | None = None) -> SlurmSettings:
    """Read the settings of ``--slurm``.

    Parameters
    ----------
    path : path
    out : Path, optional
        Folder of the command's results: logs of jobs go to `JOB_LOGS` in it if the file names no ``log_directory``.

    Raises
    ------
    SettingsError
        For a file that cannot be read, an unknown key (with the nearest known one) or an invalid value.
    """
    settings = validate_settings(SlurmSettings, read_toml(Path(path)), str(path))
    if settings.log_directory is None and out is not None:
        return replace(settings, log_directory=str(Path(out).absolute() / JOB_LOGS))
    return settings


def walltime_seconds(text: str) -> int:
    """Seconds of a wall time of SLURM: ``MM``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``.

    Raises
    ------
    ValueError
        For any other text.
    """
    match = _WALLTIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"walltime {text!r}: expected HH:MM:SS or D-HH:MM:SS, for example 04:00:00")
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None or len(numbers) == 3:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, seconds = (0, *numbers, 0)[:3]
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + seconds


def _check_memory(text: str) -> None:
    """Refuse a size of memory that cannot be read.

    Raises
    ------
    ValueError
        For anything but a positive number with a unit.
    """
    from dask.utils import parse_bytes

    try:
        n_bytes = parse_bytes(text)
    except ValueError:
        n_bytes = 0
    if n_bytes < 1e6:  # "64", meant to be GB
        raise ValueError(f"memory {text!r}: expected the size of one job with its unit, for example 64GB")


def job_script(settings: SlurmSettings, environment: Mapping[str, str]) -> str:
    """Text of the script that would be submitted for each job; nothing is started or written.

    Raises
    ------
    SlurmError
        If dask-jobqueue is not installed.
    """
    _require_jobqueue()
    from dask_jobqueue.slurm import SLURMJob

    return SLURMJob(_UNKNOWN_ADDRESS, name=settings.job_name, **_job_options(settings, environment)).job_script()


@contextmanager
def start_jobs(settings: SlurmSettings, environment: Mapping[str, str]) -> Iterator[tuple[SLURMCluster, JobKeeper]]:
    """Submit the jobs, and cancel the remaining ones at the end.

    Yields
    ------
    cluster : SLURMCluster
        Its scheduler runs in this process; workers arrive when SLURM starts the jobs.
    keeper : JobKeeper
        Call it regularly.

    Raises
    ------
    SlurmError
        If dask-jobqueue is not installed, or SLURM is not on this machine or refuses the script.
    """
    script = job_script(settings, environment)
    if settings.log_directory is not None:  # SLURM drops a job without a message if it cannot write the log
        Path(settings.log_directory).mkdir(parents=True, exist_ok=True)
    _check_submission(script)
    from dask_jobqueue import SLURMCluster

    options = _job_options(settings, environment)
    with SLURMCluster(
        scheduler_options={"dashboard_address": "127.0.0.1:0"}, silence_logs="critical", **options
    ) as cluster:
        cluster.scale(jobs=settings.jobs)
        yield cluster, JobKeeper(cluster, settings.jobs)


def _check_submission(script: str) -> None:
    """Ask SLURM whether it would take a script, without submitting it.

    Raises
    ------
    SlurmError
        If it would not, with SLURM's message, or if SLURM is not on this machine.
    """
    if shutil.which("sbatch") is None:
        raise SlurmError("sbatch is not on this machine: --slurm works where jobs can be submitted (a login node)")
    done = subprocess.run(
        ["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=_SUBMIT_TIMEOUT_S, check=False
    )
    if done.returncode:
        reply = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise SlurmError(f"SLURM refuses the job: {reply}; see the script with --dry-run and correct the --slurm file")


class JobKeeper:
    """Submits new jobs for those that ended at their wall time or with their node.

    dask-jobqueue does not notice the end of a job of several processes (its workers' names are not the job's).

    Parameters
    ----------
    cluster : SLURMCluster
    jobs : int
        Number of jobs to maintain.
    clock : callable, optional
        Returns seconds that only grow; set in tests.
    """

    def __init__(self, cluster: Any, jobs: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._clock = clock
        self._last_seen: dict[str, float] = {}  # jobs that have had a worker; others wait in the queue

    def __call__(self) -> None:
        """Replace the jobs that have had no worker for a while."""
        now = self._clock()
        known = set(self._cluster.worker_spec)
        names = {str(worker["name"]) for worker in self._cluster.scheduler_info["workers"].values()}
        alive = {name if name in known else name.rpartition("-")[0] for name in names}
        self._last_seen.update(dict.fromkeys(alive & known, now))
        ended = [name for name, seen in self._last_seen.items() if now - seen > _ENDED_AFTER_S]
        if ended:
            for name in ended:
                del self._last_seen[name]
            self._cluster.sync(self._cluster.scale_down, [name for name in ended if name in known])
            self._cluster.scale(jobs=self._jobs)


def _job_options(settings: SlurmSettings, environment: Mapping[str, str]) -> dict[str, Any]:
    """Keywords of dask-jobqueue. They override its configuration files where these could undo the lifetime."""
    name = settings.job_name
    folder = settings.log_directory
    logs = [] if folder is None else [f"-o {shlex.quote(f'{folder}/{name}-%J.out')}"]
    lifetime = ["--lifetime", f"{settings.lifetime_s:.0f}s", "--lifetime-stagger", f"{settings.stagger_s:.0f}s"]
    return {
        "cores": settings.cores,
        "processes": settings.cores,  # one thread each: the numerical code holds the interpreter's lock
        "memory": settings.memory,
        "walltime": settings.walltime,
        "queue": settings.queue,
        "account": settings.account,
        "job_name": name,
        "job_extra_directives": [*logs, *settings.job_extra_directives],
        "job_script_prologue": [
            *(f"export {key}={shlex.quote(value)}" for key, value in environment.items()),
            *settings.job_script_prologue,
        ],
        "python": settings.python or shlex.quote(sys.executable),
        "interface": settings.interface,
        "local_directory": settings.local_directory,  # this and the next are not quoted: $TMPDIR is set in the job
        "death_timeout": f"{settings.death_timeout_s:g}",
        "worker_extra_args": [*lifetime, *settings.worker_extra_args],
    }


def _require_jobqueue() -> None:
    try:
        import dask_jobqueue  # noqa: F401
    except ImportError as error:
        raise SlurmError("--slurm needs dask-jobqueue: install it with pip install 'shutterless[slurm]'") from error

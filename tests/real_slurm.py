"""Start a SLURM of Debian's packages on this machine alone: one controller, one node, munge; all files in one folder.

Needs root and ``apt-get install slurmctld slurmd slurm-client munge``. The names of its programs find it by SLURM_CONF.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scancel", "squeue", "sinfo", "munged")
_START_S = 60.0
_CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} CoresPerSocket={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    """Whether SLURM and munge are here, and may be started."""
    return os.geteuid() == 0 and all(shutil.which(name, path=_path()) for name in PROGRAMS)


@contextmanager
def running_slurm(folder: Path, cpus: int = 4) -> Iterator[dict[str, str]]:
    """Start it, and yield the environment in which its programs find it; end it with all of its jobs."""
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(folder=folder, host=host, cpus=cpus, **ports))
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    whole = {**os.environ, **environment}
    munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("key-file", "socket", "pid-file")]
    commands = [
        ["munged", "--foreground", "--force", *munge, f"--seed-file={folder}/seed", f"--log-file={folder}/munge.log"],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as output:
                started.append(subprocess.Popen(command, env=whole, stdout=output, stderr=subprocess.STDOUT))
            time.sleep(1)
        _wait_for_node(folder, whole)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=whole, check=False, capture_output=True)
        subprocess.run(["scancel", "--user=root"], env=whole, check=False, capture_output=True)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def jobs(environment: dict[str, str]) -> list[str]:
    """Numbers of the jobs that run."""
    whole = {**os.environ, **environment}
    done = subprocess.run(
        ["squeue", "-h", "-t", "R", "-o", "%i"], env=whole, check=True, capture_output=True, text=True
    )
    return done.stdout.split()


def _wait_for_node(folder: Path, environment: dict[str, str]) -> None:
    limit = time.monotonic() + _START_S
    while time.monotonic() < limit:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, check=False, capture_output=True, text=True, timeout=30
        )
        if "idle" in done.stdout:
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log")))
    raise RuntimeError(f"SLURM does not start:\n{logs}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"

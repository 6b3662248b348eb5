"""Processes that are started later do not hear Ctrl-C."""

from __future__ import annotations

import subprocess
import sys

SPAWN = """
import multiprocessing, signal
from shutterless.workflows.execution.workers import start_resource_tracker

def say():
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    start_resource_tracker()
    start_resource_tracker()
    process = multiprocessing.get_context("spawn").Process(target=say)
    process.start()
    process.join()
"""


def test_spawned_processes_inherit_the_blocked_ctrl_c(tmp_path):
    """Python 3.11 unblocks it where it starts the tracker itself."""
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"

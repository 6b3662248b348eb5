"""Ctrl-C: what is open is closed, processes end, one line says how to go on, and the exit code is 130."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
import typer

from shutterless.workflows import cli
from shutterless.workflows.commands.interrupts import EXIT_INTERRUPTED, KEEPING, RESUMABLE, describe_way_on

START = """
import subprocess, sys, time
from pathlib import Path
from shutterless.workflows.commands.interrupts import Interruption
interruption = Interruption(["search", "a.fits", "--out", "found"])
interruption.listen()
child = subprocess.Popen(["sleep", "100"])
folder = Path(sys.argv[1])
(folder / "child").write_text(str(child.pid))
try:
"""
END = """
finally:
    interruption.end_if_seen()
"""
SLEEPS = "    try:\n        time.sleep(100)\n    finally:\n        (folder / 'closed').touch()"
PRINTS_WHILE_DYING = (
    "    try:\n        time.sleep(100)\n    finally:\n        print('page ' * 999, file=sys.stderr)\n        1 / 0"
)
GOES_ON = (
    "    while True:\n        try:\n            time.sleep(100)\n        except KeyboardInterrupt:\n            pass"
)
COUNTS = "    number = 0\n    while True:\n        number += 1"
LINE = "interrupted; go on with: shutterless search a.fits --out found --resume\n"


@pytest.fixture(autouse=True)
def _interrupts_are_heard():
    """What a shell starts in the background ignores Ctrl-C, as do its children, unless somebody catches it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for(condition, seconds=30.0):
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for is dead."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def waits_for_ctrl_c(process: int) -> bool:
    """Whether a process has got as far as its first own line; Python itself takes some 20 ms before."""
    blocked = re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return blocked is not None and int(blocked[1], 16) >> (signal.SIGINT - 1) & 1 == 1


def start(body, folder, **options):
    """A process with a child, which does ``body``; returned once it does."""
    code = START + body + END
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], text=True, start_new_session=True, **options)
    wait_for(lambda: (folder / "child").is_file() and (folder / "child").read_text())
    time.sleep(0.3)
    return process


@pytest.mark.parametrize("body", [SLEEPS, PRINTS_WHILE_DYING, COUNTS])
def test_one_line_and_every_process_ends(body, tmp_path):
    process = start(body, tmp_path, stderr=subprocess.PIPE)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (EXIT_INTERRUPTED, LINE)
    wait_for(lambda: not is_alive(int((tmp_path / "child").read_text())))
    assert (tmp_path / "closed").exists() == (body == SLEEPS)


def test_a_second_one_ends_what_goes_on(tmp_path):
    process = start(GOES_ON, tmp_path, stderr=subprocess.PIPE)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (EXIT_INTERRUPTED, LINE)


def test_what_goes_on_is_ended_after_a_while(tmp_path):
    process = start(GOES_ON, tmp_path, stderr=subprocess.PIPE)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (EXIT_INTERRUPTED, LINE)


def test_whoever_ignores_the_signal_keeps_ignoring_it(tmp_path):
    """As with nohup, or in the background of a script."""
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    process = start(SLEEPS, tmp_path, stderr=subprocess.PIPE, preexec_fn=ignore)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def press_ctrl_c(arguments, delay_s, folder):
    """Exit code and lines of a command in a terminal of its own in which Ctrl-C is pressed after some seconds."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "shutterless.workflows.cli", *map(str, arguments)],
        stdin=terminal, stdout=subprocess.DEVNULL, stderr=terminal, start_new_session=True, cwd=folder,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)
    wait_for(lambda: waits_for_ctrl_c(process.pid))
    time.sleep(delay_s)
    os.write(controller, b"\x03")
    said = b""
    with closing(os.fdopen(controller, "rb", buffering=0)) as stream, suppress(OSError):  # the terminal is closed
        while piece := stream.read(4096):
            said += piece
    after = said.decode().rpartition("^C")[2].replace("\r", "\n").replace("\x1b[2K", "").replace("\x1b[?25h", "")
    return process.wait(timeout=60), [line for line in after.split("\n") if line]


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 6.0])
def test_watch_in_a_terminal(delay_s, tmp_path, monkeypatch):
    """While modules are imported, and while it waits for files."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "night").mkdir()
    code, lines = press_ctrl_c(["watch", "night", "--model", "template-bank", "--no-dask"], delay_s, tmp_path)
    assert code == EXIT_INTERRUPTED
    assert lines[-1] == "interrupted; go on with: shutterless watch night --model template-bank --no-dask"
    assert len(lines) <= 3


def test_which_commands_go_on():
    group = typer.main.get_command(cli.app)
    with_resume = {
        name for name, command in group.commands.items() if any(option.name == "resume" for option in command.params)
    }
    assert with_resume == RESUMABLE
    assert set(group.commands) >= KEEPING


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["search", "my frame.fits"], "interrupted; go on with: shutterless search 'my frame.fits' --resume"),
        (["ingest", "a.fits", "--resume"], "interrupted; go on with: shutterless ingest a.fits --resume"),
        (["tune", "store"], "interrupted; go on with: shutterless tune store"),
        (["run"], "interrupted; start again with: shutterless run"),
        (["search", *(f"{n}.fits" for n in range(99))], "interrupted; go on with: the same command with --resume"),
        (["run", "x" * 400], "interrupted; start again with: the same command"),
        ([], "interrupted; start again with: shutterless"),
    ],
)
def test_the_line(arguments, line):
    assert describe_way_on(arguments) == line

"""End any command at Ctrl-C: workers end, one line says how to go on, the exit code is 130. Imports nothing heavy.

SIGINT is blocked in the main thread, so that every thread and process started later inherits the block: no worker is
hit by the Ctrl-C of a terminal, which goes to all of its processes, and none prints a traceback of its own. One thread
waits for the signal. It raises KeyboardInterrupt in the main thread, which closes what is open: runs of MLflow, jobs of
SLURM, workers. What is not closed after `MOST_CLOSING_S`, or at a second Ctrl-C, is ended without mercy. Nothing is
printed meanwhile, since a dying library prints pages.
"""

from __future__ import annotations

import _thread
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

EXIT_INTERRUPTED = 130  # exit code: 128 and the number of SIGINT
MOST_CLOSING_S = 5.0
RESUMABLE = frozenset({"search", "ingest", "lightcurve", "pretrain"})  # commands with --resume
KEEPING = frozenset({"watch", "tune"})  # commands that go on from what their folder holds
_LONGEST = 400  # letters of a command that is repeated in whole
_CLEAR_LINE, _SHOW_CURSOR = "\r\x1b[2K", "\x1b[?25h"


def describe_way_on(arguments: Sequence[str]) -> str:
    """Say in one line how an interrupted command goes on.

    Parameters
    ----------
    arguments : sequence of str
        Of the command line, the name of the command first.
    """
    command = next((word for word in arguments if not word.startswith("-")), "")
    resumes = command in RESUMABLE and "--resume" not in arguments
    whole = shlex.join(["shutterless", *arguments, *(["--resume"] if resumes else [])])
    if len(whole) > _LONGEST:
        whole = "the same command" + (" with --resume" if resumes else "")
    verb = "go on with" if command in RESUMABLE | KEEPING else "start again with"
    return f"interrupted; {verb}: {whole}"


class Interruption:
    """Waits for Ctrl-C while a command runs.

    Parameters
    ----------
    arguments : sequence of str
        As `describe_way_on`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self._main = threading.get_ident()
        self._seen, self._ending = threading.Event(), threading.Lock()
        self._terminal = 2

    def listen(self) -> None:
        """Start to wait, unless whoever started this process wants SIGINT to be ignored.

        Ctrl-C may be raised before this returns.
        """
        if hasattr(signal, "sigwait") and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            signal.signal(signal.SIGURG, _do_nothing)  # wakes the main thread from a system call
            threading.Thread(target=self._wait, name="Ctrl-C", daemon=True).start()

    def end_if_seen(self) -> None:
        """End this process if Ctrl-C was pressed; does not return then."""
        if self._seen.is_set():
            self._end()

    def _wait(self) -> None:
        signal.sigwait({signal.SIGINT})
        self._terminal = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        self._seen.set()
        _thread.interrupt_main()
        signal.pthread_kill(self._main, signal.SIGURG)
        signal.sigtimedwait({signal.SIGINT}, MOST_CLOSING_S)
        self._end()

    def _end(self) -> None:
        self._ending.acquire()  # never released: this process ends here
        for process in _descendants(os.getpid()):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        line = describe_way_on(self._arguments) + "\n"
        if os.isatty(self._terminal):
            line = _CLEAR_LINE + _SHOW_CURSOR + line
        with suppress(OSError):
            os.write(self._terminal, line.encode())
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)


def _do_nothing(*_: object) -> None:
    """Handler of a signal that only wakes a thread."""


def _descendants(process: int) -> list[int]:
    """Processes that a process started, and those that they started, on Linux; but for Python's own tracker.

    The tracker removes shared memory and ends by itself.
    """
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if b"resource_tracker" not in (folder / "cmdline").read_bytes():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(folder.name))
    found, new = [], [process]
    while new:
        new = [child for parent in new for child in parents.get(parent, [])]
        found += new
    return found

"""Press Ctrl-C at random moments of each command, in a true terminal, and look at what is left.

    python benchmarks/interrupts.py --moments 30

A row per command: how often it was stopped, its exit codes, the most lines after ^C, tracebacks, processes left behind,
and whether --resume gave the same table to the bit. It simulates its own small frames; 30 moments take over an hour.
"""

from __future__ import annotations

import argparse
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SHUTTERLESS = [sys.executable, "-m", "shutterless.workflows.cli"]
SMALL = ["--set", "train.n_examples=400", "--set", "train.epochs=1"]
COMMANDS = {
    "search": ["search", "night", "--model", "template-bank", "--workers", "2", "--out", "OUT"],
    "ingest": ["ingest", "night", "--out", "OUT"],
    "train": ["train", "store", "--model", "mlp", "--out", "OUT", "--tracking", "runs", *SMALL],
    "tune": ["tune", "store", "--out", "OUT", "--tracking", "runs", *SMALL, "--set", "tune.trials=3",
             "--set", "tune.families=['mlp']"],
    "watch": ["watch", "night", "--model", "template-bank", "--out", "OUT"],
    "serve": ["serve", "--port", "0"],
    "run": ["run", "--out", "OUT", "--no-dask"],
}  # fmt: skip
RESULTS = {"search": "candidates.parquet", "ingest": "manifest.parquet"}  # compared after --resume
ENDLESS_S = 25.0  # moments of commands that do not end by themselves lie within so many seconds
PATIENCE_S = 60.0
_LINES, _LINE = 6, 160  # of what a command said, and characters of each
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass
class Stopped:
    """One command that was run in a terminal: its exit code, what it printed after ^C, and processes left."""

    code: int
    seconds: float
    after: str
    left: list[str]


@dataclass
class Tally:
    """What was seen of one command."""

    codes: Counter[int] = field(default_factory=Counter)
    most_lines: int = 0
    tracebacks: int = 0
    left: int = 0
    same: int = 0
    resumed: int = 0


def run_in_terminal(arguments: list[str], folder: Path, press_after: float | None) -> Stopped:
    """Run a command in a terminal of its own, and press Ctrl-C after some seconds."""
    started = time.monotonic()
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.execv(sys.executable, [*SHUTTERLESS, *arguments])
    text, pressed_at, ended_at, status = "", None, None, 0
    while ended_at is None or time.monotonic() - started < ended_at + 0.5:  # whoever is left may hold the terminal
        now = time.monotonic() - started
        if ended_at is None and (found := os.waitpid(process, os.WNOHANG))[0]:
            ended_at, status = now, found[1]
        if press_after is not None and pressed_at is None and now >= press_after:
            with suppress(OSError):
                os.write(terminal, b"\x03")
            pressed_at, text = now, ""
        if ended_at is None and pressed_at is not None and now - pressed_at > PATIENCE_S:
            os.kill(process, signal.SIGKILL)
        if select.select([terminal], [], [], 0.02)[0]:
            with suppress(OSError):  # the terminal is closed when its last process ends
                text += os.read(terminal, 1 << 16).decode(errors="replace")
    os.close(terminal)
    code = os.waitstatus_to_exitcode(status)
    return Stopped(code, ended_at, _CONTROL.sub("", text), processes_of(process))


def processes_of(session: int) -> list[str]:
    """Names of the living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " ")[:80])
    return found


def prepare(folder: Path) -> None:
    """Frames and a store, small enough for a command to take seconds."""
    for arguments in (
        ["simulate", "--out", "night", "--rows", "4000", "--files", "2", "--seed", "3"],
        ["simulate", "--out", "quiet", "--rows", "4000", "--events", "0", "--seed", "4", "--sequence", "quiet"],
        ["ingest", "quiet", "--out", "store", "--no-dask"],
    ):
        subprocess.run([*SHUTTERLESS, *arguments], cwd=folder, check=True, capture_output=True)


def with_out(arguments: list[str], out: str) -> list[str]:
    """Arguments with a folder of their own."""
    return [out if word == "OUT" else word for word in arguments]


def judge(name: str, folder: Path, moments: int, rng: random.Random) -> Tally:
    """Stop one command at random moments of its life."""
    arguments, tally = COMMANDS[name], Tally()
    lasts, wanted = ENDLESS_S, b""
    if name in RESULTS:
        run_in_terminal(with_out(arguments, f"{name}-first"), folder, None)  # compiles what the others find compiled
        whole = run_in_terminal(with_out(arguments, f"{name}-whole"), folder, None)
        lasts, wanted = whole.seconds, (folder / f"{name}-whole" / RESULTS[name]).read_bytes()
    for number in range(moments):
        out = f"{name}-{number}"
        moment = rng.uniform(0, lasts)
        stopped = run_in_terminal(with_out(arguments, out), folder, moment)
        lines = [line for line in stopped.after.replace("^C", "").splitlines() if line.strip()]
        if stopped.code != 0:
            tally.most_lines = max(tally.most_lines, len(lines))
        tally.codes[stopped.code] += 1
        tally.tracebacks += "Traceback" in stopped.after
        tally.left += len(stopped.left)
        if stopped.code not in (0, 130) or (stopped.code and len(lines) > 3) or stopped.left:
            said = [line[-_LINE:] for line in lines[:_LINES]]
            print(f"{name} at {moment:.2f} s: exit {stopped.code}, {stopped.left}, said {said}", flush=True)
        if name in RESULTS and stopped.code != 0:
            subprocess.run([*SHUTTERLESS, *with_out(arguments, out), "--resume"], cwd=folder, capture_output=True)
            tally.resumed += 1
            tally.same += (folder / out / RESULTS[name]).read_bytes() == wanted
    return tally


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, rng = Path(scratch), random.Random(options.seed)
        prepare(folder)
        for name in options.commands:
            seen = judge(name, folder, options.moments, rng)
            codes = ", ".join(f"{code}: {n}" for code, n in sorted(seen.codes.items()))
            same = f", resumed alike {seen.same} of {seen.resumed}" if name in RESULTS else ""
            print(
                f"{name}: exit codes {{{codes}}}, most lines {seen.most_lines}, tracebacks {seen.tracebacks}, "
                f"processes left {seen.left}{same}",
                flush=True,
            )


if __name__ == "__main__":
    main()

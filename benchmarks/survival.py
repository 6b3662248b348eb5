"""Kill workers and drivers at random times, resume, and compare what is left with an undisturbed run, to the bit.

    python benchmarks/survival.py --kills 30

Every kill happens in a run of its own: of `search`, whose table of candidates is compared, and of `ingest`, whose
content hashes are. Drivers are killed with SIGKILL at a random time and started again with ``--resume``; of workers one
is killed at a random time while its driver goes on. Without ``--frames`` two sequences of three short files are
simulated.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil

MAIN = "from shutterless.workflows.cli import main; main()"


def start(command: str, files: list[Path], out: Path, options: list[str], *, resume: bool) -> subprocess.Popen:
    """Begin a command with two workers in a process group of its own."""
    model = ["--model", "template-bank"] if command == "search" else []
    words = [command, *map(str, files), "--out", str(out), "--workers", "2", "--quiet", *model, *options]
    words += ["--resume"] if resume else []
    return subprocess.Popen([sys.executable, "-c", MAIN, *words], start_new_session=True)


def finish(process: subprocess.Popen) -> None:
    """Wait for a command that is expected to succeed."""
    if process.wait() != 0:
        raise SystemExit(f"{process.args} ended with {process.returncode}")


def results(command: str, out: Path) -> tuple[pd.DataFrame, bytes]:
    """What must not depend on kills: a table, and bytes."""
    if command == "search":
        return pd.read_parquet(out / "candidates.parquet"), (out / "candidates.ecsv").read_bytes()
    return pd.read_parquet(out / "manifest.parquet"), b""


def is_same(found: tuple[pd.DataFrame, bytes], wanted: tuple[pd.DataFrame, bytes]) -> bool:
    """Whether two results agree to the bit."""
    return found[1] == wanted[1] and found[0].equals(wanted[0])


def kill_driver(process: subprocess.Popen, after_s: float) -> bool:
    """Kill a driver after some time; whether it was still running. Its workers are to notice by themselves."""
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True


def kill_worker(process: subprocess.Popen, after_s: float, rng: random.Random) -> bool:
    """Kill one of the workers of a driver after some time; whether there was one."""
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if workers:
            os.kill(rng.choice(workers).pid, signal.SIGKILL)
        return bool(workers)


def survive(
    command: str, who: str, kills: int, files: list[Path], options: list[str], folder: Path, rng: random.Random
) -> tuple[int, int]:
    """Run so many times with one kill each; how many hit, and how many of these left what an undisturbed run leaves."""
    began = time.perf_counter()
    finish(start(command, files, folder / "whole", options, resume=False))
    duration_s = time.perf_counter() - began
    wanted = results(command, folder / "whole")
    hit = same = 0
    for _ in range(kills):
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        process = start(command, files, out, options, resume=False)
        after_s = rng.uniform(0.2, 1.0) * duration_s
        if who == "driver":
            hit += kill_driver(process, after_s)
            finish(start(command, files, out, options, resume=True))
        else:
            hit += kill_worker(process, after_s, rng)
            finish(process)
        same += is_same(results(command, out), wanted)
    shutil.rmtree(folder / "whole")
    return hit, same


def simulate(folder: Path) -> list[Path]:
    """Two sequences of three files of 3,000 rows."""
    for sequence, seed in (("first", 1), ("second", 2)):
        words = ["simulate", "--out", str(folder / sequence), "--rows", "3000", "--files", "3", "--seed", str(seed)]
        subprocess.run([sys.executable, "-c", MAIN, *words, "--sequence", sequence, "--quiet"], check=True)
    return sorted(folder.rglob("*.fits.fz"))


def main() -> None:
    """Print how many kills were survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=Path, nargs="*")
    parser.add_argument("--options", nargs="*", default=[], help="further options of both commands, without dashes")
    parser.add_argument("--commands", nargs="*", default=["search", "ingest"])
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    options = [f"--{option}" if i % 2 == 0 else option for i, option in enumerate(arguments.options)]
    run: Callable[..., tuple[int, int]] = survive
    n_different = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = arguments.frames or simulate(folder / "frames")
        for command in arguments.commands:
            for who in ("driver", "worker"):
                hit, same = run(command, who, arguments.kills, files, options, folder, rng)
                n_different += arguments.kills - same
                print(f"{command}: {arguments.kills} kills of a {who}, {hit} while it ran: {same} the same to the bit")
    raise SystemExit(n_different)


if __name__ == "__main__":
    main()

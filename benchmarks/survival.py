"""Kill workers and drivers at random times, resume, and compare the results with an undisturbed run, to the bit.

    python benchmarks/survival.py --kills 30
    python benchmarks/survival.py --kills 5 --commands search --frames *.fits --options instrument camera.toml

Every kill is in its own run: of `search`, whose table of candidates is compared, or of `ingest`, whose content hashes
are compared. A driver is killed with SIGKILL at a random time and restarted with ``--resume``. A worker is killed at a
random time while its driver continues. A run that ends before its kill is compared as well, but does not count, and
another one follows. Without ``--frames`` two sequences of three short files are simulated. With ``--workers 0`` the
commands run in one process, and only that is killed. The exit code is the number of runs with other results.
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
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

MAIN = "from shutterless.workflows.cli import main; main()"


def start(command: str, files: list[Path], out: Path, options: list[str], *, resume: bool) -> subprocess.Popen:
    """Start a command in a new process group."""
    model = ["--model", "template-bank"] if command == "search" else []
    words = [command, *map(str, files), "--out", str(out), "--quiet", *model, *options]
    words += ["--resume"] if resume else []
    return subprocess.Popen([sys.executable, "-c", MAIN, *words], start_new_session=True)


def finish(process: subprocess.Popen) -> None:
    """Wait for a command that must succeed."""
    if process.wait() != 0:
        raise SystemExit(f"{process.args} ended with {process.returncode}")


def results(command: str, out: Path) -> tuple[pd.DataFrame, bytes]:
    """Results that must not depend on kills: a table, and bytes."""
    if command == "search":
        return pd.read_parquet(out / "candidates.parquet"), (out / "candidates.ecsv").read_bytes()
    return pd.read_parquet(out / "manifest.parquet"), b""


def is_same(found: tuple[pd.DataFrame, bytes], wanted: tuple[pd.DataFrame, bytes]) -> bool:
    """Whether two results agree to the bit."""
    return found[1] == wanted[1] and found[0].equals(wanted[0])


def kill_driver(process: subprocess.Popen, after_s: float) -> bool:
    """Kill a driver after some time; return whether it was still running. Its workers must notice by themselves."""
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True


def kill_worker(process: subprocess.Popen, after_s: float, rng: random.Random) -> bool:
    """Kill one of the workers of a driver after some time; return whether there was one."""
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        try:
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            if workers:
                os.kill(rng.choice(workers).pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):  # it has ended in the meantime
            return False
        return bool(workers)


@dataclass(frozen=True)
class Undisturbed:
    """Results and duration of a run without kills."""

    wanted: tuple[pd.DataFrame, bytes]
    duration_s: float

    @classmethod
    def run(cls, command: str, files: list[Path], options: list[str], out: Path) -> Undisturbed:
        """Run a command twice and time the second run, because the first may compile functions."""
        finish(start(command, files, out, options, resume=False))
        shutil.rmtree(out)
        began = time.perf_counter()
        finish(start(command, files, out, options, resume=False))
        return cls(results(command, out), time.perf_counter() - began)


def survive(
    command: str, who: str, kills: int, files: list[Path], options: list[str], out: Path, whole: Undisturbed,
    rng: random.Random,
) -> tuple[int, int, int]:  # fmt: skip
    """Run until the given number of kills: return the numbers of runs, of kills, and of runs with the same results."""
    hit = same = runs = 0
    while hit < kills and runs < 3 * kills:
        runs += 1
        shutil.rmtree(out, ignore_errors=True)
        process = start(command, files, out, options, resume=False)
        after_s = rng.uniform(0.1, 1.0) * whole.duration_s
        if who == "driver":
            hit += kill_driver(process, after_s)
            finish(start(command, files, out, options, resume=True))
        else:
            hit += kill_worker(process, after_s, rng)
            finish(process)
        same += is_same(results(command, out), whole.wanted)
    return runs, hit, same


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
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--commands", nargs="*", default=["search", "ingest"])
    parser.add_argument("--who", nargs="*", default=["driver", "worker"])
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    options = [f"--{option}" if i % 2 == 0 else option for i, option in enumerate(arguments.options)]
    options += ["--workers", str(arguments.workers)] if arguments.workers else ["--no-dask"]
    n_different = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = arguments.frames or simulate(folder / "frames")
        for command in arguments.commands:
            whole = Undisturbed.run(command, files, options, folder / f"{command}_whole")
            for who in arguments.who if arguments.workers else ["driver"]:
                runs, hit, same = survive(command, who, arguments.kills, files, options, folder / "killed", whole, rng)
                n_different += runs - same
                print(
                    f"{command}: {runs} runs of {whole.duration_s:.1f} s, a {who} killed in {hit}:"
                    f" {same} the same to the bit",
                    flush=True,
                )
    raise SystemExit(min(n_different, 255))  # the largest exit code


if __name__ == "__main__":
    main()

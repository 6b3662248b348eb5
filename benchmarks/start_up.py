"""Measure start-up times: imports, help, a dry run, opening workers, the first search of a small frame.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --cold

Every line is its own process, timed from call to exit unless stated otherwise. Given are the smallest and the median
time of the repetitions, which take turns so that a change of the machine's speed affects all alike. An interpreter that
does nothing is the lower limit. The first search is that of 2,000 rows of one simulated CCD with compiled functions in
Numba's cache. "the same again" is a second search in the same process, when everything is imported and loaded. With
--cold the search is repeated with an empty cache in a temporary folder, and the compilation time of each function is
listed: ``own_s`` without the functions that it calls, which are compiled first, ``with_callees_s`` with them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

ROWS = 2000
MODELS = ("template-bank", "bundled")
COMPILE_COLUMNS = ["function", "signatures", "own_s", "with_callees_s"]
PYTHON = [sys.executable, "-W", "ignore"]
COMMAND = [*PYTHON, "-m", "shutterless.workflows.cli"]
PIPELINE = """
import importlib, pkgutil
import shutterless.pipeline
for module in pkgutil.walk_packages(shutterless.pipeline.__path__, "shutterless.pipeline."):
    importlib.import_module(module.name)
"""
OPEN_WORKERS = """
import time
from shutterless.workflows.execution.cluster import open_executor
if __name__ == "__main__":
    started = time.perf_counter()
    with open_executor(2, None, False) as executor:
        list(executor.map(abs, [1, 2], describe="first items"))
        print("seconds", time.perf_counter() - started, sep="\t")
"""
SEARCH = """
import sys, time
from pathlib import Path
started = time.perf_counter()
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import load_settings
frame, out, model = sys.argv[1:]
print("  of it imports", time.perf_counter() - started, sep="\t")
for part in ("the first search", "the same again"):
    started = time.perf_counter()
    options = {"settings": load_settings().search, "executor": SerialExecutor()}
    search_files([frame], reference=model, out=Path(out) / part, **options)
    print("  of it " + part, time.perf_counter() - started, sep="\t")
"""


def run_timed(command: list[str], environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Seconds that a command takes, and its output."""
    started = time.perf_counter()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    taken = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return taken, done.stdout


def seconds_of(what: str, command: list[str]) -> dict[str, float]:
    """Seconds by label: those that a command prints after a tabulator, or else its run time."""
    taken, printed = run_timed(command)
    own = dict(line.split("\t") for line in printed.splitlines() if "\t" in line)
    if "seconds" in own:
        return {what: float(own["seconds"])}
    return {what: taken} if not own else {name: float(seconds) for name, seconds in own.items()}


def simulate_frame(folder: Path) -> Path:
    """Write a small frame."""
    run_timed([*COMMAND, "simulate", "--out", str(folder), "--rows", str(ROWS), "--no-dask", "--quiet"])
    return next(folder.glob("*.fits.fz"))


def commands(frame: Path, folder: Path) -> dict[str, list[str]]:
    """Timed commands by their label in the table."""
    script = folder / "open_workers.py"
    script.write_text(OPEN_WORKERS)
    return {
        "python, nothing": [*PYTHON, "-c", ""],
        "import numpy, scipy.special, numba, pandas, astropy.io.fits": [
            *PYTHON, "-c", "import numpy, scipy.special, numba, pandas, astropy.io.fits",
        ],
        "import shutterless.pipeline": [*PYTHON, "-c", "import shutterless.pipeline"],
        "import shutterless.pipeline and all its modules": [*PYTHON, "-c", PIPELINE],
        "import torch": [*PYTHON, "-c", "import torch"],
        "import shutterless.models.families": [*PYTHON, "-c", "import shutterless.models.families"],
        "shutterless --help": [*COMMAND, "--help"],
        "shutterless search --dry-run": [*COMMAND, "search", str(frame), "--dry-run"],
        "two local workers (after imports)": [*PYTHON, str(script)],
    }  # fmt: skip


def search_command(frame: Path, out: Path, model: str) -> list[str]:
    """Search a frame in one process."""
    return [*COMMAND, "search", str(frame), "--out", str(out), "--model", model, "--no-dask", "--quiet"]


def measure(repetitions: int = 3, *, cold: bool = False) -> pd.DataFrame:
    """Measure everything.

    Returns
    -------
    DataFrame
        ``what``, ``smallest_s``, ``median_s``, ``n``. With ``cold`` its ``attrs["compilation"]`` are the rows of a
        table of `COMPILE_COLUMNS`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        frame = simulate_frame(folder / "frames")
        tasks = commands(frame, folder)
        run_timed(search_command(frame, folder / "fill", "bundled"))  # fill the cache
        seconds: dict[str, list[float]] = {}
        for i in range(repetitions):
            for model in MODELS:
                tasks[f"shutterless search, {model}, warm"] = search_command(frame, folder / f"{model}-{i}", model)
            inside = [*PYTHON, "-c", SEARCH, str(frame), str(folder / f"inside-{i}"), MODELS[-1]]
            tasks["the last once more, its parts"] = inside
            for what, command in tasks.items():
                for name, taken in seconds_of(what, command).items():
                    seconds.setdefault(name, []).append(taken)
        compilation: list[dict[str, Any]] = []
        if cold:
            taken, compilation = compile_times(frame, folder)
            seconds["shutterless search, template-bank, cold"] = [taken]
    table = pd.DataFrame(
        {
            "what": list(seconds),
            "smallest_s": [min(values) for values in seconds.values()],
            "median_s": [float(pd.Series(values).median()) for values in seconds.values()],
            "n": [len(values) for values in seconds.values()],
        }
    )
    table.attrs["compilation"] = compilation
    return table


def compile_times(frame: Path, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """Search in a new process with an empty cache: its seconds, and the compiled functions, the longest first."""
    found = folder / "compilation.json"
    command = [*PYTHON, str(Path(__file__).resolve()), "--record", str(frame), str(folder / "recorded"), str(found)]
    taken, _ = run_timed(command, {"NUMBA_CACHE_DIR": str(folder / "recorded-cache")})
    return taken, json.loads(found.read_text())


def record_compilation(frame: str, out: str, found: str) -> None:
    """Search in this process, and write how long the compilation of each function took."""
    from numba.core import event

    from shutterless.workflows.execution.cluster import SerialExecutor
    from shutterless.workflows.searching.search import search_files
    from shutterless.workflows.settings.settings import load_settings

    with event.install_recorder("numba:compile") as recorder:
        search_files(
            [frame], reference="template-bank", out=Path(out), settings=load_settings().search,
            executor=SerialExecutor(),
        )  # fmt: skip
    Path(found).write_text(json.dumps(summarise(recorder.buffer)))


def summarise(events: list[tuple[float, Any]]) -> list[dict[str, Any]]:
    """Sum compilation times by function; starts and ends nest where one function calls another."""
    rows: dict[str, dict[str, Any]] = {}
    nested: list[list[float]] = []  # for every running compilation: start time, seconds within its callees
    for when, what in events:
        if what.is_start:
            nested.append([when, 0.0])
            continue
        started, inside = nested.pop()
        if nested:
            nested[-1][1] += when - started
        function = what.data["dispatcher"].py_func
        name = f"{function.__module__.removeprefix('shutterless.')}.{function.__qualname__}"
        row = rows.setdefault(name, {"function": name, "signatures": 0, "own_s": 0.0, "with_callees_s": 0.0})
        row["signatures"] += 1
        row["own_s"] += when - started - inside
        row["with_callees_s"] += when - started
    return sorted(rows.values(), key=lambda row: -row["own_s"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every line once")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="compile everything once more, in a temporary folder")
    parser.add_argument("--functions", type=int, default=25, help="compiled functions to list")
    parser.add_argument("--record", nargs=3, help=argparse.SUPPRESS)  # used by compile_times
    arguments = parser.parse_args()
    if arguments.record:
        record_compilation(*arguments.record)
        return
    table = measure(1 if arguments.quick else arguments.repetitions, cold=arguments.cold)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    if arguments.cold:
        compiled = pd.DataFrame(table.attrs["compilation"], columns=COMPILE_COLUMNS)
        print(f"\n{len(compiled)} functions were compiled in {compiled['own_s'].sum():.1f} s; the longest:")
        print(compiled.head(arguments.functions).to_string(index=False, float_format="{:.2f}".format))
        modules = (
            compiled["function"].str.extract(r"^(numba|\w+\.\w+)")[0].rename("module")
        )  # all modules of numba count as one
        by_module = compiled.groupby(modules)["own_s"].sum().sort_values(ascending=False)
        print("\nby module\n" + by_module.head(arguments.functions).to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()

"""Run the same commands with two checkouts and compare their output to the bit, as after a refactoring.

    python benchmarks/same_results.py BEFORE AFTER
    python benchmarks/same_results.py BEFORE AFTER --data ../shared/data --out kept

BEFORE and AFTER are folders of checkouts, such as `git worktree add` makes. Each simulates frames like the held-out
ones of the quickstart, and others with moving air, faults of the detector and satellites. Both then ingest and search
the frames of BEFORE, with the template bank and the bundled model, and make light curves of all stars of the first
kind. With ``--data`` the two real cubes in that folder are ingested and searched as well. Both checkouts run at the
same time, each in one process. A line is printed for each kind of file: `same`, or, for each file that is not,
`DIFFERS` with the columns, the number of rows, and the largest difference. Without ``--out`` the output goes to a
temporary folder (3 GB), which is removed. The exit code is 0 if everything is the same, 1 if anything differs or a
command fails.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table

# runs a command, and fails if a module came from elsewhere: an installed copy must not replace a missing module
RUN = """
import os, sys
from pathlib import Path
from shutterless.workflows.cli import main
try:
    main()
finally:
    modules = [module for name, module in sys.modules.items() if name.startswith("shutterless.")]
    files = [module.__file__ for module in modules if getattr(module, "__file__", None)]
    strange = [file for file in files if not Path(file).resolve().is_relative_to(os.environ["CHECKOUT"])]
    if strange:
        sys.exit(f"not of this checkout: {', '.join(strange)}")
"""
COMPARED = {
    "simulate": ("*.fits.fz", "truth.parquet", "stars.parquet"),
    "ingest": ("manifest.parquet", "failures.parquet", "*/entry.json", "*/*.npy", "*/streaks.parquet"),
    "search": (
        "candidates.parquet", "candidates.ecsv", "amplifiers.parquet", "failures.parquet", "parts/*/triggers.parquet",
        "parts/*/streaks.parquet",
    ),
    "lightcurve": ("*.parquet",),
}  # fmt: skip
HASH = "content_hash"  # the only compared value of a JSON file
LEFT_OUT = {
    "*.json": f"bookkeeping: absolute paths, times of files, settings, versions; but for {HASH}",
    "meta of candidates.ecsv": "the settings of search.json again",
    "source": "column of the manifest: absolute path of a frame",
    "path": "column of failures: absolute path of a frame",
    "DATE": "FITS keyword: when the file was written",
    "CHECKSUM": "FITS keyword: depends on DATE",
}
STILL = ("still air", "with-events", 404, 5)  # as [simulate.with_events] of the quickstart: sequence, seed, first CCD
MOVING = ("nuisances", "nuisances", 405, 5)
NUISANCES = ("--atmosphere", "--detector", "--sky-lights")
EVENTS_PER_ROW = 50 / 9000
RHO = "rho=[4.0, 20.0]"
CUBES = ("k2_epic211983544_tpf.fits", "tesscut_84.29_-80.47_6x6.fits")

Values: TypeAlias = pd.Series | np.ndarray


@dataclass(frozen=True)
class Step:
    """A command that both checkouts run, on the same files."""

    command: str
    on: str
    options: tuple[str, ...]
    files: tuple[Path, ...] = ()
    model: str = ""

    @property
    def title(self) -> str:
        """Title of the step in the output."""
        return f"{self.command} {self.on}{', ' if self.model else ''}{self.model}"

    @property
    def folder(self) -> str:
        """Name of the folder that it writes."""
        return self.title.replace(",", "").replace(" ", "_")

    @property
    def words(self) -> list[str]:
        """The command line; the folder is relative."""
        model = ["--model", self.model] if self.model else []
        out = ["--out", self.folder, "--no-dask", "--quiet"]
        return [self.command, *map(str, self.files), *out, *model, *self.options]


@dataclass(frozen=True)
class Side:
    """One of the two checkouts, and the folder in which its commands run."""

    name: str
    checkout: Path
    out: Path

    @classmethod
    def open(cls, name: str, checkout: Path, out: Path) -> Side:
        """Make the folder of a checkout's results, which must be new."""
        if not (checkout / "typings" / "shutterless").is_dir():
            raise SystemExit(f"{checkout} is not a checkout: it has no folder typings/shutterless")
        if (out / name).exists():
            raise SystemExit(f"{out / name} exists already: remove it, or choose another folder with --out")
        (out / name).mkdir(parents=True)
        return cls(name, checkout.resolve(), (out / name).resolve())

    def start(self, step: Step) -> subprocess.Popen:
        """Start a command of this checkout; its output goes to a file."""
        with self.log(step).open("w") as log:
            command = [sys.executable, "-c", RUN, *step.words]
            return subprocess.Popen(command, cwd=self.out, env=self._environment(), stdout=log, stderr=log)

    def log(self, step: Step) -> Path:
        """File with the output of a command."""
        return self.out / f"{step.folder}.log"

    def _environment(self) -> dict[str, str]:
        # compiled anew, because Numba's cache misses changes in other modules whose functions were inlined
        own = {
            "PYTHONPATH": self.checkout / "typings",
            "CHECKOUT": self.checkout,
            "NUMBA_CACHE_DIR": self.out / "compiled",
        }
        return {**os.environ, "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in own.items()}}


def run_both(step: Step, sides: tuple[Side, Side]) -> list[str]:
    """Run a command with both checkouts at the same time; return the failures."""
    processes = [side.start(step) for side in sides]
    codes = [process.wait() for process in processes]
    return [
        f"{side.name} ended with {code}: {' '.join(side.log(step).read_text().split())[-200:]}"
        for side, code in zip(sides, codes, strict=True)
        if code
    ]


def run_step(step: Step, sides: tuple[Side, Side]) -> bool:
    """Run a command with both, print the comparison of their files, and return whether all are the same."""
    if failures := run_both(step, sides):
        print(f"{step.title}: DIFFERS: {'; '.join(failures)}", flush=True)
        return False
    before, after = (side.out / step.folder for side in sides)
    # a list, so that everything after a difference is compared too
    return all([print_kind(step.title, pattern, before, after) for pattern in COMPARED[step.command]])


def print_kind(title: str, pattern: str, before: Path, after: Path) -> bool:
    """Compare all files of one kind, print the result, and return whether they are the same."""
    names = sorted({path.relative_to(folder).as_posix() for folder in (before, after) for path in folder.glob(pattern)})
    differences = {name: compare_files(before / name, after / name) for name in names}
    for name, lines in differences.items():
        if lines:
            print(f"{title}: {name}: DIFFERS: {'; '.join(lines)}")
    equal = [before / name for name, lines in differences.items() if not lines]
    if equal:
        which = pattern if len(equal) == len(names) else f"{pattern}, the others"
        print(f"{title}: {which}: same ({describe_size(equal)})")
    elif not names:
        print(f"{title}: {pattern}: DIFFERS: neither wrote any")
    sys.stdout.flush()
    return 0 < len(equal) == len(names)


def describe_size(paths: list[Path]) -> str:
    """Number of files, and their rows or size."""
    if paths[0].suffix == ".parquet":
        return f"files: {len(paths)}, rows: {sum(pq.read_metadata(path).num_rows for path in paths):,}"
    return f"files: {len(paths)}, MB: {sum(path.stat().st_size for path in paths) / 1e6:,.3f}"


def compare_files(before: Path, after: Path) -> list[str]:
    """Differences of two files; none if their bytes or all their contents are the same."""
    missing = [side for side, path in (("before", before), ("after", after)) if not path.is_file()]
    if missing:
        return [f"missing {missing[0]}"]
    if filecmp.cmp(before, after, shallow=False):
        return []
    return list(compare_columns(read_columns(before), read_columns(after)))


def read_columns(path: Path) -> Mapping[str, Values]:
    """Read the columns of a table, or the arrays of another file, by name."""
    if path.suffix == ".parquet":
        return dict(pd.read_parquet(path).items())
    if path.suffix == ".ecsv":
        return read_ecsv(path)
    if path.suffix == ".npy":
        return {"array": np.load(path, mmap_mode="r")}
    if path.suffix == ".json":
        return {HASH: pd.Series([json.loads(path.read_text()).get(HASH)])}
    return read_frame(path)


def read_ecsv(path: Path) -> dict[str, Values]:
    """Read columns whose names carry their units."""
    table = Table.read(path, format="ascii.ecsv")
    columns = table.to_pandas()
    return {f"{name} ({table[name].unit or 'no unit'})": columns[name] for name in table.colnames}


def read_frame(path: Path) -> dict[str, Values]:
    """Read the header and the pixels of every HDU."""
    found: dict[str, Values] = {}
    with fits.open(path) as hdus:
        for number, hdu in enumerate(hdus):
            cards = [str(card) for card in hdu.header.cards if card.keyword not in LEFT_OUT]
            found[f"header of HDU {number}"] = pd.Series(cards, dtype=object)
            if hdu.data is not None:
                found[f"HDU {number}"] = np.asarray(hdu.data)
    return found


def compare_columns(before: Mapping[str, Values], after: Mapping[str, Values]) -> Iterator[str]:
    """List columns that are missing, additional or in another order, and the differences of the others."""
    wanted, found = ([name for name in columns if name not in LEFT_OUT] for columns in (before, after))
    yield from (f"{name} is missing after" for name in wanted if name not in found)
    yield from (f"{name} is additional after" for name in found if name not in wanted)
    shared = [name for name in wanted if name in found]
    if shared != [name for name in found if name in wanted]:
        yield "columns in another order"
    names: dict[str, list[str]] = {}
    for name in shared:
        names.setdefault(compare_values(before[name], after[name]), []).append(name)
    for difference, differing in names.items():
        if difference:
            yield f"{'all columns' if len(differing) == len(shared) > 1 else ', '.join(differing)}: {difference}"


def compare_values(before: Values, after: Values) -> str:
    """Difference of two columns or arrays, to the bit; empty if there is none. NaN equals NaN, missing equals missing.

    Zeros of different sign count as different, by 0.
    """
    unit = "rows" if isinstance(before, pd.Series) else "values"
    if before.shape != after.shape:
        wanted, found = (" × ".join(f"{n:,}" for n in values.shape) for values in (before, after))
        return f"{wanted} {unit} before, {found} after"
    if before.dtype != after.dtype:
        return f"{before.dtype} before, {after.dtype} after"
    old, new = to_array(before), to_array(after)
    where = bits(old) != bits(new)
    if not where.any():
        return ""
    return f"{where.sum():,} of {where.size:,} {unit}, {describe_difference(old[where], new[where])}"


def to_array(values: Values) -> np.ndarray:
    """Values in one dimension: numbers, or objects with None for missing values."""
    if isinstance(values, np.ndarray):
        return values.ravel()
    if isinstance(values.dtype, np.dtype) and values.dtype.kind != "O":
        return values.to_numpy()
    return values.astype(object).where(values.notna(), None).to_numpy()


def bits(values: np.ndarray) -> np.ndarray:
    """Floats as integers of the same bits, all NaN alike; other types unchanged."""
    if values.dtype.kind != "f":
        return values
    return np.where(np.isnan(values), np.array(np.nan, values.dtype), values).view(f"u{values.dtype.itemsize}")


def describe_difference(before: np.ndarray, after: np.ndarray) -> str:
    """Largest difference of numbers that differ; of other types, the first pair."""
    old, new = (pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(float) for values in (before, after))
    steps = np.abs(new - old)
    if np.isnan(steps).all():
        return f"the first: {before[0]} before, {after[0]} after"
    only_one = f" (and {n:,} with one of the two missing)" if (n := int(np.isnan(steps).sum())) else ""
    return f"largest difference {np.nanmax(steps):.3g}{only_one}"


def simulation(kind: tuple[str, str, int, int], n_ccds: int, rows: int, files: int, *more: str) -> Step:
    """Frames with as many events per row as the quickstart's."""
    on, sequence, seed, first = kind
    ccds = ",".join(str(ccd) for ccd in range(first, first + n_ccds))
    given = {"sequence": sequence, "seed": seed, "ccds": ccds, "rows": rows, "files": files}
    given |= {"events": round(rows * EVENTS_PER_ROW), "set": RHO}
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    return Step("simulate", on, (*words, *more))


def readings(on: str, files: list[Path], *models: str) -> list[Step]:
    """An ingest of some files, and a search of them with each model."""
    searches = [Step("search", on, (), tuple(files), model) for model in models]
    return [Step("ingest", on, (), tuple(files)), *searches]


def find_cubes(data: Path | None) -> list[Path]:
    """The cubes that are compared."""
    cubes = [data.resolve() / name for name in CUBES] if data else []
    if missing := [str(cube) for cube in cubes if not cube.is_file()]:
        raise SystemExit(f"not found: {', '.join(missing)}; give their folder with --data, or leave it out")
    return cubes


def compare_all(sides: tuple[Side, Side], cubes: list[Path], rows: int, files: int, ccds: int) -> list[bool]:
    """Run and compare everything; return whether the results of each step are the same."""
    still = simulation(STILL, ccds, rows, files)
    moving = simulation(MOVING, ccds, rows, 1, *NUISANCES)
    same = [run_step(step, sides) for step in (still, moving)]
    frames, other = (sorted((sides[0].out / step.folder).glob("*.fits.fz")) for step in (still, moving))
    steps = readings(still.on, frames, "template-bank", "bundled")
    steps += [Step("lightcurve", still.on, (), tuple(frames))]
    steps += readings(moving.on, other, "template-bank", "bundled")
    steps += [step for cube in cubes for step in readings(cube.stem, [cube], "template-bank")]
    return same + [run_step(step, sides) for step in steps]


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, help="folder that keeps what the commands write and print")
    parser.add_argument("--data", type=Path, help=f"folder of {' and '.join(CUBES)}")
    parser.add_argument("--rows", type=int, default=4000, help="rows of one file")
    parser.add_argument("--files", type=int, default=2, help="consecutive files of each CCD")
    parser.add_argument("--ccds", type=int, default=1)
    arguments = parser.parse_args()
    cubes = find_cubes(arguments.data)
    with tempfile.TemporaryDirectory() as name:
        out = arguments.out or Path(name)
        sides = (Side.open("before", arguments.before, out), Side.open("after", arguments.after, out))
        same = compare_all(sides, cubes, arguments.rows, arguments.files, arguments.ccds)
    print(f"{sum(same)} of {len(same)} commands left the same")
    raise SystemExit(0 if all(same) else 1)


if __name__ == "__main__":
    main()

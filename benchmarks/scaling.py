"""Measure how time and memory of a search grow with the rows of a file and with the number of files.

    python benchmarks/scaling.py                # up to 10⁶ rows: 4 GB of frames, a quarter of an hour
    python benchmarks/scaling.py --rows 10000 30000 100000

Searched are one amplifier of the ZTF camera (a profile with one quadrant) in one file of each length, each in its own
process; then 1, 2, 4 and 8 files, each a sequence. Time is that of a search after a warm-up, the median of five for
short ones. Memory is the peak resident set of the process, including the model. The slope is that of log time against
log rows. It is given for files that begin with the sky ramp, whose rows cost more, and for steady rows cut out of the
longest file, less the time of a file of a few rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

MAIN = "from shutterless.workflows.cli import main; main()"
ROWS = (10_000, 31_623, 100_000, 316_228, 1_000_000)
MEMORY_ROWS = (5_000, 200_000)
FIRST_STEADY_ROW = 16_000
EMPTY_ROWS = 64
SHORT_S = 3.0


def one_quadrant(folder: Path) -> Path:
    """Profile of the ZTF camera with only its first quadrant."""
    text = resources.files("shutterless.pipeline.reading.profiles").joinpath("ztf.toml").read_text(encoding="utf-8")
    before, rest = text.split("[[quadrants]]", 1)
    after = rest[rest.index("# where each value stands") :]
    quadrant = "[[quadrants]]\ndata_hdu = 1\noverscan_hdu = 2\nflip_columns = false\nflip_rows = false\n\n"
    path = folder / "one.toml"
    path.write_text(before.replace('name = "ztf"', 'name = "one"') + quadrant + after, encoding="utf-8")
    return path


def simulate(folder: Path, profile: Path, rows: int, sequence: str) -> Path:
    """One file of ``rows`` rows from the opening of the shutter."""
    if not list(folder.glob(f"{sequence}_*.fits.fz")):
        words = ["--instrument", profile, "--out", folder, "--rows", rows, "--seed", 31, "--sequence", sequence]
        command = [sys.executable, "-c", MAIN, "simulate", *map(str, words), "--quiet", "--no-dask"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob(f"{sequence}_*.fits.fz")
    return path


def cut(source: Path, path: Path, rows: int) -> Path:
    """Copy rows of the steady state, from `FIRST_STEADY_ROW` on, out of the compressed tiles of a longer file."""
    with fits.open(source, disable_image_compression=True) as hdus, source.open("rb") as file, path.open("wb") as out:
        primary = hdus[0].header.copy()
        primary["SEQROW0"] = FIRST_STEADY_ROW
        out.write(primary.tostring().encode())
        for hdu in hdus[1:]:
            header, start = hdu.header.copy(), hdu.fileinfo()["datLoc"]
            n_tiles, rows_per_tile = header["NAXIS2"], header.get("ZTILE2", 1)
            file.seek(start)
            table = np.frombuffer(file.read(header["NAXIS1"] * n_tiles), ">i4").reshape(n_tiles, 2)
            kept = table[FIRST_STEADY_ROW // rows_per_tile : (FIRST_STEADY_ROW + rows) // rows_per_tile].copy()
            first, last = int(kept[0, 1]), int(kept[-1, 0] + kept[-1, 1])
            file.seek(start + header["NAXIS1"] * n_tiles + first)
            kept[:, 1] -= first
            header["NAXIS2"], header["ZNAXIS2"], header["PCOUNT"] = len(kept), len(kept) * rows_per_tile, last - first
            content = kept.tobytes() + file.read(last - first)
            out.write(header.tostring().encode() + content + bytes(-len(content) % 2880))
    return path


def measure(files: list[Path], profile: Path, reference: str) -> dict[str, float]:
    """Seconds and peak MiB of a search in a process of its own."""
    words = ["--measure", *map(str, files), "--profile", str(profile), "--model", reference]
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def search_here(files: list[Path], profile: Path, reference: str) -> dict[str, float]:
    """Search files in this process, after a warm-up."""
    from shutterless.workflows.execution.cluster import SerialExecutor
    from shutterless.workflows.searching.search import search_files
    from shutterless.workflows.settings.settings import load_settings

    settings = load_settings(None, []).search
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "found"

        def search(paths: list[Path]) -> dict[str, float]:
            shutil.rmtree(out, ignore_errors=True)
            began, cpu = time.perf_counter(), time.process_time()
            search_files(
                paths, reference=reference, out=out, settings=settings, instrument=str(profile),
                executor=SerialExecutor(),
            )  # fmt: skip
            return {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}

        search([profile.with_name("warm.fits.fz")])
        took = [search(files)]
        while took[0]["seconds"] < SHORT_S and len(took) < 5:
            took.append(search(files))
    return {**pd.DataFrame(took).median(), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def slope(x: pd.Series, y: pd.Series) -> float:
    """Slope of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS))
    parser.add_argument("--model", default="template-bank")
    parser.add_argument("--frames", type=Path, help="keep the frames there, for another run")
    parser.add_argument("--measure", type=Path, nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(search_here(arguments.measure, arguments.profile, arguments.model)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.frames or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        profile = one_quadrant(folder)
        simulate(folder, profile, 5_000, "warm").replace(folder / "warm.fits.fz")
        by_rows = pd.DataFrame.from_dict(
            {
                rows: measure([simulate(folder, profile, rows, f"r{rows}")], profile, arguments.model)
                for rows in arguments.rows
            },
            orient="index",
        )
        by_rows["ns per pixel"] = by_rows["seconds"] * 1e9 / (by_rows.index * 3072)
        print(f"rows of one file, {arguments.model}\n{by_rows.round(2).to_string()}")
        print(f"log-log slope of time against rows: {slope(by_rows.index.to_series(), by_rows['seconds']):.3f}")
        longest = simulate(folder, profile, max(arguments.rows), f"r{max(arguments.rows)}")
        lengths = [rows // 16 * 16 for rows in arguments.rows[:-1]] + [max(arguments.rows) - 2 * FIRST_STEADY_ROW]
        steady = pd.DataFrame.from_dict(
            {
                rows: measure([cut(longest, folder / "steady.fits.fz", rows)], profile, arguments.model)
                for rows in lengths
            },
            orient="index",
        )
        empty = cut(longest, folder / "steady.fits.fz", EMPTY_ROWS)
        empty_s = measure([empty], profile, arguments.model)["seconds"]
        steady["less an empty run"] = steady["seconds"] - empty_s
        print(f"\nsteady rows; a run of {EMPTY_ROWS} of them takes {empty_s:.2f} s\n{steady.round(2).to_string()}")
        print(f"log-log slope of time against rows: {slope(steady.index.to_series(), steady['less an empty run']):.3f}")
        files = [simulate(folder, profile, 12_000, f"file{k}") for k in range(8)]
        by_files = pd.DataFrame.from_dict(
            {n: measure(files[:n], profile, arguments.model) for n in (1, 2, 4, 8)}, orient="index"
        )
        print(f"\nfiles of 12,000 rows\n{by_files.round(2).to_string()}")
        print(f"log-log slope of time against files: {slope(by_files.index.to_series(), by_files['seconds']):.3f}")
        memory = pd.DataFrame.from_dict(
            {
                (rows, model): measure([simulate(folder, profile, rows, f"r{rows}")], profile, model)
                for rows in MEMORY_ROWS
                for model in ("template-bank", "bundled")
            },
            orient="index",
        )
        print(f"\npeak memory of one process\n{memory.round(1).to_string()}")


if __name__ == "__main__":
    main()

"""Measure what a file costs beside its pixels in a search of many small ones, and what ``--resume`` of it costs.

    python benchmarks/many_files.py                  # 10,000 pixel files like those of K2: 0.5 GB, ten minutes
    python benchmarks/many_files.py --files 1000 --command-files 300

Every file holds one of `STARS` stars. Their pixels are searched once; for the other files that inner search is
remembered, so that the rest of a search is measured alone: reading headers, planning, writing and reading parts,
joining and writing tables. It is given in milliseconds of processor time per file, all in one process, with the peak
memory of that process, at a tenth of the files and at all of them. Then the finished search is resumed. At last a part
of the files is searched by the command, with workers, to compare the time that was said to be left with what it took.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fake_cubes import star_images, write_kepler

MAIN = "from shutterless.workflows.cli import main; main()"
STARS, FLARES_EVERY = 50, 5
LEFT = re.compile(r"searching segments: (\d+)/(\d+) \((\d+) s, (\d+) s left\)")


def write_files(folder: Path, n_files: int, n_images: int) -> list[Path]:
    """Pixel files of 5 × 5 pixels with long cadences; a fifth of the stars flare."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = []
    for star in range(STARS):
        images = star_images(n_images, 5, 5, seed=star)
        if star % FLARES_EVERY == 0:
            images[n_images // 2 : n_images // 2 + 3] *= 1.3
        contents.append(write_kepler(folder / "one.fits", images).read_bytes())
    (folder / "one.fits").unlink()
    paths = [folder / f"ktwo{k:06d}_lpd-targ.fits" for k in range(n_files)]
    for k, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(contents[k % STARS])
    return paths


def remember_inner_search() -> None:
    """Search the pixels of every star once; its other files take what was found there."""
    from shutterless.workflows.searching import segment_search

    amplifiers: dict[int, list[Any]] = {}
    found: dict[tuple[Any, int], Any] = {}
    inner, find, score = (
        getattr(segment_search, name) for name in ("_amplifiers", "find_triggers_for", "score_triggers")
    )

    def remembered(task: Any, failures: Any) -> Iterator[Any]:
        star = int(task.segment.spans[0].path.name[4:10]) % STARS
        if star not in amplifiers:
            amplifiers[star] = list(inner(task, failures))
        for amplifier, numbers, _, archive in amplifiers[star]:
            yield amplifier, numbers, task.segment.spans, archive

    def once(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(amplifier: Any, *arguments: Any, **options: Any) -> Any:
            key = function, id(amplifier)
            if key not in found:
                found[key] = function(amplifier, *arguments, **options)
            return copy(found[key])

        return call

    segment_search._amplifiers = remembered
    segment_search.find_triggers_for, segment_search.score_triggers = once(find), once(score)


def search_here(files: list[Path], out: Path, *, resume: bool) -> dict[str, float]:
    """Search files in this process: seconds, processor seconds, peak MiB, candidates."""
    from shutterless.workflows.execution.cluster import SerialExecutor
    from shutterless.workflows.searching.search import search_files
    from shutterless.workflows.settings.settings import load_settings

    remember_inner_search()
    settings, executor = load_settings(None, []).search, SerialExecutor()
    if not resume:  # imports, compiled loops and the inner search are not counted
        with tempfile.TemporaryDirectory() as warm:
            search_files(files[:STARS], reference="template-bank", out=Path(warm), settings=settings, executor=executor)
    began, cpu = time.perf_counter(), time.process_time()
    found = search_files(files, reference="template-bank", out=out, settings=settings, executor=executor, resume=resume)
    if len(found.failures):
        raise SystemExit(found.failures["reason"].iloc[0])
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "candidates": len(found.candidates),
    }


def measure(n_files: int, folder: Path, out: Path, *, resume: bool) -> dict[str, float]:
    """`search_here` in a process of its own."""
    words = [sys.executable, "-W", "ignore", __file__, "--measure", str(n_files), str(folder), str(out)]
    done = subprocess.run([*words, *(["resume"] if resume else [])], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def time_left(files: list[Path], out: Path) -> Iterator[tuple[float, float, float, float]]:
    """Search by the command, and see what it says.

    Yields the share that was done, the seconds that were said to be left, and those that were: until the last segment
    was searched, and until the command ended.
    """
    words = ["search", str(files[0].parent), "--out", str(out), "--model", "template-bank", "--workers", "2"]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", MAIN, *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = [(time.perf_counter(), line) for line in process.stderr]
    ended = time.perf_counter()
    searched = max(when for when, line in lines if line.startswith("searching segments"))
    for when, line in lines:
        if match := LEFT.match(line):
            done, total, _, left = map(int, match.groups())
            yield done / total, left, searched - when, ended - when


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--command-files", type=int, default=1_000, help="files of the search with workers; 0: none")
    parser.add_argument("--images", type=int, default=120, help="of a file")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        n_files, folder, out, *resume = arguments.measure
        files = sorted(Path(folder).glob("*.fits"))[: int(n_files)]
        print(json.dumps(search_here(files, Path(out), resume=bool(resume))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(folder / "files", arguments.files, arguments.images)
        for n_files in (arguments.files // 10, arguments.files):
            for resume in (False, True):
                took = measure(n_files, folder / "files", folder / f"out-{n_files}", resume=resume)
                what = "resumed" if resume else f"{took['candidates']:,} candidates"
                each = f"{took['cpu_s'] / n_files * 1e3:.2f} ms of processor time a file"
                print(
                    f"{n_files:,} files, {what}: {took['seconds']:.1f} s, {each}, peak {took['peak_mib']:,.0f} MiB",
                    flush=True,
                )
        if arguments.command_files:
            few = write_files(folder / "few", arguments.command_files, arguments.images)
            for done, said, was, in_all in time_left(few, folder / "by-command"):
                left = f"{said:.0f} s said to be left, {was:.0f} s were ({said / was - 1:+.0%})"
                print(f"{done:.0%} done: {left}, {in_all:.0f} s with the tables")


if __name__ == "__main__":
    main()

"""Measure what a segment costs the process that hands out the work, and so how many workers it can feed.

    python benchmarks/driver.py                   # 1,000 segments
    python benchmarks/driver.py --segments 200 --rows 1000

A frame is searched once. Its parts stand for those of many segments, which are sent to two worker processes through
Dask as a search does it. The workers do nothing, and the driver reads every part as it does in a search. What is
counted is the processor time of the driver, in which the scheduler of Dask runs, too. The last table says what share
of its time 64 workers take, by the seconds that a segment costs a worker.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shutterless.pipeline.reading.segments import plan_segments
from shutterless.workflows.execution.cluster import SerialExecutor, open_executor
from shutterless.workflows.frames.ingest import survey_files
from shutterless.workflows.searching import search
from shutterless.workflows.searching.segment_search import part_folder
from shutterless.workflows.settings.settings import load_settings

MAIN = "from shutterless.workflows.cli import main; main()"
WORKERS = 64
# processor time of 28,672 rows of ZTF and their margins: template bank in still air and with everything on, and the
# default detector with everything on
SECONDS = (2.4, 7.3, 9.6)


def do_nothing(task: Any) -> bool:
    """Answer of `shutterless.workflows.searching.segment_search.search_segment` for a segment that was searched."""
    return True


def many_tasks(job: search.SearchJob, frames: Sequence[Path], n_segments: int) -> list[Any]:
    """Search frames, and let their parts stand for those of ``n_segments`` segments."""
    executor = SerialExecutor()
    survey = survey_files(frames, executor=executor)
    segments = plan_segments(survey.infos)
    parts, lost = search.run_tasks(job.tasks(segments, resume=False), executor)
    if lost:
        raise SystemExit(str(lost))
    triggers = [len(part.triggers) for part in parts.values()]
    print(f"parts with {min(triggers)} to {max(triggers)} triggers")
    copies = []
    for k in range(n_segments):
        original = segments[k % len(segments)]
        copies.append(replace(original, series=f"{original.series}-{k}"))
        part_folder(job.out, copies[-1]).symlink_to(part_folder(job.out, original))
    return job.tasks(copies, resume=False)


def measure(tasks: Sequence[Any]) -> tuple[float, float]:
    """Processor time and time of the driver, in seconds a segment."""
    search.search_segment = do_nothing
    with open_executor(2) as executor:
        search.run_tasks(tasks[:20], executor)
        began, cpu = time.perf_counter(), time.process_time()
        parts, _ = search.run_tasks(tasks, executor)
        took = time.process_time() - cpu, time.perf_counter() - began
    assert len(parts) == len(tasks)
    return took[0] / len(tasks), took[1] / len(tasks)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=3_000, help="of the frame whose parts are read")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["simulate", "--out", str(folder / "frames"), "--rows", str(arguments.rows), "--no-dask", "--quiet"]
        subprocess.run([sys.executable, "-W", "ignore", "-c", MAIN, *words], check=True, stdout=subprocess.DEVNULL)
        job = search.SearchJob.prepare("template-bank", folder / "out", load_settings(None, []).search)
        cpu_s, seconds = measure(many_tasks(job, sorted((folder / "frames").glob("*.fits.fz")), arguments.segments))
    print(f"{cpu_s * 1e3:.2f} ms of processor time of the driver a segment ({seconds * 1e3:.2f} ms in all)")
    for segment_s in SECONDS:
        print(
            f"segments of {segment_s:g} s: one driver feeds {segment_s / cpu_s:,.0f} workers, "
            f"{WORKERS} take {WORKERS * cpu_s / segment_s:.0%} of its time"
        )


if __name__ == "__main__":
    main()

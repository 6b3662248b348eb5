"""Files that `shutterless check` describes in a second of processor time: frames, plain cubes, target pixel files.

python benchmarks/checking.py [--files 200]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import TINY_PROFILE
from fake_cubes import star_images, write_kepler, write_plain
from tiny_frames import SKY_E, expose, write_tiny

from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.check import check_files

DATE = {"DATE-OBS": "2026-03-04T05:06:07"}
KINDS: dict[str, Callable[[Path], Path]] = {
    "frames (headers alone)": lambda path: write_tiny(path, expose(np.full((128, 128), SKY_E), 1), 0),
    "cubes (headers alone)": lambda path: write_plain(path, star_images(60, 16, 17), header=DATE),
    "target pixel files (headers and times)": lambda path: write_kepler(path, star_images(100, 9, 9)),
}


def main() -> None:
    """Print the rates; each is the best of three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    n_files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as name:
        camera = Path(name) / "tiny.toml"
        camera.write_text(TINY_PROFILE)
        for number, (kind, write) in enumerate(KINDS.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            first = write(folder / "00000.fits")
            for k in range(1, n_files):
                shutil.copy(first, folder / f"{k:05d}.fits")
            rates = [n_files / check(folder, str(camera) if "frames" in kind else None, n_files) for _ in range(3)]
            print(f"{kind}: {max(rates):.0f} files/s")


def check(folder: Path, instrument: str | None, n_files: int) -> float:
    """Seconds of processor time to check a folder."""
    started = time.process_time()
    rows = check_files([folder], instrument=instrument, executor=SerialExecutor())
    spent = time.process_time() - started
    assert [row["problems"] for row in rows] == [[]] * n_files
    return spent


if __name__ == "__main__":
    main()

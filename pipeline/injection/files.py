"""Write copies of files with injected events, for frames and cubes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shutterless.pipeline.injection.amplifiers import InjectionSettings
from shutterless.pipeline.injection.cubes import inject_cube
from shutterless.pipeline.injection.frames import inject_frames
from shutterless.pipeline.injection.injected_files import InjectedFile
from shutterless.pipeline.reading.exposures import holds_cube


def inject_file(
    path: str | Path, out: str | Path, settings: InjectionSettings, *, events: int, seed: int, **reading: Any
) -> InjectedFile:
    """Write a copy of a file with events in it.

    Parameters
    ----------
    path : path
        FITS file; it is only read.
    out : path
        Folder for the copy, which keeps the file's name and is whole or absent.
    settings : InjectionSettings
    events : int
        Number to try in each amplifier; fewer are injected if there is no room for more.
    seed : int
        Together with the file's name and the quadrant it determines the random numbers.
    **reading
        ``instrument`` and ``supplied``, as `shutterless.pipeline.reading.exposures.read_info`.

    Returns
    -------
    InjectedFile

    Raises
    ------
    FrameError
        If nothing of the file can be read, or the copy would replace it.
    """
    inject = inject_cube if holds_cube(path, **reading) else inject_frames
    return inject(path, out, settings, events=events, seed=seed, **reading)

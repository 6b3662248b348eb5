"""Read any file, a continuous-readout frame or an image cube, by its profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shutterless.pipeline.reading import cubes, frames
from shutterless.pipeline.reading.fits_files import FrameError, choose_profile, image_shapes, read_primary_header
from shutterless.pipeline.reading.instruments import CubeProfile, ProfileError, load_profile


def read_info(
    path: str | Path, instrument: str | None = None, supplied: Mapping[str, str] | None = None
) -> frames.FrameInfo:
    """Read and check the headers of one file, of whichever kind.

    Parameters
    ----------
    path : path
        ``.fits``, ``.fits.gz`` or ``.fits.fz``.
    instrument : str, optional
        Profile name or TOML path; recognised from the primary header, completed by ``supplied``, when left out.
    supplied : mapping of str to str, optional
        Header values that replace or complete those in the file, by keyword.

    Raises
    ------
    FrameError, ProfileError
        As `shutterless.pipeline.reading.frames.read_frame_info` and
        `shutterless.pipeline.reading.cubes.read_cube_info`.
    """
    instrument, is_cube = _find_profile(Path(path), instrument, supplied)
    return (cubes.read_cube_info if is_cube else frames.read_frame_info)(path, instrument, supplied)


def holds_cube(path: str | Path, instrument: str | None = None, supplied: Mapping[str, str] | None = None) -> bool:
    """Whether a file is an image cube by its profile; parameters and errors are those of `read_info`."""
    return _find_profile(Path(path), instrument, supplied)[1]


def read_exposure(
    path: str | Path,
    quadrant: int | None,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
) -> frames.Frame | cubes.Cube:
    """Read one amplifier of a frame, or an image cube.

    Parameters are those of `read_info`, and ``quadrant`` from 1, None for a cube.

    Raises
    ------
    FrameError, ProfileError
        As `shutterless.pipeline.reading.frames.read_amplifier` and `shutterless.pipeline.reading.cubes.read_cube`, and
        if a quadrant is given for a cube or none for a frame.
    """
    instrument, is_cube = _find_profile(Path(path), instrument, supplied)
    if is_cube and quadrant is None:
        return cubes.read_cube(path, instrument, supplied)
    if is_cube or quadrant is None:
        kind = "an image cube has no quadrants" if is_cube else "a frame is read by its quadrants"
        raise FrameError(f"{path}: quadrant {quadrant} was asked for, but {kind}")
    return frames.read_amplifier(path, quadrant, instrument, supplied)


def _find_profile(path: Path, instrument: str | None, supplied: Mapping[str, str] | None) -> tuple[str, bool]:
    """Name of the profile, and whether it is one of image cubes; opens the file only if no profile is named."""
    if instrument:
        return instrument, isinstance(load_profile(instrument), CubeProfile)
    try:
        profile = choose_profile(path, read_primary_header(path), None, dict(supplied or {}))
    except ProfileError as error:
        shapes = image_shapes(path)
        if any(len(shape) >= 3 for shape in shapes):
            return "cube", True
        if any(len(shape) == 2 for shape in shapes):
            raise ProfileError(
                f"{error}; it holds single images: a series of images is searched as one cube with --stack"
            ) from error
        raise
    return profile.name, isinstance(profile, CubeProfile)

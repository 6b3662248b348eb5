"""Find the HDUs of the quadrants of a frame by name or shape, wherever a writer put other HDUs between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from shutterless.pipeline.reading.fits_files import StoredFile
from shutterless.pipeline.reading.instruments import InstrumentProfile, QuadrantLayout


def find_quadrants(file: StoredFile, profile: InstrumentProfile) -> tuple[tuple[QuadrantLayout, ...], tuple[str, ...]]:
    """Layout of every quadrant with the numbers of its HDUs in this file.

    Returns
    -------
    layouts : tuple of QuadrantLayout
        Those of the profile if the file does not hold as many images of either width as there are quadrants.
    notes : tuple of str
        What departs from the profile, in words.

    Notes
    -----
    HDUs of data and of overscan are told by their widths, and come in the order of the quadrants. If the names of
    either kind end in the numbers of the quadrants (``DATA1`` to ``DATA4``), these decide.
    """
    n_quadrants = len(profile.quadrants)
    found = []
    notes: list[str] = []
    for width in (profile.n_columns, profile.n_overscan_columns):
        numbers = [k for k, shape in enumerate(file.shapes) if len(shape) == 2 and shape[1] == width]
        if len(numbers) != n_quadrants:
            return profile.quadrants, ()
        found.append(_sort_by_name(file, numbers, notes))
    layouts = tuple(
        replace(layout, data_hdu=data, overscan_hdu=overscan)
        for layout, data, overscan in zip(profile.quadrants, *found, strict=True)
    )
    if layouts != profile.quadrants and not notes:
        places = ", ".join(str(layout.data_hdu) for layout in layouts)
        notes.append(f"the quadrants stand in HDUs {places}, found by their shapes")
    return layouts, tuple(notes)


def _sort_by_name(file: StoredFile, numbers: Sequence[int], notes: list[str]) -> list[int]:
    """HDUs in the order of the numbers at the end of their names; as they stand if these are no such numbers."""
    names = [str(file.header(k).get("EXTNAME", "")).strip() for k in numbers]
    ends = [re.fullmatch(r"(.*?)[ _-]?(\d+)", name) for name in names]
    parts = [(end[1].upper(), int(end[2])) for end in ends if end]
    values = sorted(value for _, value in parts)
    is_numbered = len(parts) == len(numbers) and len({word for word, _ in parts}) == 1
    if not is_numbered or values not in (list(range(len(parts))), list(range(1, len(parts) + 1))):
        return list(numbers)
    order = sorted(range(len(parts)), key=lambda k: parts[k][1])
    if order != list(range(len(parts))):
        notes.append(f"HDUs {', '.join(names)} are taken in the order of their numbers")
    return [numbers[k] for k in order]

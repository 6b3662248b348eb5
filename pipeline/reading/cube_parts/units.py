"""Units of pixels as archives and cameras spell them."""

from __future__ import annotations

import re
from typing import NamedTuple


class PixelUnit(NamedTuple):
    """Whether a unit counts light at all, per second, and in ADU rather than in electrons."""

    is_light: bool
    is_rate: bool = False
    is_adu: bool = False


_ELECTRONS = ("electron", "electrons", "e-", "e", "photon", "photons", "ph")
_ADU = ("adu", "adus", "dn", "count", "counts", "ct", "cts")
_RATE = re.compile(r"(.+?)(?: ?/ ?(?:s|sec|second)|[ .*]?s(?:\^|\*\*)?-1)")


def pixel_unit(text: str) -> PixelUnit:
    """Unit by its name; what is neither electrons nor ADU counts no light, so that its noise is not known."""
    name = text.strip().lower()
    found = _RATE.fullmatch(name)
    base = found[1].strip() if found else name
    if base in _ELECTRONS:
        return PixelUnit(True, is_rate=found is not None)
    if base in _ADU:
        return PixelUnit(True, is_rate=found is not None, is_adu=True)
    return PixelUnit(False)

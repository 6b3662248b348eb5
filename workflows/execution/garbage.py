"""Look for garbage less often. Imports nothing slow, since every command and every worker does so first."""

from __future__ import annotations

import gc

# imports make a million objects and no garbage, and looking for some took a quarter of the time of those of torch
OBJECTS_BETWEEN_COLLECTIONS = 50_000


def collect_less_often() -> None:
    """Let this process make `OBJECTS_BETWEEN_COLLECTIONS` objects before it looks for garbage again."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)

"""Whether loops are compiled already: numba keeps their machine code on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def is_compiled(loop: Any) -> bool:
    """Whether machine code of a loop lies in numba's cache.

    Parameters
    ----------
    loop : numba dispatcher
        A function with ``numba.njit(cache=True)``.
    """
    return any(Path(loop.stats.cache_path).glob(f"*.{loop.py_func.__name__}-*.nbi"))

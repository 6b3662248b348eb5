"""Find events of milliseconds to seconds in continuous-readout images.

`read_frame`, `search`, `load_model`, `light_curves` and `report` are the commands as functions. Each is loaded when it
is first used, so ``import shutterless`` costs nothing.

    >>> import shutterless
    >>> result = shutterless.search(["night/frame.fits.fz"], "found")
    >>> result.candidates

``AutoModel.from_pretrained`` of `transformers` loads a model folder once shutterless is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shutterless.auto_classes import register_late

if TYPE_CHECKING:
    from shutterless.workflows.front_door import light_curves, load_model, read_frame, report, search

    __version__: str

__all__ = ["__version__", "light_curves", "load_model", "read_frame", "report", "search"]

register_late()


def __getattr__(name: str) -> Any:
    """Load what is asked for (PEP 562)."""
    if name == "__version__":
        return import_module("importlib.metadata").version("shutterless")
    if name in __all__:
        return getattr(import_module("shutterless.workflows.front_door"), name)
    raise AttributeError(f"module 'shutterless' has no attribute {name!r}; there are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

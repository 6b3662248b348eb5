"""Let ``AutoConfig`` and ``AutoModel`` of `transformers` load detectors once shutterless is imported.

Imports nothing heavy: the configurations are registered right after transformers has loaded its own, and the models
when the first configuration is read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_KNOWN = "transformers.models.auto.configuration_auto"  # where transformers lists all configurations
_OURS = "shutterless.models.configuration"


def register_late() -> None:
    """Register the families now if transformers has loaded its lists already, else when it does."""
    if _KNOWN in sys.modules:
        import_module(_OURS)
    elif not any(isinstance(finder, _Registration) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Registration())


class _Registration:
    """Finder of modules that waits for one of transformers, and imports our configurations after it.

    It is no subclass of `importlib.abc.MetaPathFinder`: importing that takes 25 ms, in which Ctrl-C is not caught.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Specification of that module, as others find it; None for any other."""
        if fullname != _KNOWN:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                import_module(_OURS)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

"""Errors of an export, one of them for a package that is not installed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class ExportError(ValueError):
    """A search that cannot be exported as asked."""


def require(package: str, what: str) -> ModuleType:
    """Import a package of the extra ``export``.

    Raises
    ------
    ExportError
        If it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError:
        raise ExportError(f"{what} need {package}; install it with: pip install 'shutterless[export]'") from None

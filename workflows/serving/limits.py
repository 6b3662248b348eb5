"""Check the limits of requests to a scoring server: size, time, and files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shutterless.workflows.serving.bodies import RequestError

ALLOW_VARIABLE = "SHUTTERLESS_ALLOW"
_COUNT_VARIABLES = {"max_strips": "SHUTTERLESS_MAX_STRIPS", "max_rows": "SHUTTERLESS_MAX_ROWS"}
_SEARCH_KEYS = ("path", "paths", "quadrant", "false_alarms_per_hour")


class LimitError(ValueError):
    """A limit or a folder with which a server cannot start."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request.

    Parameters
    ----------
    allowed : tuple of Path
        Folders whose files may be searched, from `allow_folders`. Without folders no file may be searched.
    max_bytes : int
        Largest size of a body.
    max_strips : int
    max_rows : int
        Largest number of rows of all files of a search.
    timeout_s : float
        Longest time for an answer.
    """

    allowed: tuple[Path, ...] = ()
    max_bytes: int = 64_000_000
    max_strips: int = 4096
    max_rows: int = 500_000
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_strips", "max_rows", "timeout_s"):
            if not getattr(self, name) > 0:
                raise LimitError(f"{name} = {getattr(self, name)} is not a positive number")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Limits:
        """Limits from the environment, for servers without these options, such as ``mlflow models serve``.

        Raises
        ------
        LimitError
            If a variable cannot be understood.
        """
        counts = {}
        for name, variable in _COUNT_VARIABLES.items():
            text = environment.get(variable, str(getattr(cls, name)))
            if not text.isdecimal():
                raise LimitError(f"{variable} = {text!r} is not a whole number")
            counts[name] = int(text)
        folders = filter(None, environment.get(ALLOW_VARIABLE, "").split(os.pathsep))
        return cls(allow_folders(folders), **counts)


def allow_folders(folders: Iterable[str | Path]) -> tuple[Path, ...]:
    """Folders whose files may be searched, as given and with symbolic links resolved.

    Raises
    ------
    LimitError
        If one of them is no folder.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise LimitError(f"{folder}, of which files may be searched, is no folder")
        found[Path(os.path.normpath(Path(folder).absolute()))] = None
        found[Path(folder).resolve()] = None
    return tuple(found)


def allowed_file(text: Any, allowed: tuple[Path, ...]) -> Path:
    """Resolve links and ``..`` in a client's path, and check that it lies in an allowed folder.

    Files outside are refused without being accessed, in the same words whether they exist or not.

    Raises
    ------
    RequestError
        If the path lies elsewhere.
    """
    if not _is_path(text):
        raise RequestError(f"{text!a} is not the path of a file", 400)
    if not allowed:
        raise RequestError(
            f"this server reads no files; it is started with --allow FOLDER or {ALLOW_VARIABLE} to do so", 403
        )
    if not Path(text).is_absolute():
        raise RequestError(f"{text} is relative; give the whole path", 400)
    resolved = Path(os.path.normpath(text))
    if _lies_within(resolved, allowed):
        resolved = Path(os.path.realpath(text))
    if not _lies_within(resolved, allowed):
        raise RequestError(f"{text} is not in a folder that this server may read", 403)
    return resolved


def _is_path(text: Any) -> bool:
    if not isinstance(text, str) or not text or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can hold half of a surrogate pair
        return False
    return True


def _lies_within(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


@dataclass(frozen=True)
class SearchRequest:
    """Files to search, the quadrants of each (None: all), and false alarms per amplifier-hour (None: the default)."""

    targets: Mapping[Path, frozenset[int] | None]
    false_alarms_per_hour: float | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any], allowed: tuple[Path, ...]) -> SearchRequest:
        """Request from JSON: ``path`` or ``paths``, and optionally ``quadrant`` and ``false_alarms_per_hour``.

        Raises
        ------
        RequestError
            If a key or value is unknown, or a file lies outside the allowed folders.
        """
        unknown = sorted(set(values) - set(_SEARCH_KEYS))
        if unknown:
            raise RequestError(f"unknown keys {unknown!a}; a search takes {list(_SEARCH_KEYS)}", 400)
        if ("path" in values) == ("paths" in values):
            raise RequestError("give either path (one file) or paths (a list of files)", 400)
        paths = values["paths"] if "paths" in values else [values["path"]]
        if not isinstance(paths, list) or not paths:
            raise RequestError(f"paths is {paths!a}; a list of files is expected", 400)
        return cls.of_pairs([(path, values.get("quadrant")) for path in paths], values, allowed)

    @classmethod
    def of_pairs(
        cls, pairs: Iterable[tuple[Any, Any]], values: Mapping[str, Any], allowed: tuple[Path, ...]
    ) -> SearchRequest:
        """Request from pairs of file and quadrant (None: all), and ``false_alarms_per_hour``; errors as `parse`."""
        targets: dict[Path, frozenset[int] | None] = {}
        for text, quadrant in pairs:
            path, own = allowed_file(text, allowed), _read_quadrant(quadrant)
            before = targets.get(path, frozenset())
            targets[path] = None if own is None or before is None else before | own
        return cls(targets, _read_rate(values.get("false_alarms_per_hour")))


def _read_quadrant(value: Any) -> frozenset[int] | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value % 1 != 0:
        raise RequestError(f"quadrant = {value!a} is not a whole number from 1", 400)
    return frozenset({int(value)})


def _read_rate(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise RequestError(f"false_alarms_per_hour = {value!a} is not a positive number", 400)
    return float(value)

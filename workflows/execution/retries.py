"""Run one item: its outcome, errors that are recorded instead of raised, and errors that are worth another try."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

# what a damaged file, a full disk or a file too large for a worker raise (FrameError, ProfileError and all errors of
# this package are ValueErrors); anything else is a mistake in the program and stops the run
EXPECTED_ERRORS = (OSError, ValueError, MemoryError)


class UnreadableError(ValueError):
    """A file or amplifier that led to an exception that no one expected."""


RETRIES = 2  # of an item with an error that may pass; with the pauses below they take 2.5 s

_FIRST_PAUSE_S = 0.5
_PAUSE_GROWTH = 4


@dataclass(frozen=True)
class ItemOutcome(Generic[Item, Value]):
    """Outcome of one item: its value, or the reason why there is none (``"FrameError: ..."``)."""

    item: Item
    value: Value | None = None
    error: str | None = None


def call_recorded(function: Callable[[Item], Value], item: Item) -> ItemOutcome[Item, Value]:
    """Call a function on an item, and record an expected failure as a reason."""
    return try_item(function, item)[0]


def try_item(
    function: Callable[[Item], Value], item: Item, pause_s: float = 0.0
) -> tuple[ItemOutcome[Item, Value], float]:
    """Call a function on an item once, after a pause.

    Returns
    -------
    outcome : ItemOutcome
    worth : float
        Number of further tries: 0 if there is a value, else as `worth_retrying`.
    """
    if pause_s:
        time.sleep(pause_s)
    try:
        return ItemOutcome(item, value=function(item)), 0
    except EXPECTED_ERRORS as error:
        return ItemOutcome(item, error=describe_error(error)), worth_retrying(error)


def alone(function: Callable[..., Value], what: object) -> Callable[..., Value]:
    """Function whose unexpected exceptions become an `UnreadableError` of ``what``, so that they end nothing else.

    A header, a tile or a pixel that no one thought of can lead to any exception. The message names its type.
    """

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Value:
        try:
            return function(*args, **options)
        except EXPECTED_ERRORS:
            raise
        except Exception as error:
            raise UnreadableError(f"{what} cannot be used: {describe_error(error)}; please report this file") from error

    return run


def describe_error(error: BaseException) -> str:
    """One line: the type and the message of an exception."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def worth_retrying(error: BaseException) -> float:
    """Number of further tries that make sense after an error.

    A file system with a passing fault (an NFS server that restarts, a stale handle) raises an `OSError`. A missing file
    may not have reached this machine yet, which is worth one more try. Damaged data stay damaged. But a `FrameError`
    whose cause is an error of the operating system (with a number) may pass, too.
    """
    cause = error.__cause__
    if isinstance(error, ValueError) and isinstance(cause, OSError) and cause.errno is not None:
        error = cause
    if isinstance(error, FileNotFoundError):
        return 1
    return float("inf") if isinstance(error, OSError) else 0


def pause_before(attempt: int) -> float:
    """Seconds to wait before the first try of an item (0), the second (0.5), the third (2), …."""
    return _FIRST_PAUSE_S * _PAUSE_GROWTH ** (attempt - 1) if attempt else 0.0

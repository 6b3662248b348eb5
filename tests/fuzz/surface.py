"""What is fuzzed, and how one input is tried: a good result, or one line of an error that the package documents."""

from __future__ import annotations

import atexit
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

LONGEST_S = 20.0  # of processor time for one input


@dataclass(frozen=True)
class Surface:
    """A place where the package takes what others wrote.

    Parameters
    ----------
    name : str
    inputs : SearchStrategy
        Plain values, so that what is printed of a failure is a test.
    use : callable
        Gets an input and an empty folder.
    errors : tuple of type
        What may be raised.
    names : str
        What the message of an error must hold, such as the name of the file.
    share : float
        Part of the inputs of a long run.
    n_short : int
        Inputs in a run of the tests.
    prepare : callable
        Makes what all inputs begin with; called before processes that use it.
    """

    name: str
    inputs: SearchStrategy[Any]
    use: Callable[[Any, Path], None]
    errors: tuple[type[Exception], ...]
    names: str = ""
    share: float = 1.0
    n_short: int = 40
    prepare: Callable[[], object] = lambda: None


def try_input(surface: Surface, value: Any) -> None:
    """Use an input; whatever breaks the rule is an `AssertionError` or the exception itself."""
    with empty_folder() as folder, _limited_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            surface.use(value, folder)
        except surface.errors as error:
            _check_message(str(error), surface.names)


def _check_message(message: str, names: str) -> None:
    assert message.strip(), "an error without a message"
    assert "\n" not in message, f"more than a line: {message!r}"
    assert names in message, f"{names} is not named: {message!r}"


@contextmanager
def empty_folder() -> Iterator[Path]:
    """A folder for one input."""
    folder = _new_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def kept_folder(name: str) -> Path:
    """A folder that lasts as long as the process."""
    folder = _new_folder() / name
    folder.mkdir()
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return folder


def _new_folder() -> Path:
    """A folder in memory where there is one, since 10⁵ inputs are written."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))


@contextmanager
def _limited_time() -> Iterator[None]:
    def end(*_: object) -> None:
        raise AssertionError(f"more than {LONGEST_S:g} s of processor time")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)

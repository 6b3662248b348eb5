"""Share code among commands: exit codes, errors in one line, lists of failures, plans. Imports nothing heavy."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shutterless.workflows.commands.guide import suggest

if TYPE_CHECKING:
    import pandas as pd

    from shutterless.workflows.execution.progress import Progress

DONE, SOME_FAILED, BAD_USAGE = 0, 1, 2
_LISTED = 100  # failures shown; the table has the rest


def exit_with_code(function: Callable[..., int]) -> Callable[..., None]:
    """Make a command exit with its return code, and print an error that the user can mend in one line."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> None:
        warnings.formatwarning = _plain_warning  # type: ignore[assignment]
        try:
            code = function(*args, **options)
        except (OSError, ValueError) as error:  # every error for users is one of these
            if options.get("debug"):
                raise
            typer.echo(f"error: {' '.join(str(error).split()) or type(error).__name__}", err=True)
            code = BAD_USAGE
        raise typer.Exit(code)

    return run


def parse_numbers(text: str) -> list[int]:
    """``"1,3"`` and ``"1-4"`` as lists of numbers."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"--ccds {text!r}: expected numbers such as 1,3 or 1-4")
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers


def parse_range(text: str, option: str) -> tuple[float, float]:
    """``"5,20"`` as two numbers."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected two numbers such as 5,20") from None
    return low, high


def split_set(entries: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Settings (``section.key=value``) and header values (``KEY=VALUE``) of ``--set``."""
    settings, header = [], {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set {entry}: expected KEY=VALUE, for example --set ROWRATE=300")
        if "." in key:
            settings.append(entry)
        else:
            header[key.strip()] = value.strip()
    return settings, header


def command_line() -> str:
    """The command as it was typed; empty where the program is another one."""
    program, *arguments = sys.argv
    return shlex.join(["shutterless", *arguments]) if Path(program).stem == "shutterless" else ""


def choose_tracking(tracking: str | None) -> str:
    """Choose the tracking store of this process, and return its address.

    Raises
    ------
    ValueError
        For a server's address without ``http://``, which would be taken for a folder.
    """
    if tracking is not None and re.fullmatch(r"[\w.-]+:\d+(/.*)?", tracking):
        raise ValueError(f"--tracking {tracking}: a server's address begins with http://, a folder has no port")
    if tracking is None and os.environ.get("MLFLOW_TRACKING_URI"):
        return os.environ["MLFLOW_TRACKING_URI"]
    where = tracking or "runs"
    uri = where if "://" in where else f"sqlite:///{Path(where).resolve() / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    return uri


def make_progress(quiet: bool) -> Progress:
    """Progress on standard error, or none."""
    from shutterless.workflows.execution.progress import Progress

    return Progress(quiet=quiet)


def describe_plan(
    files: list[Path],
    instrument: str | None,
    supplied: Mapping[str, str],
    workers: int | None,
    no_dask: bool,
    pixels_per_second: float,
    written: Callable[[int], str],
    stack: bool = False,
) -> int:
    """Print what a command would do; the exit code is 0 if every file can be read."""
    from shutterless.workflows.execution.cluster import SerialExecutor
    from shutterless.workflows.execution.late_executor import estimate_duration
    from shutterless.workflows.frames.ingest import estimate_seconds, survey_files

    with tempfile.TemporaryDirectory() as work:
        survey = survey_files(
            files, instrument=instrument, supplied=supplied, executor=SerialExecutor(),
            stack=Path(work) if stack else None, with_pixels=False,
        )  # fmt: skip
    n_pixels = survey.n_pixels
    alone = estimate_seconds(n_pixels, 1, pixels_per_second)
    seconds, n_workers = estimate_duration(len(survey.tasks), alone, 1 if no_dask else workers)
    where = f"with {n_workers} workers" if n_workers > 1 else "in one process"
    read = f"{len(survey.infos)} files, {len(survey.tasks)} amplifiers, {n_pixels / 1e6:,.0f} Mpix"
    typer.echo(f"would read {read} (instrument: {', '.join(survey.instruments) or 'none'})")
    typer.echo(f"would write {written(n_pixels)}")
    each = f"{pixels_per_second / 1e6:.0f} Mpix/s each, and the start"
    typer.echo(f"would take about {seconds:,.0f} s {where} ({each})")
    for line in survey.warnings:
        typer.echo(f"warning: {line}", err=True)
    return list_failures(_failure_lines(survey.failures), what="cannot be read")


def conclude(progress: Progress, result: Any, done: str, *steps: str | tuple[object, ...]) -> int:
    """Print the instruments, warnings, result, failures and next steps of a command; return the exit code.

    ``result`` has ``instruments``, ``warnings`` and ``failures``, like every result from many files.
    """
    progress.write_line(f"instrument: {', '.join(result.instruments) or 'none'}")
    for line in result.warnings:
        typer.echo(f"warning: {line}", err=True)
    typer.echo(done)
    code = list_failures(_failure_lines(result.failures))
    suggest(*steps, quiet=progress.quiet)
    return code


def _failure_lines(failures: pd.DataFrame) -> list[str]:
    """One line per failure; whole files have no quadrant."""
    quadrants = failures["quadrant"].astype(object).where(failures["quadrant"].notna(), None)
    places = (
        path if quadrant is None else f"{path}, quadrant {quadrant}"
        for path, quadrant in zip(failures["path"], quadrants, strict=True)
    )
    return [f"{place}: {reason}" for place, reason in zip(places, failures["reason"], strict=True)]


def list_failures(lines: Iterable[str], what: str = "failed") -> int:
    """Print failures on standard error and return the exit code."""
    lines = list(lines)
    if not lines:
        return DONE
    typer.echo(f"{len(lines)} {what}:", err=True)
    for line in lines[:_LISTED]:
        typer.echo(f"  {line}", err=True)
    if len(lines) > _LISTED:
        typer.echo(f"  … and {len(lines) - _LISTED} more", err=True)
    return SOME_FAILED


def _plain_warning(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"

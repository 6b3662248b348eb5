"""Start the command line. ``shutterless --help`` must be quick, so heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from typing import Any

from shutterless.workflows.commands.interrupts import Interruption
from shutterless.workflows.execution.garbage import collect_less_often


def load_app() -> Any:
    """Load the application with all commands."""
    from shutterless.workflows.commands import (  # noqa: F401 - registers their commands
        boxes,
        deployment,
        experiments,
        frames,
        searches,
    )
    from shutterless.workflows.commands.application import app

    return app


def __getattr__(name: str) -> Any:
    """``app`` is loaded when it is asked for, since Ctrl-C must be caught before that."""
    if name == "app":
        return load_app()
    raise AttributeError(f"module {__name__} has no attribute {name}")


def main() -> None:
    """Entry point of the console script."""
    collect_less_often()
    interruption = Interruption(sys.argv[1:])
    try:
        interruption.listen()
        load_app()(prog_name="shutterless")
    finally:
        interruption.end_if_seen()


if __name__ == "__main__":
    main()

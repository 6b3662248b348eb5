"""Start the command line. ``shutterless --help`` must be quick, so heavy imports wait until a command runs."""

from __future__ import annotations

from shutterless.workflows.commands import deployment, experiments, frames, searches  # registers their commands
from shutterless.workflows.commands.application import app

__all__ = ["app", "deployment", "experiments", "frames", "main", "searches"]


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="shutterless")


if __name__ == "__main__":
    main()

"""Lines of progress where there is no terminal."""

from __future__ import annotations

import io

from rich.console import Console

from shutterless.workflows.execution.progress import Progress


def test_lines_say_how_much_time_is_left():
    """The first item takes 20 s to start, each of the others 6 s; a line comes every 10 s at most."""
    now, text = [0.0], io.StringIO()

    def items():
        for k in range(5):
            now[0] += 20 if k == 0 else 6
            yield k

    progress = Progress(console=Console(file=text, width=200), clock=lambda: now[0])
    assert list(progress.track(items(), "searching", 5)) == [0, 1, 2, 3, 4]
    assert text.getvalue().splitlines() == [
        "searching: 1/5 (20 s)",
        "searching: 3/5 (32 s, 12 s left)",
        "searching: 5/5 (44 s)",
    ]

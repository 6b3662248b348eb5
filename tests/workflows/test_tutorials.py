"""The tutorial as a reader types it: all pages in their order, in one folder that was empty before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial"
REFUSED = "promote mine 3"  # the tutorial shows a refusal here: exit code 1
WAITS = ("shutterless serve", "curl")  # the server has tests of its own


def typed_commands(page: Path) -> Iterator[str]:
    """Commands of a page in their order; a file that the page lets a reader write comes as a command, too."""
    text = page.read_text(encoding="utf-8")
    for token in MarkdownIt().parse(text):
        if token.type == "fence" and token.info == "toml":
            yield f"cat > gates.toml <<'END'\n{token.content}END"
        if token.type == "fence" and token.info == "sh":
            lines = token.content.replace("\\\n", " ").splitlines()
            yield from (line for line in lines if line.strip() and not line.startswith(WAITS))


def pages_in_order() -> list[Path]:
    """Pages as the table of contents lists them."""
    listed = re.search(r"```\{toctree\}\n(.*?)```", (TUTORIAL / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    assert listed is not None
    return [TUTORIAL / f"{name}.md" for name in listed[1].split() if (TUTORIAL / f"{name}.md").is_file()]


def test_the_tutorial_is_found():
    assert [page.stem for page in pages_in_order()] == ["first-search", "own-frames", "compare-deploy"]
    commands = [line for page in pages_in_order() for line in typed_commands(page)]
    assert len(commands) > 15
    assert sum(REFUSED in line for line in commands) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_pages_of_the_tutorial_work_one_after_the_other(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for page in pages_in_order():
        for line in typed_commands(page):
            done = subprocess.run(
                ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert "Traceback" not in done.stderr, f"{page.name}: {line}\n{done.stderr}"
            assert done.returncode == int(REFUSED in line), f"{page.name}: {line}\n{done.stderr}"

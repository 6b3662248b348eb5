"""Open pages in a real browser without a window, and ask there what a reader would see."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
_FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")
# runs once the page and the frames in it are there; the answer is read from the text that is left behind
_ASK = """
<script>
addEventListener("load", () => {{
  const documents = [...document.querySelectorAll("iframe")].map((frame) => frame.contentDocument);
  const answer = document.createElement("pre");
  answer.id = "answer";
  try {{ answer.textContent = JSON.stringify(((documents) => {{ {script} }})(documents)); }}
  catch (error) {{ answer.textContent = JSON.stringify(String(error)); }}
  document.body.append(answer);
}});
</script>
"""


def ask_browser(page: str, script: str, folder: Path, widths: Sequence[int] = (1300,)) -> Any:
    """Show a page in frames of some widths (pixels) and return what a script says of their ``documents``."""
    program = next((path for name in _PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed: the pages are not tried in a browser")
    frames = "".join(
        f'<iframe srcdoc="{html.escape(page)}" style="width: {width}px; height: 900px; border: 0"></iframe>'
        for width in widths
    )
    file = folder / "frames.html"
    file.write_text(f"<!DOCTYPE html><body>{frames}{_ASK.format(script=script)}</body>", encoding="utf-8")
    command = [program, *_FLAGS, f"--user-data-dir={folder / 'browser'}", "--dump-dom", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    (answer,) = re.findall(r'<pre id="answer">(.*?)</pre>', shown, re.S)
    return json.loads(html.unescape(answer))


def find_overflow(page: str, folder: Path) -> list[str]:
    """Say which windows of 1,300 and 800 pixels a page is wider than; none if it fits."""
    script = """
    return documents.map((page) => page.documentElement)
      .filter((root) => root.scrollWidth > root.clientWidth)
      .map((root) => `${root.scrollWidth} in a window of ${root.clientWidth}`);
    """
    return list(ask_browser(page, script, folder, (1300, 800)))


@contextmanager
def open_window(folder: Path, *flags: str) -> Iterator[Any]:
    """A window of Chromium that a test drives by its keys; skipped where Chromium or its driver is missing."""
    program = next((path for name in _PROGRAMS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its driver is installed: the page is not tried in a browser")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'driven'}", "--window-size=1300,1000", *flags):
        options.add_argument(flag)
    window = Chrome(options=options, service=ChromeService(driver))
    try:
        yield window
    finally:
        window.quit()

"""Every notebook runs from top to bottom as Jupyter runs it, leaves its figures, and links to what there is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode, v4
from workspace import FIGURES, SMALL

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
N_FIGURES = {
    "first_look_at_a_frame": 5,
    "explain_a_candidate": 7,
    "embedding_of_a_night": 3,
    "pretraining": 3,
    "train_and_compare": 3,
}
QUICK = ("first_look_at_a_frame",)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def read(name: str) -> NotebookNode:
    return jupytext.read(FOLDER / f"{name}.py")


def markdown(name: str) -> str:
    return "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run in a kernel of its own, in the folder, with every warning an error."""
    strict = v4.new_code_cell("import warnings\nwarnings.simplefilter('error')")
    as_before = v4.new_code_cell("warnings.resetwarnings()")  # the kernel's own end is no part of the notebook
    notebook.cells = [strict, *notebook.cells, as_before]
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute()


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setenv(SMALL, "1")
    monkeypatch.setenv(FIGURES, str(tmp_path / "figures"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"))  # `workspace`
    for name in ("MPLBACKEND", "SHUTTERLESS_FRAME", "SHUTTERLESS_CNN"):
        monkeypatch.delenv(name, raising=False)


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "workspace") == sorted(N_FIGURES)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in N_FIGURES]
)
def test_notebook_runs_and_leaves_its_figures(name, tmp_path):
    done = execute(read(name), tmp_path)
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    kept = sorted((tmp_path / "figures" / name).glob("*.png"))
    assert len(shown) == len(kept) == N_FIGURES[name]
    assert all(path.stat().st_size > 5000 for path in kept)
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert list(tmp_path.glob("shutterless_*")) == []  # its data is removed


@pytest.mark.usefixtures("small")
def test_a_failing_cell_and_a_warning_fail_the_test(tmp_path):
    from nbclient.exceptions import CellExecutionError

    for line, message in (("1 / 0", "ZeroDivisionError"), ("import warnings; warnings.warn('look')", "UserWarning")):
        with pytest.raises(CellExecutionError, match=message):
            execute(v4.new_notebook(cells=[v4.new_code_cell(line)]), tmp_path)


@pytest.mark.parametrize("name", N_FIGURES)
def test_notebook_tells_a_newcomer_what_to_conclude(name):
    text = markdown(name)
    assert text.startswith("# ")
    assert "## What to conclude" in text
    assert f"python notebooks/{name}.py" in text
    assert "imulated" in text  # whoever sees its figures must know that they are not the sky


@pytest.mark.parametrize("name", N_FIGURES)
def test_links_lead_somewhere(name):
    links = LINK.findall(markdown(name))
    assert any(link.startswith("../docs/") for link in links)
    assert [link for link in links if "://" not in link and not (FOLDER / link).exists()] == []


def test_the_page_on_exploring_names_every_notebook():
    page = (ROOT / "docs" / "explore.md").read_text(encoding="utf-8")
    assert [name for name in N_FIGURES if f"notebooks/{name}.py" not in page] == []
    local = [link for link in LINK.findall(page) if "://" not in link]
    assert [link for link in local if not (ROOT / "docs" / link).exists()] == []

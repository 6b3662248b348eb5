"""``import shutterless``: light, with a version, five functions, and families that ``AutoModel`` knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import shutterless
from shutterless.models.families import ModelError

from .conftest import simulate

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "from-python.md"
FRAME = "night/simulated_c01_000.fits.fz"
HEAVY = ("torch", "transformers", "numpy", "dask", "mlflow", "astropy")
IMPORTED = f"""
import sys
import shutterless
assert not set({HEAVY}) & set(sys.modules), sys.modules.keys()
assert shutterless.__version__.count(".") == 2
from transformers import AutoConfig, AutoModel
folder = sys.argv[1]
print(type(AutoConfig.from_pretrained(folder)).__name__, type(AutoModel.from_pretrained(folder)).__name__)
"""


def test_importing_shutterless_loads_nothing_and_is_enough_for_auto_model():
    folder = ROOT / "models" / "weights" / "transformer"
    done = subprocess.run([sys.executable, "-c", IMPORTED, str(folder)], capture_output=True, text=True, check=False)
    assert done.stdout == "TransformerConfig TransformerDetector\n", done.stderr


def test_every_name_of_the_front_door_is_there_and_no_other():
    assert {"search", "report", "__version__"} < set(dir(shutterless))
    assert [name for name in shutterless.__all__ if getattr(shutterless, name) is None] == []
    with pytest.raises(AttributeError, match=r"no attribute 'find'; there are .*light_curves"):
        _ = shutterless.find


@pytest.fixture(scope="module")
def one_tiny_frame(tiny_camera, tmp_path_factory) -> Path:
    """A frame of two small amplifiers with some events."""
    folder = tmp_path_factory.mktemp("front_door")
    return simulate(tiny_camera, folder, sequence="quiet", seed=11, ccds=(1,), rows=3000, events=4).files[0]


def test_the_page_from_python_runs(tiny_camera, one_tiny_frame, tmp_path, monkeypatch, capsys):
    """Every block in order, in one folder; only the frame and its camera are smaller."""
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8").replace(FRAME, str(one_tiny_frame))
    for call in ("quadrant=1", 'model="template-bank"', "bin_rows=10"):
        text = text.replace(call, f'{call}, instrument="{tiny_camera}"')
    code = "\n".join(t.content for t in MarkdownIt().parse(text) if t.type == "fence" and t.info == "python")
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "(3000, 64) 300.0"
    assert printed[1].endswith("candidates, 0 failures")
    assert printed[-1] == "shutterless-transformer 408232"
    assert (tmp_path / "found" / "report.html").is_file()
    assert (tmp_path / "mymodel-copy" / "README.md").read_text().startswith("---\nlibrary_name: shutterless\n")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [("bundled", "holds a forest, which scores the triggers"), ("template-bank", "has no weights to load; `search`")],
)
def test_what_is_no_network_is_not_loaded_as_one(reference, reason):
    with pytest.raises(ModelError, match=reason):
        shutterless.load_model(reference)


def test_a_search_from_python_takes_a_rate_and_is_resumed(tiny_camera, one_tiny_frame, tmp_path):
    options = {"model": "template-bank", "instrument": tiny_camera}
    first = shutterless.search([one_tiny_frame], tmp_path / "found", **options)
    again = shutterless.search([one_tiny_frame], tmp_path / "found", false_alarms_per_hour=5, resume=True, **options)
    assert (first.rates.asked, again.rates.asked) == (50, 5)
    assert len(again.candidates) <= len(first.candidates)

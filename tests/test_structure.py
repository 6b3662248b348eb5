"""Who may import whom, and that the folder mlflow/ never hides the library. Each check is shown to be able to fail."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipeline", "models", "workflows")
DASK = ("dask", "distributed")
FORBIDDEN = {
    "pipeline": (
        "torch",
        "transformers",
        "dask",
        "distributed",
        "mlflow",
        "shutterless.models",
        "shutterless.workflows",
    ),
    "models": ("dask", "distributed", "mlflow", "astropy.io", "shutterless.workflows"),
    "workflows": ("mlflow",),
}
MAY_IMPORT_MLFLOW = "workflows/tracking/tracking.py"
IMPORT_MLFLOW = "import mlflow; print(mlflow.__file__, hasattr(mlflow, 'MlflowClient'))"


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, `from a import b` also as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_violations(root: Path) -> list[str]:
    """Lines ``room/file.py imports module`` that the import order forbids."""
    found = set()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            for module in imported_modules(path):
                for forbidden in FORBIDDEN[room]:
                    inside = module == forbidden or module.startswith(f"{forbidden}.")
                    if inside and not (forbidden == "mlflow" and name == MAY_IMPORT_MLFLOW):
                        found.add(f"{name} imports {forbidden}")
    return sorted(found)


def find_cycles(root: Path) -> list[str]:
    """Modules that import each other in a circle when they load (imports inside functions do not count)."""
    graph: dict[str, set[str]] = {}
    for path in (p for room in ROOMS for p in (root / room).rglob("*.py")):
        name = "shutterless." + ".".join(path.relative_to(root).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[name] = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                graph[name].add(node.module or "")
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
    done: set[str] = set()
    cycles = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            cycles.append(" -> ".join((*trail[trail.index(name) :], name)))
        elif name in graph and name not in done:
            for module in sorted(graph[name] & graph.keys()):
                visit(module, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
    return cycles


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def run_python(code: str, folder: Path) -> str:
    """Output of a snippet run as `python -c` runs it: the current folder comes first on the path."""
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_imports_flow_in_one_direction():
    assert find_violations(ROOT) == []


def test_no_module_imports_itself_in_a_circle():
    assert find_cycles(ROOT) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pipeline/a.py", "import torch.nn", ["pipeline/a.py imports torch"]),
        ("pipeline/a.py", "from shutterless import models", ["pipeline/a.py imports shutterless.models"]),
        ("pipeline/deep/a.py", "def f():\n    from dask import delayed", ["pipeline/deep/a.py imports dask"]),
        ("models/a.py", "from astropy import io", ["models/a.py imports astropy.io"]),
        ("models/a.py", "from shutterless.workflows import cli", ["models/a.py imports shutterless.workflows"]),
        ("workflows/a.py", "import mlflow", ["workflows/a.py imports mlflow"]),
        ("workflows/tracking/tracking.py", "import mlflow", []),
        ("pipeline/a.py", "import torchless, numpy", []),
    ],
)
def test_the_import_check_can_fail(tmp_path, name, text, expected):
    assert find_violations(write_tree(tmp_path, {name: text})) == expected


def test_the_circle_check_can_fail(tmp_path):
    files = {"pipeline/a.py": "from shutterless.pipeline.b import x", "pipeline/b.py": "import shutterless.pipeline.a"}
    expected = "shutterless.pipeline.a -> shutterless.pipeline.b -> shutterless.pipeline.a"
    assert find_cycles(write_tree(tmp_path, files)) == [expected]


def test_mlflow_folder_holds_no_python_and_hides_nothing():
    assert list((ROOT / "mlflow").rglob("*.py")) == []
    file, is_library = run_python(IMPORT_MLFLOW, ROOT).split()
    assert is_library == "True"
    assert not Path(file).is_relative_to(ROOT / "mlflow")


def test_a_module_in_the_mlflow_folder_would_hide_the_library(tmp_path):
    write_tree(tmp_path, {"mlflow/__init__.py": ""})
    file, is_library = run_python(IMPORT_MLFLOW, tmp_path).split()
    assert (Path(file), is_library) == (tmp_path / "mlflow" / "__init__.py", "False")


def test_type_checkers_find_every_room_through_relative_links():
    for room in ROOMS:
        link = ROOT / "typings" / "shutterless" / room
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == ROOT / room


def test_declared_packages_are_the_packages_there_are():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert sorted(declared) == sorted("shutterless." + ".".join(path.parts) for path in found)


def test_no_module_is_named_like_one_of_the_standard_library():
    stems = {path.stem for room in ROOMS for path in (ROOT / room).rglob("*.py")} - {"__init__"}
    assert stems & set(sys.stdlib_module_names) == set()
    assert {"tokenize", "statistics"} <= set(sys.stdlib_module_names)  # what the check would catch


def test_every_command_stands_in_the_readme():
    from shutterless.workflows.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [info.callback.__name__ for info in app.registered_commands]
    assert [name for name in names if f"shutterless {name}" not in readme] == []
    assert len(app.registered_commands) >= 10

"""The order of the folders, who may import whom, and that mlflow/ never hides the library. Each check can fail."""

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
# folders and files from the first to the last: each imports from itself and from those before it
ORDER = {
    "pipeline": (
        *("settings.py", "compiled", "psf.py", "oriented_boxes.py", "files.py", "stored_files.py", "tokens.py"),
        *("events", "reading", "amplifier.py"),
        *("calibration/levels", "calibration/streaks", "calibration/motion", "calibration/cubes", "calibration"),
        *("detection", "context", "results", "astrometry", "store"),
        *("simulation/camera", "simulation/sky", "simulation", "injection", "examples", "plots"),
    ),
    "models": (
        *(
            "folder_readme.py",
            "evaluation",
            "forest",
            "tasks.py",
            "configuration.py",
            "dataset.py",
            "outputs.py",
            "inputs.py",
        ),
        *("mlp.py", "cnn.py", "transformer.py", "families.py", "scoring.py", "describe.py"),
        *("training", "combined", "pretraining", "explain", "boxes", "weights"),
    ),
    "workflows": (
        *("settings", "pages", "execution", "tracking", "frames", "searching", "report", "export"),
        *(
            "comparison",
            "rates",
            "training",
            "training/sweeps",
            "registry",
            "serving",
            "vetting",
            "boxes",
            "pyfunc_loader.py",
            "quickstart.py",
            "front_door.py",
        ),
        *("commands", "cli.py"),
    ),
}
MOST_FILES = 12  # code files of one folder, so that a reader sees their order
# columns of tables that say where on the detector, or in which file, a trigger lies
PLACES = {"x", "y", "column", "ccd", "quadrant", "entry", "file", "sequence", "amplifier", "star_id", "streak_id"}
PLACES |= {"row", "row_start", "row_stop", "row_peak", "first_row", "y0"}
# the logger of a module; the functions of the front door, which are named after what they open
ALLOWED_TWICE = {"log", "load_model", "report", "search"}
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


def place_of(room: str, module: str) -> int | None:
    """Position in `ORDER` of a module of a room, such as ``reading.frames``; None where it has none."""
    parts = module.split(".")
    folders = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
    names = [f"{parts[0]}.py", *folders]
    return next((ORDER[room].index(name) for name in names if name in ORDER[room]), None)


def find_upward_imports(root: Path) -> list[str]:
    """Lines ``room/file.py imports room.module``: from a folder that comes later, or has no place in the order."""
    found = set()
    for room, path in ((r, p) for r in ROOMS for p in sorted((root / r).rglob("*.py"))):
        name = ".".join(path.relative_to(root / room).with_suffix("").parts)
        here = place_of(room, name)
        if path.name == "__init__.py" and path.parent == root / room:
            continue
        for module in imported_modules(path):
            prefix = f"shutterless.{room}."
            there = place_of(room, module.removeprefix(prefix)) if module.startswith(prefix) else here
            if here is None or there is None or there > here:
                found.add(f"{room}/{path.relative_to(root / room).as_posix()} imports {module}")
    return sorted(found)


def find_shared_names(root: Path) -> dict[str, list[str]]:
    """Public classes, functions and constants that more than one module defines, with those modules."""
    owners: dict[str, list[str]] = {}
    for path in (p for room in ROOMS for p in sorted((root / room).rglob("*.py"))):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for name in _defined_names(node):
                if not name.startswith("_"):
                    owners.setdefault(name, []).append(path.relative_to(root).as_posix())
    return {name: paths for name, paths in sorted(owners.items()) if len(paths) > 1}


def _defined_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    elements = [e for target in targets for e in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [element.id for element in elements if isinstance(element, ast.Name)]


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def run_python(code: str, folder: Path) -> str:
    """Output of a snippet run as `python -c` runs it: the current folder comes first on the path."""
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def find_feature_lists(root: Path) -> dict[str, list[str]]:
    """Texts in every constant whose name ends with FEATURES: the names of the numbers that a detector sees."""
    found = {}
    for path in (p for room in ROOMS for p in sorted((root / room).rglob("*.py"))):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for name in _defined_names(node):
                if name.endswith("FEATURES") and not isinstance(node, ast.FunctionDef | ast.ClassDef):
                    texts = [
                        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                    ]
                    found[f"{path.relative_to(root).as_posix()}: {name}"] = texts
    return found


def find_places(lists: dict[str, list[str]]) -> list[str]:
    """Lines for features that are places, from which a model would learn where training events were."""
    return [f"{where} holds {name}" for where, names in lists.items() for name in names if name in PLACES]


def test_imports_flow_in_one_direction():
    assert find_violations(ROOT) == []


def test_imports_flow_from_one_folder_to_the_next():
    assert find_upward_imports(ROOT) == []


def test_every_place_in_the_order_exists():
    assert [f"{room}/{name}" for room in ROOMS for name in ORDER[room] if not (ROOT / room / name).exists()] == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pipeline/reading/a.py", "from shutterless.pipeline.store.b import c", True),
        ("pipeline/store/a.py", "from shutterless.pipeline.reading.b import c", False),
        ("pipeline/calibration/motion/a.py", "from shutterless.pipeline.calibration.exposure import c", True),
        ("pipeline/calibration/a.py", "def f():\n    from shutterless.pipeline.detection import c", True),
        ("pipeline/psf.py", "from shutterless.pipeline.amplifier import c", True),
        ("pipeline/nowhere/a.py", "import shutterless.pipeline.psf", True),
        ("workflows/tracking/a.py", "from shutterless.workflows.searching.search import c", True),
        ("workflows/commands/a.py", "from shutterless.workflows.quickstart import c", False),
    ],
)
def test_the_folder_check_can_fail(tmp_path, name, text, expected):
    assert bool(find_upward_imports(write_tree(tmp_path, {name: text}))) == expected


def test_no_folder_holds_more_files_than_a_reader_can_order():
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    counts = {folder: sum(p.name != "__init__.py" for p in folder.glob("*.py")) for folder in folders}
    assert {str(folder): n for folder, n in counts.items() if n > MOST_FILES} == {}
    assert max(counts.values()) >= 10  # what is counted


def test_every_folder_says_what_it_is_for():
    inits = [path for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
    assert [str(path) for path in inits if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_no_public_name_has_two_meanings():
    shared = find_shared_names(ROOT)
    assert {name: paths for name, paths in shared.items() if name not in ALLOWED_TWICE} == {}


def test_the_check_of_names_can_fail(tmp_path):
    files = {"pipeline/a.py": "class Wave: ...\nA, B = 1, 2", "models/b.py": "Wave = 3\ndef _f(): ...\nB: int = 4"}
    found = find_shared_names(write_tree(tmp_path, files))
    assert found == {"B": ["models/b.py", "pipeline/a.py"], "Wave": ["models/b.py", "pipeline/a.py"]} or found == {
        "B": ["pipeline/a.py", "models/b.py"], "Wave": ["pipeline/a.py", "models/b.py"]
    }  # fmt: skip


def test_no_feature_is_a_place_on_the_detector():
    lists = find_feature_lists(ROOT)
    assert "snr" in lists["pipeline/tokens.py: STAGE1_FEATURES"]
    assert find_places(lists) == []


def test_the_check_of_features_can_fail(tmp_path):
    (tmp_path / "models").mkdir()
    text = 'CONTEXT_FEATURES = ("n_near", "row_peak")\nROWS = ("x",)\n'
    (tmp_path / "models" / "forest.py").write_text(text, encoding="utf-8")
    assert find_places(find_feature_lists(tmp_path)) == ["models/forest.py: CONTEXT_FEATURES holds row_peak"]


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
    assert sorted(declared) == ["shutterless", *sorted("shutterless." + ".".join(path.parts) for path in found)]


def test_no_module_is_named_like_one_of_the_standard_library():
    stems = {path.stem for room in ROOMS for path in (ROOT / room).rglob("*.py")} - {"__init__"}
    assert stems & set(sys.stdlib_module_names) == set()
    assert {"tokenize", "statistics"} <= set(sys.stdlib_module_names)  # what the check would catch


def test_every_command_stands_in_the_readme():
    from shutterless.workflows.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [info.name for info in app.registered_commands]
    assert [name for name in names if f"shutterless {name}" not in readme] == []
    assert len(app.registered_commands) >= 10

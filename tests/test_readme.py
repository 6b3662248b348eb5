"""The README and the repository agree: its tree of folders, the files it names, its length. Each check can fail."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROOMS = ("pipeline", "models", "workflows")
LENGTHS = range(150, 201)
_CODE = re.compile(r"`([^`]+)`")
_FILE = re.compile(r"`([\w./-]+\.(?:py|toml|json|md|html|css))`")


def tracked_files() -> set[str]:
    """Paths of the repository that git knows, so that what a run leaves behind does not count."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    return set(listed.stdout.splitlines())


def folders_of(files: set[str]) -> set[str]:
    """Folders within the rooms that hold at least one file; a model that ships is one folder, with all its parts."""
    parents = [PurePosixPath(name).parent.parts for name in files]
    parents = [parts[:3] if parts[:2] == ("models", "weights") else parts for parts in parents]
    return {"/".join(parts) for parts in parents if parts and parts[0] in ROOMS} - {*ROOMS}


def tree_rows(text: str) -> list[tuple[str, list[str]]]:
    """Folder and files of every row of the tables that stand under the name of a room, in their order."""
    rows, room = [], ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            room = ""
        elif cells[0] in {f"`{name}/`" for name in ROOMS}:
            room = cells[0].strip("`/")
        elif room and not cells[0].startswith("---"):
            folder = _CODE.search(cells[0])
            rows.append((f"{room}/{folder[1].rstrip('/')}" if folder else room, _FILE.findall(cells[2])))
    return rows


def missing_folders(text: str, files: set[str]) -> list[str]:
    """Folders that do not stand in the tree, and folders of the tree that do not exist or stand there twice."""
    named, known = [folder for folder, _ in tree_rows(text) if folder not in ROOMS], folders_of(files)
    return sorted({*known} ^ {*named}) + sorted({folder for folder in named if named.count(folder) > 1})


def missing_files(text: str, files: set[str]) -> list[str]:
    """Files that the README names where there are none, and rows of the tree that name no file."""
    named = [f"{folder}/{file}" for folder, row in tree_rows(text) for file in row]
    named += [path for path in _FILE.findall(text) if path.split("/")[0] in ROOMS and "/" in path]
    return [path for path in named if path not in files] + [folder for folder, row in tree_rows(text) if not row]


def test_every_folder_of_the_three_rooms_stands_in_the_tree():
    assert missing_folders(README, tracked_files()) == []


def test_every_file_that_is_named_exists():
    assert missing_files(README, tracked_files()) == []
    assert len(_FILE.findall(README)) > 100  # what is checked


def test_the_readme_can_be_read_at_one_sitting():
    assert len(README.splitlines()) in LENGTHS


TREE = """
| `pipeline/` | arrays | files |
|---|---|---|
| `reading/` | read | `rows.py`; `frames.py` text |
| files beside them | | `psf.py` |

| to change | open first |
|---|---|
| a row | `pipeline/reading/rows.py` |
"""
FILES = {"pipeline/reading/rows.py", "pipeline/reading/frames.py", "pipeline/psf.py", "docs/index.md", "README.md"}


def test_a_right_tree_passes():
    assert tree_rows(TREE) == [("pipeline/reading", ["rows.py", "frames.py"]), ("pipeline", ["psf.py"])]
    assert missing_folders(TREE, FILES) == missing_files(TREE, FILES) == []


@pytest.mark.parametrize(
    ("tree", "files", "folders", "named"),
    [
        (TREE, FILES | {"pipeline/store/store.py"}, ["pipeline/store"], []),
        (TREE, FILES - {"pipeline/reading/frames.py"}, [], ["pipeline/reading/frames.py"]),
        (TREE, {"pipeline/psf.py"}, ["pipeline/reading"], ["pipeline/reading/rows.py", "pipeline/reading/frames.py"]),
        (TREE.replace("| `psf.py`", "| none"), FILES, [], ["pipeline"]),
        (TREE.replace("reading/rows.py", "reading/row.py"), FILES, [], ["pipeline/reading/row.py"]),
        (TREE.replace("| files beside them", "| `reading/`"), FILES, ["pipeline/reading"], ["pipeline/reading/psf.py"]),
    ],
)
def test_a_wrong_tree_is_found(tree, files, folders, named):
    assert missing_folders(tree, files) == folders
    assert sorted(set(missing_files(tree, files))) == sorted(set(named))

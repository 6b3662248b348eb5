"""Keep what a finished search was made from, so that ``--resume`` need not make the same tables again.

A search of 10,000 files that is resumed with the same arguments only checks that the files, its parts and its tables
are what they were. Anything else is searched and joined anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shutterless.pipeline.files import hash_file, write_text
from shutterless.pipeline.stored_files import StoredFileError, read_json
from shutterless.workflows.searching.segment_search import fingerprint_file, hash_plain, part_hash

FINISHED = "finished.json"


def digest_inputs(paths: Sequence[Path], shared: Mapping[str, Any]) -> str | None:
    """Hash of the files, by size, both ends and time of change, and of all else that decides what a search writes.

    Parameters
    ----------
    paths : sequence of Path
    shared : mapping
        Plain values.

    Returns
    -------
    str or None
        None if a file cannot be read.
    """
    files = [[str(path), str(path.absolute()), fingerprint_file(path)] for path in paths]
    return None if any(file[-1] is None for file in files) else hash_plain([shared, files])


def write_finished(
    out: Path, inputs: str, segments: Iterable[str], tables: Iterable[str], said: Mapping[str, Any]
) -> None:
    """Keep the hashes of a search that was just finished, and what it told the user.

    Parameters
    ----------
    out : Path
    inputs : str
        From `digest_inputs`.
    segments, tables : iterable of str
        Names of the parts, and of the files that were made from them.
    said : mapping
        Plain values.
    """
    names = list(segments)
    about = {"inputs": inputs, "segments": names, "parts": hash_plain([part_hash(out, name) for name in names])}
    hashes = {name: hash_file(out / name).hexdigest() for name in tables}
    write_text(out / FINISHED, json.dumps({**about, "tables": hashes, "said": said}))


def read_finished_from(out: Path, inputs: str | None) -> dict[str, Any] | None:
    """What a finished search told the user, if it was made from these inputs and is whole; None otherwise."""
    try:
        about = read_json(out / FINISHED)
        if inputs is None or about["inputs"] != inputs:
            return None
        if any(hash_file(out / name).hexdigest() != known for name, known in about["tables"].items()):
            return None
        parts = [part_hash(out, name) for name in about["segments"]]
        return dict(about["said"]) if None not in parts and hash_plain(parts) == about["parts"] else None
    except (FileNotFoundError, KeyError, StoredFileError):
        return None

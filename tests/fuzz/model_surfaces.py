"""Folders of models: networks, forests and combined detectors, with other sizes, shapes, weights and files."""

from __future__ import annotations

import json
import shutil
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fuzz.surface import Surface, kept_folder
from fuzz.values import DAMAGES, PLACES, PUTS, Put, change_document, damage, to_json_text
from hypothesis import strategies as st

from shutterless.models.combined.combined import Combined, CombinedError
from shutterless.models.families import ModelError, build_model
from shutterless.models.forest.forest import Forest, ForestError
from shutterless.models.forest.trees import Trees
from shutterless.models.inputs import DetectorModel, FeatureError
from shutterless.models.scoring import score_strips
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.stored_files import StoredFileError
from shutterless.pipeline.tokens import GridError, TokenGrid
from shutterless.workflows.searching.detect import load_once
from shutterless.workflows.serving.tasks import example_strips

GRID = TokenGrid(n_columns=4, n_rows=32, patch_rows=8, bins=(1, 4))
ARCHITECTURES = {
    "transformer": {"hidden_size": 8, "n_layers": 1, "n_heads": 2, "mlp_size": 8},
    "cnn": {"channels": [4], "strides": [2], "kernel_rows": 5, "hidden_size": 4},
    "mlp": {"hidden_sizes": [4]},
}
KINDS = ("cnn", "mlp", "transformer", "forest", "combined")


ERRORS = (ModelError, ForestError, CombinedError, FeatureError, GridError, StoredFileError)


@dataclass(frozen=True)
class OtherTensor:
    """The entry of a tensor in the header of a safetensors file, with another value at some place."""

    place: int
    value: Any

    def write(self, content: bytes) -> bytes:
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        changed = to_json_text(change_document(header, [Put(self.place, self.value)]))
        return struct.pack("<Q", len(changed)) + changed + content[8 + size :]


@dataclass(frozen=True)
class Numbers:
    """Weights written over from some place on."""

    place: int
    value: float
    n_values: int

    def write(self, content: bytes) -> bytes:
        size = 8 + struct.unpack("<Q", content[:8])[0]
        at = size + 4 * (self.place % max((len(content) - size) // 4, 1))
        new = np.full(self.n_values, self.value, "<f4").tobytes()[: len(content) - at]
        return content[:at] + new + content[at + len(new) :]


@dataclass(frozen=True)
class ModelInput:
    """A good folder of some kind, changes of its files, and a file more."""

    kind: str
    changes: tuple[tuple[int, Any], ...] = ()
    more: str = ""

    def write(self, folder: Path) -> Path:
        target = folder / "fuzzed"
        shutil.copytree(_good_model(self.kind), target)
        for place, change in self.changes:
            files = sorted(path for path in target.rglob("*") if path.suffix in (".json", ".safetensors"))
            _change_file(files[place % len(files)], change)
        if self.more:
            (target / self.more).write_bytes(b"cos\nsystem\n(S'touch stolen'\ntR.")
        return target


def _change_file(path: Path, change: Any) -> None:
    content = path.read_bytes()
    with suppress(ValueError, struct.error):  # what an earlier change left is no document any more
        if isinstance(change, Put):
            if path.suffix == ".json":
                path.write_bytes(to_json_text(change_document(json.loads(content), [change])))
        elif isinstance(change, OtherTensor | Numbers):
            if path.suffix == ".safetensors":
                path.write_bytes(change.write(content))
        else:
            path.write_bytes(damage(content, [change]))


@cache
def _good_model(kind: str) -> Path:
    folder = kept_folder(f"model-{kind}")
    if kind == "forest":
        _forest().save(folder)
    elif kind == "combined":
        networks = tuple(
            build_model("mlp", GRID, ARCHITECTURES["mlp"], context=True, seed=seed).eval() for seed in (1, 2)
        )
        Combined(_forest(), networks, (0.1, 0.5, 0.5), -3.0).save(folder)
    else:
        build_model(kind, GRID, ARCHITECTURES[kind], seed=1).save_pretrained(folder)
    return folder


def _forest() -> Forest:
    """Two trees of one question each."""
    trees = {
        "feature": np.array([0, -1, -1, 3, -1, -1], np.int32), "threshold": np.array([5.0, 0, 0, 1.0, 0, 0]),
        "left": np.array([1, 0, 0, 4, 0, 0], np.int32), "right": np.array([2, 0, 0, 5, 0, 0], np.int32),
        "missing_left": np.array([True] * 6), "value": np.array([0, -1.0, 1.0, 0, 0.5, -0.5]),
        "root": np.array([0, 3], np.int32),
    }  # fmt: skip
    events = Trees(**trees, output=np.array([0, 0], np.int32), base=np.array([0.1]))
    classes = Trees(**trees, output=np.array([0, 1], np.int32), base=np.array([0.1, 0.2]))
    return Forest(events, classes, ("flare", "occultation"))


def prepare_models() -> None:
    """Write the good folders."""
    for kind in KINDS:
        _good_model(kind)


def use_model(value: ModelInput, folder: Path) -> None:
    """Load a model and let it score a strip, or a trigger."""
    target = value.write(folder)
    model = load_once.__wrapped__(str(target))
    numbers = np.ones((3, len(CONTEXT_FEATURES)), np.float32)
    context = pd.DataFrame(numbers, columns=list(CONTEXT_FEATURES))
    if isinstance(model, Combined):
        scores = model.score(context, lambda asked: example_strips(model.grid, int(asked.sum())))
    elif isinstance(model, Forest):
        scores = model.score(context)
    else:
        assert isinstance(model, DetectorModel)
        scores = score_strips(model, example_strips(model.grid, 3), numbers=numbers if model.sees_context else None)
    assert len(scores) == 3
    assert not value.more.endswith(".pkl")
    assert not (folder / "stolen").exists()


_CHANGES = (
    PUTS
    | PUTS
    | DAMAGES
    | st.builds(
        OtherTensor, PLACES, st.integers(-1, 70) | st.sampled_from(["F64", "I8", "BF16", 10**12, [10**9, 10**9], []])
    )
    | st.builds(Numbers, PLACES, st.sampled_from([float("nan"), float("inf"), -1e38, 1e38, 0.0]), st.integers(1, 200))
)
_MODELS = st.builds(
    ModelInput,
    st.sampled_from(KINDS),
    st.lists(st.tuples(PLACES, _CHANGES), max_size=3).map(tuple),
    st.sampled_from(["", "", "", "", "weights.pkl", "modeling_other.py", "rates.json"]),
)
SURFACES = (Surface("models", _MODELS, use_model, ERRORS, share=5, n_short=40, prepare=prepare_models),)

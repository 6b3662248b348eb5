"""Settings, profiles, policies, false-alarm curves, and labels of candidates: TOML, JSON and CSV that people write."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from conftest import TINY_PROFILE
from fuzz.surface import Surface
from fuzz.values import DAMAGES, PUTS, change_document, damage, to_json_text, to_toml
from hypothesis import strategies as st

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.reading.instruments import ProfileError, load_profile
from shutterless.pipeline.results.labels import (
    LABEL_COLUMNS,
    LabelError,
    append_label,
    combine_vetters,
    read_label_lines,
    standing_labels,
)
from shutterless.pipeline.settings import SettingsError
from shutterless.workflows.registry.policy import load_policy
from shutterless.workflows.searching.detect import RatesError, read_rates
from shutterless.workflows.settings.settings import default_toml, load_settings


@dataclass(frozen=True)
class DocumentInput:
    """A document that is right but for some places, and damages of its bytes."""

    base: str
    changes: tuple[Any, ...] = ()
    damages: tuple[Any, ...] = ()

    def write(self, path: Path) -> Path:
        document = change_document(_base(self.base), self.changes)
        content = to_json_text(document) if path.suffix == ".json" else to_toml(document)
        path.write_bytes(damage(content, self.damages))
        return path


@cache
def _base(name: str) -> Any:
    profiles = resources.files("shutterless.pipeline.reading.profiles")
    if name == "settings":
        return tomllib.loads(default_toml())
    if name == "policy":
        folder = resources.files("shutterless.workflows.settings.configs")
        return tomllib.loads(folder.joinpath("registry.toml").read_text(encoding="utf-8"))
    if name == "rates":
        return RateCurve(np.linspace(9.0, 2.0, 60), 3.5).to_dict()
    text = TINY_PROFILE if name == "tiny" else profiles.joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return json.loads(json.dumps(tomllib.loads(text)))


def use_settings(value: DocumentInput, folder: Path) -> None:
    load_settings(value.write(folder / "fuzzed.toml"))


def use_policy(value: DocumentInput, folder: Path) -> None:
    load_policy(value.write(folder / "fuzzed.toml"))


def use_profile(value: DocumentInput, folder: Path) -> None:
    profile = load_profile.__wrapped__(str(value.write(folder / "fuzzed.toml")))
    assert all(isinstance(keyword, str) for keyword in profile.header_keywords)


def use_rates(value: DocumentInput, folder: Path) -> None:
    value.write(folder / "rates.json")
    curve = read_rates(folder)
    assert curve is not None
    for rate in (0.01, 50.0):
        assert not np.isnan(curve.threshold(rate)[0])


_LABEL = dict.fromkeys(LABEL_COLUMNS, "1") | {"label": "artefact", "kind": "pickup", "who": "ada", "candidate_id": "a"}


@dataclass(frozen=True)
class LabelsInput:
    """Lines of labels, some fields of which hold something else, and damages of their bytes."""

    fields: tuple[tuple[int, str, str], ...] = ()
    damages: tuple[Any, ...] = ()

    def write(self, path: Path) -> Path:
        rows = [dict(_LABEL) for _ in range(4)]
        for row, column, text in self.fields:
            rows[row][column] = text
        lines = [",".join(LABEL_COLUMNS), *(",".join(row.values()) for row in rows)]
        path.write_bytes(damage("".join(f"{line}\n" for line in lines).encode(errors="surrogatepass"), self.damages))
        return path


def use_labels(value: LabelsInput, folder: Path) -> None:
    path = value.write(folder / "labels.csv")
    before = read_label_lines(path).lines
    combined = combine_vetters(standing_labels(before))
    assert combined["weight"].between(0, 1).all()
    append_label(path, _LABEL)  # what was read without an error also takes the next label
    assert len(read_label_lines(path).lines) == len(before) + 1


_LABEL_TEXTS = st.sampled_from(
    ["", "event", "undo", "unsure", "nan", "inf", "1e400", "-1", "0.5", '"', "a\nb", " [torn]"]
)


def _documents(*bases: str) -> st.SearchStrategy[DocumentInput]:
    return st.builds(
        DocumentInput,
        st.sampled_from(bases),
        st.lists(PUTS, max_size=3).map(tuple),
        st.just(()) | st.lists(DAMAGES, max_size=1).map(tuple),
    )


SURFACES = (
    Surface("settings", _documents("settings"), use_settings, (SettingsError,), "fuzzed.toml", 3, 25),
    Surface("policies", _documents("policy"), use_policy, (SettingsError,), "fuzzed.toml", 4, 30),
    Surface(
        "profiles",
        _documents("tiny", "ztf", "kepler", "tess", "cube"),
        use_profile,
        (ProfileError,),
        "fuzzed.toml",
        8,
        80,
    ),
    Surface("rates", _documents("rates"), use_rates, (RatesError,), "rates.json", 5, 50),
    Surface(
        "labels",
        st.builds(
            LabelsInput,
            st.lists(
                st.tuples(st.integers(0, 3), st.sampled_from(LABEL_COLUMNS), _LABEL_TEXTS | st.text(max_size=5)),
                max_size=3,
            ).map(tuple),
            st.lists(DAMAGES, max_size=2).map(tuple),
        ),
        use_labels,
        (LabelError,),
        "labels.csv",
        3,
        60,
    ),
)

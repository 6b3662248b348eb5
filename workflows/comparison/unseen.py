"""Refuse to judge a model on what it was trained on: frames, sequences, or fields drawn from the same seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.pipeline.simulation.fields import drawn_seed
from shutterless.pipeline.store.store import manifest_hash
from shutterless.workflows.tracking.record import TRAINED_ON, TRAINING


class SeenError(ValueError):
    """A model and frames of which the model has seen a part."""


def describe_frames(*stores: tuple[str | Path, pd.DataFrame]) -> dict[str, Any]:
    """What identifies the frames of a training: written into ``training.json`` under `TRAINED_ON`.

    Parameters
    ----------
    stores : (path, DataFrame)
        Each store with its manifest.

    Returns
    -------
    dict
        ``stores``, ``sequences`` and ``contents`` (hash of each entry), sorted lists.
    """
    manifest = pd.concat([own for _, own in stores], ignore_index=True)
    return {
        "stores": [str(store) for store, _ in stores],
        "sequences": sorted(manifest["sequence"].dropna().astype(str).unique()),
        "contents": sorted(manifest["content_hash"].dropna().astype(str).unique()),
    }


def join_frames(*described: Mapping[str, Any]) -> dict[str, Any]:
    """Join what identifies the frames of several trainings, such as of a model and of the one that it started from."""
    names = sorted({name for own in described for name in own})
    return {name: sorted({value for own in described for value in own.get(name, [])}) for name in names}


def read_trained_on(folder: str | Path) -> dict[str, Any]:
    """What identifies the frames that a model was trained on; empty if that was not recorded."""
    return dict(_read_training(folder).get(TRAINED_ON, {}))


def check_not_trained_on(folder: str | Path, manifest: pd.DataFrame, store: str | Path) -> None:
    """Refuse a model that was trained on a store, or on a part of it.

    Parameters
    ----------
    folder : path
        Of the model.
    manifest : DataFrame
        Of the store that it is to be judged on.
    store : path
        Named in the message.

    Raises
    ------
    SeenError
        If the training had the same store, an entry with the same content, a sequence of the same name, or fields that
        were drawn from the same seed. A model whose training is not recorded passes.
    """
    known, trained = _read_training(folder), read_trained_on(folder)
    if manifest_hash(manifest) in str(known.get("manifest_hash", "")).split("+"):
        raise SeenError(f"model {folder} was trained on the frames of {store} themselves; {_REMEDY}")
    seen = manifest[manifest["content_hash"].isin(trained.get("contents", []))]
    if not seen.empty:
        raise SeenError(
            f"model {folder} was trained on {_stores(trained)}, which holds the same pixels as entry "
            f"{seen['entry'].iloc[0]} of {store}; {_REMEDY}"
        )
    check_sequences_unseen(folder, manifest["sequence"].dropna().astype(str).unique(), store)


def check_sequences_unseen(folder: str | Path, sequences: Iterable[str], where: str | Path) -> None:
    """Refuse a model whose training had one of these sequences, or fields drawn from one of their seeds.

    Parameters
    ----------
    folder : path
        Of the model.
    sequences : iterable of str
        Names of the sequences that it is to be judged on.
    where : str or path
        Where they are; named in the message.

    Raises
    ------
    SeenError
        As `check_not_trained_on`.
    """
    trained, sequences = read_trained_on(folder), sorted(sequences)
    own = set(trained.get("sequences", []))
    if shared := [name for name in sequences if name in own]:
        raise SeenError(
            f"model {folder} was trained on sequence {shared[0]!r} of {_stores(trained)}, and {where} holds it too; "
            f"{_REMEDY}"
        )
    seeds = {seed: name for name in sorted(own) if (seed := drawn_seed(name)) is not None}
    for name in sequences:
        if (seed := drawn_seed(name)) in seeds:
            raise SeenError(
                f"model {folder} was trained on {seeds[seed]!r} of {_stores(trained)}, and {name!r} of {where} was "
                f"drawn from the same seed {seed}: they may show the same stars; {_REMEDY}"
            )


_REMEDY = "what it finds there is no measure of what it finds elsewhere: judge it on other frames"


def _stores(trained: Mapping[str, Any]) -> str:
    return " and ".join(trained.get("stores", [])) or "a store"


def _read_training(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / TRAINING
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

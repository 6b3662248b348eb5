"""Add candidates that people vetted to the examples of a training, and list the labels that are probably wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.families import build_model
from shutterless.models.training.wrong_labels import find_suspects, label_probability, score_out_of_fold
from shutterless.pipeline.examples.training import TrainingSet, concatenate_training_sets
from shutterless.pipeline.examples.vetted import cut_vetted, draw_vetted
from shutterless.pipeline.files import write_text
from shutterless.pipeline.results.labels import EVENT, LabelError, read_vetted
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier, read_manifest
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.execution.cluster import EXPECTED_ERRORS
from shutterless.workflows.pages.run_folder import RunFolder
from shutterless.workflows.settings.settings import TrainSettings

SUSPECTS = "suspects.csv"
_SUSPECT_COLUMNS = [
    "candidate_id",
    "label",
    "kind",
    "weight",
    "label_probability",
    "n_vetters",
    "agreed",
    "file",
    "path",
]
_FILE_KEYS = ["file", "ccd", "quadrant"]


@dataclass(frozen=True)
class LabelledSet:
    """Vetted candidates as examples.

    Parameters
    ----------
    examples : TrainingSet
        Each candidate once.
    vetted : DataFrame
        A row for each example, as `shutterless.pipeline.results.labels.read_vetted`.
    manifest : DataFrame
        Of the amplifiers that are in no store and were calibrated for this.
    notes : tuple of str
    """

    examples: TrainingSet
    vetted: pd.DataFrame
    manifest: pd.DataFrame
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """How many labels there are, in words."""
        n_events = int((self.vetted["label"] == EVENT).sum())
        n_vetters = int(self.vetted["n_vetters"].max())
        return (
            f"{len(self.vetted)} vetted candidates: {n_events} events, {len(self.vetted) - n_events} artefacts, up to "
            f"{n_vetters} vetter{'s' if n_vetters > 1 else ''} each"
        )


@dataclass(frozen=True)
class MixedSet:
    """Examples of a training with vetted ones among them.

    Parameters
    ----------
    examples : TrainingSet
    candidate : ndarray of int64, shape (b,)
        Row of the vetted candidate that each example shows; -1 for those that were drawn.
    """

    examples: TrainingSet
    candidate: np.ndarray


def cut_labelled(
    labels: Sequence[Path], store: Path, grid: TokenGrid, group_of: Callable[[int, pd.DataFrame], np.ndarray]
) -> LabelledSet:
    """Cut the examples of vetted candidates, from the store or else from the files of their search.

    Parameters
    ----------
    labels : sequence of Path
        Files of `shutterless vet`.
    store : Path
        Of the training.
    grid : TokenGrid
        Of the other examples.
    group_of : callable
        Gives the groups of vetted candidates from the place of their amplifier in the manifest; amplifiers of files
        that are not in the store follow after its last one.

    Raises
    ------
    LabelError
        If no vetted candidate has a trigger in a file that can be read.
    """
    read = read_vetted(labels)
    vetted, notes, reading = read.lines, list(read.notes), _how_to_read(labels)
    manifest = read_manifest(store)
    places = dict(zip(manifest[_FILE_KEYS].itertuples(index=False, name=None), range(len(manifest)), strict=True))
    parts: list[TrainingSet] = []
    rows: list[pd.DataFrame] = []
    outside: list[dict[str, Any]] = []
    with TemporaryDirectory() as work:
        for (path, _, _), own in vetted.groupby(["path", "ccd", "quadrant"], sort=False, dropna=False):
            first = own.iloc[0]
            place = places.get((Path(path).name, first["ccd"], first["quadrant"]))
            try:
                if place is None:
                    quadrant = None if pd.isna(first["quadrant"]) else int(first["quadrant"])
                    outside.append(ingest_amplifier(path, quadrant, work, **reading.get(path, {})))
                    amplifier = open_amplifier(work, outside[-1]["entry"])
                    place = len(manifest) + len(outside) - 1
                else:
                    amplifier = open_amplifier(store, manifest["entry"].iloc[place])
                examples, found = cut_vetted(amplifier, own, grid, group_of(place, own))
            except EXPECTED_ERRORS as error:
                notes.append(f"{len(own)} vetted candidates of {path} are left out: {error}")
                continue
            if len(found):
                parts.append(examples)
                rows.append(own.iloc[found])
            if len(found) < len(own):
                notes.append(
                    f"{len(own) - len(found)} vetted candidates of {path} have no trigger there, and are left out"
                )
    if not parts:
        raise LabelError(f"no vetted candidate of {', '.join(map(str, labels))} can be cut: {'; '.join(notes)}")
    return LabelledSet(
        concatenate_training_sets(parts), pd.concat(rows, ignore_index=True),
        pd.DataFrame(outside, columns=manifest.columns), tuple(notes),
    )  # fmt: skip


def _how_to_read(labels: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Instrument and header values of the files of the searches that the labels lie in, by path."""
    found = {}
    for path in labels:
        run = RunFolder(Path(path).absolute().parent.parent)
        for file in run.record.get("files", {}).values():
            found[file] = {name: run.record[name] for name in ("instrument", "supplied")}
    return found


def vetted_in(vetted: pd.DataFrame, manifest: pd.DataFrame, entry: str) -> pd.DataFrame:
    """Vetted candidates of one entry of a store."""
    row = manifest.set_index("entry").loc[entry]
    same = vetted["path"].map(lambda path: Path(path).name) == row["file"]
    for name in ("ccd", "quadrant"):
        same &= (vetted[name].isna() if pd.isna(row[name]) else vetted[name].eq(row[name])).fillna(False).astype(bool)
    return vetted[same]


def mix_labelled(drawn: TrainingSet, labelled: LabelledSet, settings: TrainSettings) -> MixedSet:
    """Add vetted examples so often that they are the share ``label_share`` of all."""
    n_wanted = round(settings.label_share / (1 - settings.label_share) * len(drawn))
    chosen = draw_vetted(labelled.examples.labels, n_wanted, np.random.default_rng(settings.seed))
    return MixedSet(
        concatenate_training_sets([drawn, labelled.examples[chosen]]),
        np.concatenate([np.full(len(drawn), -1, dtype=np.int64), chosen]),
    )


def list_suspects(
    mixed: MixedSet, labelled: LabelledSet, family: str, settings: TrainSettings, out: Path
) -> pd.DataFrame:
    """Write the labels that are probably wrong, the least probable first, as ``suspects.csv``.

    Parameters
    ----------
    mixed : MixedSet
    labelled : LabelledSet
    family : str
    settings : TrainSettings
        ``label_folds`` and ``label_seeds`` say how often is trained.
    out : Path
        Folder of the model.

    Returns
    -------
    DataFrame
        As written; `shutterless vet SEARCH --only FILE` shows them again.
    """
    grid, first = mixed.examples.grid, settings.seed
    probability = score_out_of_fold(
        lambda seed: build_model(family, grid, settings.architecture, seed=seed),
        mixed.examples, settings, judged=mixed.candidate, n_folds=settings.label_folds,
        seeds=range(first, first + settings.label_seeds),
    )  # fmt: skip
    shown, where = np.unique(mixed.candidate, return_index=True)
    where = where[shown >= 0]
    judged = mixed.examples[where]
    own = label_probability(judged, probability[where])
    table = labelled.vetted.iloc[mixed.candidate[where]].assign(label_probability=own)
    suspects = table.iloc[find_suspects(judged, probability[where])][_SUSPECT_COLUMNS].reset_index(drop=True)
    write_text(out / SUSPECTS, suspects.to_csv(index=False, float_format="%.4f"))
    return suspects

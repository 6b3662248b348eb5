"""Prepare a blind test of the people who vet: search copies of the frames with injected events.

The copies are searched as the frames were, so an injected event is a candidate with the same columns and pictures as
any other. What was injected stands in a file of its own, which only the summary reads.
"""

from __future__ import annotations

import math
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.pipeline.detection.matching import match_truth, number_groups
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.injection.amplifiers import InjectionSettings
from shutterless.pipeline.results.labels import BLIND_TRUTH
from shutterless.pipeline.settings import validate_settings
from shutterless.pipeline.simulation.truth import read_truth
from shutterless.pipeline.stored_files import ColumnKind, read_parquet
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.inject import inject_files
from shutterless.workflows.pages.run_folder import RunFolder, in_groups
from shutterless.workflows.searching.search import AMPLIFIERS, BUNDLED_MODEL, RECORD, search_files
from shutterless.workflows.settings.settings import SearchSettings

VETTING, BLIND = "vetting", "blind"  # folders: of vetting in a search, of the copies in it
EVENTS_PER_AMPLIFIER = 2  # few, so that they stay rare beside the noise that sets the threshold
_SPARE = 1.5  # more are injected than wanted: the search does not find all
_AMPLIFIER = ["file", "ccd", "quadrant"]
_TRUTH: dict[str, ColumnKind] = {"candidate_id": "text", "event_id": "text", "injected_kind": "text", "rho": "number"}


class VetError(ValueError):
    """A folder, file or option with which nothing can be vetted."""


@dataclass(frozen=True)
class BlindTest:
    """Injected events of a blind test.

    Parameters
    ----------
    truth : DataFrame
        ``candidate_id``, ``event_id``, ``injected_kind`` and ``rho`` of each.
    run : RunFolder
        The search of the copies.
    """

    truth: pd.DataFrame
    run: RunFolder


def open_blind(search: Path) -> BlindTest | None:
    """Open the blind test of a search; None if it has none."""
    path = Path(search) / VETTING / BLIND_TRUTH
    if not path.is_file():
        return None
    return BlindTest(read_parquet(path, _TRUTH), RunFolder(Path(search) / VETTING / BLIND / "search"))


def prepare_blind(
    search: Path, n_events: int, executor: Executor, *, seed: int | None = None, progress: Progress | None = None
) -> int:
    """Inject events into copies of frames of a search, search them, and keep some of those that are found.

    Parameters
    ----------
    search : Path
        Folder of a finished search with candidates.
    n_events : int
        Number wanted.
    executor : Executor
    seed : int, optional
        Of places, times and kinds; drawn if it is left out.
    progress : Progress, optional

    Returns
    -------
    int
        Number of injected events in the test; fewer than wanted if the search finds fewer.

    Raises
    ------
    VetError
        If the frames are gone, or the search finds none of the events.

    Notes
    -----
    Events are of all kinds that are injected by default. Their S/N begins at that of the faintest candidate and has the
    median of all candidates, so that it tells nothing. Whole sequences are copied, drawn at random. A found event is
    left out if a candidate of the frames stands there, or if the search groups it with others.
    """
    folder = Path(search) / VETTING / BLIND
    shutil.rmtree(folder, ignore_errors=True)
    run = RunFolder(search)
    assert run.candidates is not None
    rng = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    files, n_each = _choose_files(run, math.ceil(_SPARE * n_events), rng)
    record = run.record
    reading = {"instrument": record["instrument"], "supplied": record["supplied"], "executor": executor}
    copies = inject_files(
        files, folder / "frames", settings=_strength_of(run.candidates), events=n_each,
        seed=int(rng.integers(1 << 31)), hide=folder, progress=progress, **reading,
    )  # fmt: skip
    search_files(
        copies.files, reference=None if record["model"] == BUNDLED_MODEL else record["model"], out=folder / "search",
        settings=validate_settings(SearchSettings, record["settings"], str(Path(search) / RECORD)),
        catalogue=record["catalogue"], progress=progress, **reading,
    )  # fmt: skip
    found = _found_events(RunFolder(folder / "search"), read_truth(copies.truth), run.candidates)
    if found.empty:
        raise VetError(
            f"the search finds none of the {copies.n_events} events that were injected into {len(files)} files"
        )
    chosen = found.iloc[np.sort(rng.permutation(len(found))[:n_events])]
    write_parquet(chosen.reset_index(drop=True), Path(search) / VETTING / BLIND_TRUTH)
    return len(chosen)


def _strength_of(candidates: pd.DataFrame) -> InjectionSettings:
    """Settings of events that are as strong as some candidates."""
    size = candidates["snr"].abs()
    scale = (size.median() - size.min()) / math.log(2)  # of an exponential with this median
    return InjectionSettings(min_rho=float(size.min()), rho_scale=float(scale), bright_fraction=0.0)


def _choose_files(run: RunFolder, n_injected: int, rng: np.random.Generator) -> tuple[list[Path], int]:
    """Files of random sequences with room for some events, and the number of events for each amplifier."""
    paths = {name: Path(path) for name, path in run.record["files"].items()}
    amplifiers = pd.read_parquet(run.path / AMPLIFIERS)
    parts = amplifiers.assign(file=amplifiers["files"].str.split(", "))
    names = sorted(set(parts["file"].explode()))
    place = {name: k for k, name in enumerate(names)}
    pairs = [(place[files[0]], place[file]) for files in parts["file"] for file in files]
    sequence = dict(zip(names, number_groups(pairs, len(names)), strict=True))
    # a copy keeps the name of its file, so of files of one name in several folders none can be copied
    usable = {name for name in names if name == paths[name].name and paths[name].is_file()}
    n_amplifiers = parts.explode("file")[_AMPLIFIER].drop_duplicates()["file"].value_counts()
    chosen: list[str] = []
    for number in rng.permutation(max(sequence.values()) + 1):
        if n_amplifiers.reindex(chosen).sum() * EVENTS_PER_AMPLIFIER >= n_injected:
            break
        chosen += [name for name in names if sequence[name] == number and name in usable]
    if not chosen:
        raise VetError(
            f"no frame of the search {run.path} can be copied for a blind test: {paths[names[0]]} is gone, or several "
            "files have its name"
        )
    n_each = math.ceil(n_injected / n_amplifiers.reindex(chosen).sum())
    return [paths[name] for name in chosen], max(n_each, 1)


def _found_events(run: RunFolder, truth: pd.DataFrame, originals: pd.DataFrame) -> pd.DataFrame:
    """Columns of a blind test for the candidates of copies that are injected events, each event once."""
    assert run.candidates is not None
    grouped = in_groups(run.candidates)
    alone = grouped[grouped["n_in_group"] == 1]
    event = _match(alone, truth)
    real = _match(alone, originals.assign(rho=originals["snr"].abs()))
    found = alone.assign(event=event, size=alone["snr"].abs())[(event >= 0) & (real < 0)]
    best = (
        found.sort_values("size", ascending=False, kind="stable").drop_duplicates("event").sort_values("candidate_id")
    )
    own = truth.iloc[best["event"]]
    return pd.DataFrame(
        {
            "candidate_id": best["candidate_id"].to_numpy(),
            "event_id": own["event_id"].to_numpy(),
            "injected_kind": own["kind"].to_numpy(),
            "rho": own["rho"].to_numpy(),
        }
    )


def _match(candidates: pd.DataFrame, truth: pd.DataFrame) -> np.ndarray:
    """Position in ``truth`` of what each candidate matches, -1 without a match."""
    matched = np.full(len(candidates), -1, dtype=np.int64)
    sized = candidates.assign(width_rows=candidates["row_stop"] - candidates["row_start"] + 1)
    keys, others = (table[_AMPLIFIER].astype("string").fillna("").agg("/".join, axis=1) for table in (sized, truth))
    for key in keys.unique():
        own, here = np.flatnonzero(keys == key), np.flatnonzero(others == key)
        if here.size:
            found = match_truth(sized.iloc[own], truth.iloc[here])
            matched[own[found >= 0]] = here[found[found >= 0]]
    return matched

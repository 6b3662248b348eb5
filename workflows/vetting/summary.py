"""Sum up what vetters said, and measure them on the injected events among the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import wilson_interval
from shutterless.pipeline.results.labels import EVENT, read_label_lines, standing_labels
from shutterless.workflows.pages.run_folder import RunFolder
from shutterless.workflows.vetting.blind import VETTING, VetError, open_blind
from shutterless.workflows.vetting.candidate_queue import line_up
from shutterless.workflows.vetting.desk import count_labels

LABELS = "labels.csv"


@dataclass(frozen=True)
class Fraction:
    """A fraction with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """In per cent."""
        return f"{100 * self.value:.0f} % ({100 * self.low:.0f}–{100 * self.high:.0f})"


@dataclass(frozen=True)
class VetterSummary:
    """What one vetter has labelled.

    Parameters
    ----------
    who : str
    n_candidates, n_labelled : int
        Without injected events.
    counts : dict of str to int
        Labels of these candidates.
    blind : dict of str to int or None
        Labels of the injected events; None without a blind test, or until the vetter has labelled all of it.
    completeness, purity : Fraction or None
        See `measure_vetter`.
    """

    who: str
    n_candidates: int
    n_labelled: int
    counts: dict[str, int]
    blind: dict[str, int] | None
    completeness: Fraction | None
    purity: Fraction | None

    def text(self) -> str:
        """In words."""
        words = ", ".join(f"{count} {label}" for label, count in self.counts.items())
        lines = [f"{self.who}: {self.n_labelled} of {self.n_candidates} candidates labelled" + (words and f": {words}")]
        if self.blind is not None and self.completeness is not None:
            n = sum(self.blind.values())
            lines.append(
                f"Of {n} injected events {self.blind.get(EVENT, 0)} were called events: completeness "
                f"{self.completeness.text()}."
            )
        if self.purity is not None:
            lines.append(
                f"About {self.purity.text()} of the {self.counts[EVENT]} candidates called events are real, judged by "
                "the false alarms that the search expects and by this completeness."
            )
        return "\n".join(lines)


def measure_vetter(n_found: int, n_injected: int, n_called: int, n_candidates: int, n_expected: float) -> tuple[
    Fraction, Fraction | None
]:  # fmt: skip
    """Completeness and purity of a vetter, with 95 % intervals.

    Parameters
    ----------
    n_found, n_injected : int
        Injected events that were called events, and all that were vetted.
    n_called, n_candidates : int
        Candidates of the frames that were called events, and all of them.
    n_expected : float
        False alarms that the search expects among the candidates.

    Returns
    -------
    completeness : Fraction
        With its Wilson interval. Unsure counts as not found.
    purity : Fraction or None
        Share of the candidates called events that are real; None if no candidate was called so, or the search expects
        as many false alarms as it has candidates.

    Notes
    -----
    Of ``n_candidates - n_expected`` real events the vetter finds the share ``completeness``, so the purity is
    ``completeness (n_candidates - n_expected) / n_called``, at most 1. Its interval takes both ends of the completeness
    and a Poisson scatter of the false alarms.
    """
    completeness = Fraction(n_found / n_injected, *wilson_interval(n_found, n_injected))
    if not n_called or n_expected >= n_candidates:
        return completeness, None
    scatter = 1.96 * np.sqrt(n_expected)

    def purity(share: float, n_false: float) -> float:
        return float(np.clip(share * max(n_candidates - n_false, 0) / n_called, 0, 1))

    return completeness, Fraction(
        purity(completeness.value, n_expected),
        purity(completeness.low, n_expected + scatter),
        purity(completeness.high, max(n_expected - scatter, 0)),
    )


def summarise_vetters(search: Path) -> list[VetterSummary]:
    """Sum up every vetter of a search, in the order of their names.

    Raises
    ------
    VetError
        If nobody has labelled a candidate of it.
    """
    path = Path(search) / VETTING / LABELS
    standing = standing_labels(read_label_lines(path).lines) if path.is_file() else pd.DataFrame()
    if standing.empty:
        raise VetError(f"{path} holds no label; label candidates with `shutterless vet {search}` first")
    blind = open_blind(search)
    injected = set() if blind is None else set(blind.truth["candidate_id"])
    names = {queued.name for queued in line_up(search)}
    n_expected = float(RunFolder(search).record["rates"]["expected_false_alarms"])
    summaries = []
    for who, own in standing.groupby("who"):
        hidden = own[own["candidate_id"].isin(injected)]
        open_ones = own[own["candidate_id"].isin(names - injected)]
        counts, called = count_labels(open_ones), count_labels(hidden)
        completeness, purity = None, None
        is_finished = bool(injected) and len(hidden) == len(injected)
        if is_finished:
            found = measure_vetter(called.get(EVENT, 0), len(hidden), counts.get(EVENT, 0), len(open_ones), n_expected)
            completeness, purity = found[0], found[1] if len(open_ones) == len(names) else None
        summaries.append(
            VetterSummary(
                str(who), len(names), len(open_ones), counts, called if is_finished else None, completeness, purity
            )
        )
    return summaries


def describe_vetters(search: Path) -> str:
    """Every vetter of a search in words, and how often any two agree."""
    lines = [summary.text() for summary in summarise_vetters(search)]
    standing = standing_labels(read_label_lines(Path(search) / VETTING / LABELS).lines)
    labels = standing.pivot_table(index="candidate_id", columns="who", values="label", aggfunc="last")
    for one, other in combinations(labels.columns, 2):
        both = labels[[one, other]].dropna()
        lines.append(f"{one} and {other} gave the same label to {(both[one] == both[other]).sum()} of {len(both)}")
    return "\n".join(lines)

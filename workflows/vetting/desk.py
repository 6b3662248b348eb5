"""What a vetter sees and what is kept of it, apart from HTTP: cards, labels, undo, progress."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from shutterless.pipeline.results.labels import (
    ARTEFACT,
    ARTEFACT_KINDS,
    ARTEFACT_MEANINGS,
    EVENT,
    SIGNS,
    UNDO,
    UNSURE,
    append_label,
    read_label_lines,
    standing_labels,
)
from shutterless.workflows.pages.parts import Part
from shutterless.workflows.report.candidate_list import describe_candidate
from shutterless.workflows.report.pictures import calibrate_candidate
from shutterless.workflows.vetting.candidate_queue import QueuedCandidate

_CARDS_KEPT = 32


@dataclass(frozen=True)
class LabelChoice:
    """A label that a vetter can give, its key, and what it means."""

    key: str
    label: str
    kind: str
    meaning: str

    @property
    def name(self) -> str:
        """Word on the button."""
        return self.kind or self.label


CHOICES = (
    LabelChoice("e", EVENT, "", "light from the sky that changed"),
    *(LabelChoice(kind[0], ARTEFACT, kind, ARTEFACT_MEANINGS[kind]) for kind in ARTEFACT_KINDS),
    LabelChoice("u", UNSURE, "", "cannot be told"),
)
CONFIDENCES = (("1", 33, "a guess"), ("2", 67, "likely"), ("3", 100, "sure"))


class RefusedLabelError(ValueError):
    """A label that is not kept; ``status`` is that of the answer."""

    def __init__(self, reason: str, status: int = 422) -> None:
        super().__init__(reason)
        self.status = status


class Desk:
    """One vetter at the candidates of one search.

    Parameters
    ----------
    queue : sequence of QueuedCandidate
    labels : Path
        File of the labels; other vetters may append to it at the same time.
    who : str
        Name of the vetter.
    """

    def __init__(self, queue: Sequence[QueuedCandidate], labels: Path, who: str) -> None:
        self.queue, self.labels, self.who = list(queue), labels, who
        self._place = {queued.name: place for place, queued in enumerate(self.queue)}
        self._cards: dict[int, list[Part]] = {}
        self._drawing = threading.Lock()  # Matplotlib draws one figure at a time
        self._writing = threading.Lock()

    def own_labels(self) -> pd.DataFrame:
        """Labels of this vetter that stand, for candidates of the queue, in the order in which they were given."""
        if not self.labels.is_file():
            return pd.DataFrame(columns=["candidate_id", "label", "kind", "confidence"])
        standing = standing_labels(read_label_lines(self.labels).lines)
        mine = (standing["who"] == self.who) & standing["candidate_id"].isin(list(self._place))
        return standing[mine].reset_index(drop=True)

    def next_open(self, after: int = -1) -> int | None:
        """Place of the first candidate without a label, looked for from a place on; None if all have one."""
        done = set(self.own_labels()["candidate_id"])
        n = len(self.queue)
        places = ((after + 1 + step) % n for step in range(n))
        return next((place for place in places if self.queue[place].name not in done), None)

    def add(self, values: dict[str, Any]) -> int | None:
        """Keep a label; return the place of the next candidate without one.

        Parameters
        ----------
        values : dict
            ``candidate_id``, ``label``, ``kind`` (of an artefact) and ``confidence`` (0 to 100).

        Raises
        ------
        RefusedLabelError
            If a value is none that a label may have.
        """
        name, label, kind, confidence = (values.get(key) for key in ("candidate_id", "label", "kind", "confidence"))
        if not isinstance(name, str) or name not in self._place:
            raise RefusedLabelError(f"{name!a} is no candidate of this queue", 404)
        if (label, kind) not in {(choice.label, choice.kind) for choice in CHOICES}:
            known = ", ".join(choice.name for choice in CHOICES)
            raise RefusedLabelError(f"label {label!a} of kind {kind!a} is none of {known}")
        if isinstance(confidence, bool) or not isinstance(confidence, int) or not 0 <= confidence <= 100:
            raise RefusedLabelError(f"confidence is {confidence!a}; a whole number from 0 to 100 is expected")
        self._write(name, label=label, kind=kind, confidence=confidence)
        return self.next_open(self._place[name])

    def undo(self) -> int:
        """Take back the last label of this vetter; return the place of its candidate.

        Raises
        ------
        RefusedLabelError
            If there is none.
        """
        own = self.own_labels()
        if own.empty:
            raise RefusedLabelError(f"{self.who} has given no label that could be taken back", 409)
        name = str(own["candidate_id"].iloc[-1])
        self._write(name, label=UNDO)
        return self._place[name]

    def card(self, place: int) -> list[Part]:
        """Picture and numbers of a candidate; what was put there on purpose is not said."""
        with self._drawing:
            if place not in self._cards:
                queued = self.queue[place]
                calibrate_candidate(queued.run, queued.candidate)
                while len(self._cards) >= _CARDS_KEPT:
                    self._cards.pop(next(iter(self._cards)))
                self._cards[place] = describe_candidate(queued.run, queued.candidate, with_truth=False)
            return self._cards[place]

    def _write(self, name: str, **label: Any) -> None:
        queued = self.queue[self._place[name]]
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "")
        with self._writing:
            append_label(self.labels, {**queued.place, "candidate_id": name, "who": self.who, "time_utc": now, **label})


def count_labels(own: pd.DataFrame) -> dict[str, int]:
    """Number of labels of each kind, those that occur."""
    counts = own["label"].value_counts()
    return {label: int(counts[label]) for label in SIGNS if label in counts}

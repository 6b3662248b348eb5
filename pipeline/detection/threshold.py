"""How strong a trigger has to be, and how many are judged. Alone, because settings are read before slow imports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shutterless.pipeline.amplifier import Amplifier

TRIGGER_THRESHOLD = 5.0  # S/N: about one noise trigger per amplifier-second; cosmic rays add 0.85


@dataclass(frozen=True)
class TriggerBudget:
    """The most triggers of an amplifier that are judged per second of its rows.

    Parameters
    ----------
    measured_per_second : float
        Places of the scan that are measured: those that `shutterless.pipeline.detection.scan.choose_hits` takes.
    asked_per_second : float
        Triggers that the networks of a combined detector see: those that its forest ranks highest.
    """

    measured_per_second: float = math.inf
    asked_per_second: float = math.inf

    def of(self, amplifier: Amplifier) -> tuple[float, float]:
        """Whole numbers of both for the rows of an amplifier, one at least; infinite without a limit."""
        seconds = amplifier.n_rows / amplifier.readout.row_rate_hz
        measured, asked = (
            max(math.ceil(n), 1) if n < math.inf else n
            for n in (self.measured_per_second * seconds, self.asked_per_second * seconds)
        )
        return measured, asked


NO_LIMIT = TriggerBudget()

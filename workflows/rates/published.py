"""Read the rates and limits of other surveys that ship with the package."""

from __future__ import annotations

import tomllib
from importlib import resources

import pandas as pd

_COLUMNS = (
    *("survey", "reference", "source", "duration_low_s", "duration_high_s", "magnitude", "band"),
    *("is_limit", "per_deg2_day", "low", "high", "confidence", "note"),
)


def read_published() -> pd.DataFrame:
    """Rates and limits that surveys published.

    Returns
    -------
    DataFrame
        ``survey``, ``reference``, ``source``, ``duration_low_s``, ``duration_high_s``, ``magnitude`` of the faintest
        events, ``band``, ``is_limit``, ``per_deg2_day`` (a limit, or a rate with ``low`` and ``high``),
        ``confidence`` and ``note``; what an abstract does not state is missing.
    """
    text = resources.files("shutterless.workflows.rates").joinpath("published.toml").read_text(encoding="utf-8")
    rows = [
        {**entry, "duration_low_s": entry["duration_s"][0], "duration_high_s": entry["duration_s"][1]}
        for entry in tomllib.loads(text)["published"]
    ]
    table = pd.DataFrame(rows).reindex(columns=list(_COLUMNS))
    return table.sort_values(["duration_low_s", "survey"], kind="stable", ignore_index=True)

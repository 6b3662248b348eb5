"""Draw simulated fields that differ: stars, seeing, air, sky and faults anew for each, wider than the defaults.

A detector that was trained or judged under one air knows that air. Each field is a CCD of its own, so its four
amplifiers share weather and crowding and nothing with another field.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from shutterless.pipeline.simulation.settings import SceneSettings

HELD_OUT_SEEDS = range(9000, 10_000)  # of fields on which detectors are judged; nothing is trained or tuned on them

# ranges of a field's settings; those of `_LOG_UNIFORM` are drawn log-uniformly, the others uniformly. They reach
# from about a half to twice the sourced defaults of `SceneSettings`
_LOG_UNIFORM = {
    "n_bright_stars": (150.0, 500.0),
    "scintillation_rms": (0.006, 0.018),
    "scintillation_s": (0.04, 0.1),
    "motion_rms_arcsec": (0.25, 0.55),
    "motion_s": (0.06, 0.16),
    "focus_rms": (0.08, 0.2),
    "focus_s": (0.5, 2.0),
    "transparency_rms": (0.01, 0.05),
    "transparency_s": (3.0, 10.0),
}
_UNIFORM = {
    "seeing_arcsec": (1.6, 2.6),
    "star_slope": (0.25, 0.31),
    "sky_mag": (20.0, 21.2),
    "hot_columns": (0.0, 8.0),
    "traps": (0.0, 4.0),
    "dropped_runs_per_hour": (0.0, 12.0),
}


def draw_fields(seed: int, n_fields: int, base: SceneSettings, *, quiet: bool = False) -> list[SceneSettings]:
    """Draw fields with everything on.

    Parameters
    ----------
    seed : int
        Fixes all fields. Fields of another seed share no star, noise, air or event with them. `HELD_OUT_SEEDS` are for
        judging alone.
    n_fields : int
    base : SceneSettings
        What all fields have in common: rows, events, rates of lights in the sky.
    quiet : bool
        Draw the same stars and skies in still air, without lights in the sky and without faults of the detector.

    Returns
    -------
    list of SceneSettings
        Each with a sequence name, a seed and a number of CCD of its own. The name ends with ``seed`` and the number of
        the field (`drawn_seed`).
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, n_fields]))
    fields = []
    for number in range(n_fields):
        drawn: dict[str, Any] = {
            name: float(np.exp(rng.uniform(*np.log(limits)))) for name, limits in _LOG_UNIFORM.items()
        }
        drawn |= {name: float(rng.uniform(*limits)) for name, limits in _UNIFORM.items()}
        own_seed, ccd = int(rng.integers(1, 2**31)), int(rng.integers(1, 17))
        everything: dict[str, Any] = {name: not quiet for name in ("atmosphere", "detector", "sky_lights")}
        name = f"{base.sequence}-{seed}-{number:03d}"
        fields.append(replace(base, sequence=name, seed=own_seed, ccds=(ccd,), **drawn, **everything))
    return fields


def drawn_seed(sequence: str) -> int | None:
    """Seed of `draw_fields` in the name of a sequence that it drew; None for a name of another form."""
    found = _DRAWN_NAME.search(sequence)
    return int(found["seed"]) if found else None


_DRAWN_NAME = re.compile(r"-(?P<seed>\d+)-\d{3}$")

"""The combined detector: a forest ranks all triggers, networks judge those it ranks highest, and log-odds are added."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, FiniteFloat
from scipy.special import expit

from shutterless.models.describe import FOUND_IN_TRAINING, count_parameters, describe_detector, hyperparameters
from shutterless.models.families import family_of, load_model
from shutterless.models.folder_readme import SEARCH_USE, write_readme
from shutterless.models.forest.forest import COMBINED_TYPE, Forest, load_forest
from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import score_strips
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.detection.trails import best_of_trails
from shutterless.pipeline.settings import SettingsError, settings_class, validate_settings
from shutterless.pipeline.stored_files import read_json, refuse_pickles
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, StripBatch, TokenGrid

FOREST = "forest"  # folder of the forest in that of the detector
_CONFIG, _NETWORK = "config.json", "network-{}"
_MOST_NETWORKS, _MOST_LOGIT = 64, 1e6


class CombinedError(ValueError):
    """A combined detector that cannot be read."""


@dataclass(frozen=True)
class Combined:
    """A forest and networks.

    Parameters
    ----------
    forest : Forest
    networks : tuple of DetectorModel
        Of one grid; their log-odds are averaged.
    weights : (float, float, float)
        Intercept, weight of the forest's log-odds, and weight of the networks'. The sum is calibrated to the mix of the
        fields held back.
    ask_above : float
        Log-odds of the forest above which a trigger is shown to the networks. They are not asked in the ramp, since
        most of what they learned from is in steady rows. Where they are not asked, the forest's stand in for theirs.
    """

    sees_context: ClassVar[bool] = True
    forest: Forest
    networks: tuple[DetectorModel, ...]
    weights: tuple[float, float, float]
    ask_above: float

    @property
    def grid(self) -> TokenGrid:
        """Grid that strips must be cut with."""
        return self.networks[0].grid

    def score(
        self,
        context: pd.DataFrame,
        cut: Callable[[np.ndarray], StripBatch],
        batch_size: int = STRIPS_AT_ONCE,
        *,
        trails: np.ndarray | None = None,
        most_asked: float = math.inf,
    ) -> pd.DataFrame:
        """Score triggers.

        Parameters
        ----------
        context : DataFrame
            From `shutterless.pipeline.context.features.measure_context`.
        cut : function
            Cuts the strips of the triggers at which a bool ndarray is true.
        batch_size : int
        trails : ndarray of int, shape (n,), optional
            Number of the trail of each trigger, negative without one. The networks see the trigger of a trail that the
            forest ranks highest; what they say of it holds for the others of which they would be asked.
        most_asked : float
            Most triggers that the networks see, those that the forest ranks highest.

        Returns
        -------
        DataFrame
            As `shutterless.models.forest.forest.Forest.score`; the kind is the forest's. ``passed_over`` (bool) is true
            where the networks would have been asked but for ``most_asked``.
        """
        table = self.forest.score(context)
        forest = table["event_logit"].to_numpy()
        wanted = (forest > self.ask_above) & (context["ramp_share"].to_numpy() >= 1)
        own = np.full(len(forest), -1) if trails is None else trails
        spokesman = best_of_trails(np.where(wanted, forest, -np.inf), own)
        asked = _highest(forest, wanted & (spokesman == np.arange(len(forest))), most_asked)
        networks = forest.copy()
        if asked.any():
            numbers = context[list(CONTEXT_FEATURES)].to_numpy(np.float32)[asked]
            networks[asked] = self.ask(cut(asked), numbers, batch_size)
        answered = wanted & asked[spokesman]
        networks[answered] = networks[spokesman[answered]]
        logit = combine_logits(self.weights, forest, networks)
        return table.assign(event_logit=logit, probability=expit(logit), passed_over=wanted & ~answered)

    def ask(self, strips: StripBatch, numbers: np.ndarray, batch_size: int = STRIPS_AT_ONCE) -> np.ndarray:
        """Mean log-odds of the networks, float64 (b,)."""
        found = [score_strips(network, strips, batch_size, numbers=numbers) for network in self.networks]
        return np.mean([table["event_logit"].to_numpy() for table in found], axis=0)

    def describe(self) -> str:
        """Weights, the forest and the networks, in lines of text."""
        said = "log-odds = {:.3f} + {:.3f} x those of the forest + {:.3f} x those of the networks".format(*self.weights)
        lines = [
            said,
            f"the networks see triggers above {self.ask_above:.2f} of the forest",
            "",
            self.forest.describe(),
        ]
        for number, network in enumerate(self.networks):
            shown = _compare_networks(network, self.networks[0]) if number else _describe_network(network)
            lines += ["", f"network {number}: {shown}"]
        return "\n".join(lines)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``README.md``, and the forest and each network in folders of their own."""
        folder = Path(folder)
        self.forest.save(folder / FOREST)
        for number, network in enumerate(self.networks):
            network.save_pretrained(folder / _NETWORK.format(number))
        config = {
            "model_type": COMBINED_TYPE,
            "n_networks": len(self.networks),
            "weights": list(self.weights),
            "ask_above": self.ask_above,
        }
        (folder / _CONFIG).write_text(json.dumps(config, indent=1))
        size = f"{sum(count_parameters(network) for network in self.networks):,} parameters and a forest"
        facts = {"networks": len(self.networks), "weights": self.weights, "networks see log-odds above": self.ask_above}
        write_readme(folder, "combined", size, facts, SEARCH_USE)


def _highest(rank: np.ndarray, wanted: np.ndarray, most: float) -> np.ndarray:
    """Mask of the wanted that rank highest, the first of equals; all if they are no more than ``most``."""
    places = np.flatnonzero(wanted)
    chosen = np.zeros(len(rank), dtype=bool)
    chosen[places[np.argsort(-rank[places], kind="stable")][: min(most, len(places))]] = True
    return chosen


def _describe_network(network: DetectorModel) -> str:
    return f"{family_of(network)}, {count_parameters(network):,} parameters\n{describe_detector(network)}"


def _compare_networks(network: DetectorModel, first: DetectorModel) -> str:
    """Say what differs from the first network in words, or describe the whole network if it is built differently."""
    own, known = hyperparameters(network), hyperparameters(first)
    other = [name for name in own if own[name] != known.get(name) and name.partition(".")[2] not in FOUND_IN_TRAINING]
    if family_of(network) != family_of(first) or any(name.startswith("arch.") for name in other):
        return _describe_network(network)
    differences = ", ".join(f"{name.partition('.')[2]} {own[name]}" for name in other)
    return f"as network 0, trained with {differences}" if other else "as network 0"


def combine_logits(weights: tuple[float, float, float], forest: np.ndarray, networks: np.ndarray) -> np.ndarray:
    """Log-odds of a forest and of networks, added with weights after an intercept."""
    return weights[0] + weights[1] * forest + weights[2] * networks


def load_combined(folder: str | Path) -> Combined:
    """Read a detector that `Combined.save` wrote.

    Raises
    ------
    CombinedError
        If its config is not that of a combined detector, or its networks cannot judge together.
    ForestError, ModelError
        If one of its parts cannot be loaded.
    StoredFileError
        If the folder holds a pickle anywhere, or a config is no JSON object.
    """
    folder = Path(folder)
    refuse_pickles(folder)
    config = read_json(folder / _CONFIG)
    try:
        values = validate_settings(_CombinedConfig, config, str(folder / _CONFIG))
    except SettingsError as error:
        raise CombinedError(
            f"{folder / _CONFIG} is not that of a combined detector ({error}); copy the whole folder again"
        ) from error
    networks = tuple(load_model(folder / _NETWORK.format(number)) for number in range(values.n_networks))
    if len({network.grid for network in networks}) > 1:
        raise CombinedError(f"the networks in {folder} take strips of different grids; copy the whole folder again")
    if not all(network.config.context_names for network in networks):
        raise CombinedError(f"a network in {folder} sees no context; copy the whole folder again")
    return Combined(load_forest(folder / FOREST), networks, values.weights, values.ask_above)


@settings_class()
class _CombinedConfig:
    """What ``config.json`` of a combined detector holds."""

    model_type: Literal["shutterless-combined"]
    n_networks: Annotated[int, Field(ge=1, le=_MOST_NETWORKS)]
    weights: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    ask_above: Annotated[float, Field(lt=_MOST_LOGIT)]  # minus infinity where all triggers are shown

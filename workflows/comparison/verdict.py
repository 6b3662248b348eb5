"""Choose a model and give the reasons: the best, and the simplest that is not worse within one standard error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shutterless.models.evaluation.forced_choice import ForcedChoice, judge_labels
from shutterless.models.training.learning_curves import RATE_TOO_HIGH, RATE_TOO_LOW, STILL_LEARNING, UNSTABLE
from shutterless.workflows.comparison.pairs import Gap, Pairing
from shutterless.workflows.tracking.record import FORCED_CHOICE
from shutterless.workflows.tracking.tracking import Tracking

SHOWN = 8  # models that are drawn and paired with the best
MOST_PAIRED = 40  # models whose events are read in the search for the simplest
FEW_BLOCKS = 15
_MEASURE = "completeness"  # by which the detectors of an evaluation are judged
_FRACTIONS = (_MEASURE, "accuracy")
_UNFINISHED = (STILL_LEARNING, RATE_TOO_HIGH, RATE_TOO_LOW, UNSTABLE)
_SAME_RATE = 0.1


@dataclass(frozen=True)
class Verdict:
    """Verdict of a comparison.

    Parameters
    ----------
    best, simplest : str
        Names of models; equal if no simpler one is as good.
    lines : tuple of str
        The reason, its limits, and the results of the controls, in one or two sentences each.
    gaps : tuple of Gap
        How far models are behind the best, for those shown and those tried as the simplest.
    """

    best: str
    simplest: str
    lines: tuple[str, ...]
    gaps: tuple[Gap, ...]

    def text(self) -> str:
        """Return all lines."""
        return "\n".join(self.lines)


def judge_evaluation(summary: pd.DataFrame, events: pd.DataFrame) -> str:
    """Verdict on the detectors of one evaluation, in the words of `choose_model`, after a line with rate and numbers.

    Parameters
    ----------
    summary : DataFrame
        One row per detector. One that was trained with shuffled labels is not ranked.
    events : DataFrame
        From `shutterless.workflows.comparison.counted_events.list_events`.
    """
    honest = summary[~summary["shuffled"]].sort_values(["completeness", "detector"], ascending=[False, True])
    if honest.empty:
        return "Trained with shuffled labels: what these detectors find is chance, and none is ranked."
    best = honest.iloc[0]
    bounds = {f"metrics.{_MEASURE}_{end}": honest[f"{_MEASURE}_{end}"] for end in ("low", "high")}
    models = honest.assign(
        model=honest["detector"], key=honest["detector"], mean=honest[_MEASURE], spread=np.nan, n_seeds=1,
        diagnoses=[()] * len(honest), **bounds, **{"metrics.rate_per_hour": honest["rate_per_hour"]},
    ).reset_index(drop=True)  # fmt: skip
    shares = format_interval(best[f"{_MEASURE}_low"], best[f"{_MEASURE}_high"], _MEASURE)
    counted = f"{best['rate_low']:.0f} to {best['rate_high']:.0f}, {best['live_hours']:.2f} amplifier-hours"
    rate = f"{best['rate_per_hour']:.0f} false alarms per amplifier-hour (95 % Poisson interval {counted})"
    verdict = choose_model(models, pd.DataFrame({"twin": [], "family": [], "shares": []}), _MEASURE, events)
    return f"At {rate}, {best['n_events']:.0f} events. {verdict.lines[0]} Its 95 % interval is {shares}.\n" + "\n".join(
        verdict.lines[1:]
    )


def choose_model(models: pd.DataFrame, controls: pd.DataFrame, metric: str, source: Tracking | pd.DataFrame) -> Verdict:
    """Apply the one-standard-error rule to models that were judged on the same data.

    Parameters
    ----------
    models : DataFrame
        From `shutterless.workflows.comparison.models.group_models`, the best first.
    controls : DataFrame
        From `shutterless.workflows.comparison.models.group_controls`.
    metric : str
    source : Tracking or DataFrame
        As `shutterless.workflows.comparison.pairs.Pairing`.

    Notes
    -----
    Breiman, Friedman, Olshen & Stone (1984, Classification and Regression Trees, §3.4.3) choose the simplest model
    within one standard error of the best. They use the error of the best. Here it is the error of the difference on
    the same events, which is smaller, so fewer simple models pass. Simple means few parameters.
    """
    best = models.iloc[0]
    pairing = Pairing(source, metric, best)
    gaps = {row["model"]: pairing.compare(row) for _, row in models.iloc[1:SHOWN].iterrows()}
    simplest, left_out = _find_simplest(models, best, pairing, gaps)
    lines = [
        _describe_best(best, metric, len(models)),
        _describe_simplest(best, simplest, models, gaps, metric, left_out),
        *_describe_limits(best, simplest, models, gaps, left_out),
        *_describe_controls(models, controls)[:SHOWN],
    ]
    return Verdict(best["model"], simplest["model"], tuple(filter(None, lines)), tuple(gaps.values()))


def _find_simplest(
    candidates: pd.DataFrame, best: pd.Series, pairing: Pairing, gaps: dict[str, Gap]
) -> tuple[pd.Series, int]:
    """The passing model with the fewest parameters, and the number of models that might pass but were not tried.

    Models that are least behind are tried first, as they are likeliest to pass.
    """
    simpler = candidates[candidates["n_parameters"] < best["n_parameters"]]
    hopeful = [row for _, row in simpler.iterrows() if pairing.may_pass(row)]
    for row in hopeful:
        if row["model"] not in gaps and len(gaps) < MOST_PAIRED:
            gaps[row["model"]] = pairing.compare(row)
    tried = [row for row in hopeful if row["model"] in gaps]
    passing = [row for row in tried if gaps[row["model"]].within_one_error]
    return min(passing, key=lambda row: row["n_parameters"], default=best), len(hopeful) - len(tried)


def format_value(value: float, metric: str) -> str:
    """Format a value of a metric: per cent if it is a fraction."""
    return f"{100 * value:.1f} %" if metric in _FRACTIONS else f"{value:.4g}"


def format_gap(value: float, error: float, metric: str) -> str:
    """Format a difference with its standard error: in points if the metric is a fraction."""
    scale, unit, digits = (100, " points", ".1f") if metric in _FRACTIONS else (1, "", ".3g")
    known = f" ± {scale * error:{digits}}" if np.isfinite(error) else ""
    return f"{scale * value:{digits}}{known}{unit}".replace("-", "−")


def format_interval(low: float, high: float, metric: str, unit: str = " %") -> str:
    """Format two bounds, with a unit if the metric is a fraction; a dash if they are unknown."""
    if not np.isfinite(low + high):
        return "–"
    scale, unit, digits = (100, unit, ".1f") if metric in _FRACTIONS else (1, "", ".4g")
    return f"{scale * low:{digits}} to {scale * high:{digits}}{unit}".replace("-", "−")


def describe_size(n_parameters: float) -> str:
    """Format a number of parameters."""
    if not np.isfinite(n_parameters):
        return "size not logged"
    return f"{n_parameters:,.0f} parameters" if n_parameters else "no learned parameters"


def _describe_best(best: pd.Series, metric: str, n_candidates: int) -> str:
    over = f" (mean of {best['n_seeds']} seeds, spread {format_gap(best['spread'], np.nan, metric)})"
    return (
        f"Best of {n_candidates} by {metric}: {best['model']}, {describe_size(best['n_parameters'])}, "
        f"{format_value(best['mean'], metric)}{over if best['n_seeds'] > 1 else ''}."
    )


def _describe_simplest(
    best: pd.Series,
    simplest: pd.Series,
    candidates: pd.DataFrame,
    gaps: dict[str, Gap],
    metric: str,
    left_out: int,
) -> str:
    if len(candidates) == 1:
        return "There is no other to compare it with."
    if simplest["model"] != best["model"]:
        gap = gaps[simplest["model"]]
        behind = f"is behind by {format_gap(gap.behind, gap.standard_error, metric)}"
        return (
            f"Take {simplest['model']} ({describe_size(simplest['n_parameters'])}): it {behind} ({gap.how}), not worse "
            "within one standard error, and of all such models it has the fewest parameters; on these data nothing "
            f"speaks for the {best['n_parameters'] - simplest['n_parameters']:,.0f} more of {best['model']}."
            + ("" if simplest["n_parameters"] else " That it gives neither probability nor kind is not in this metric.")
        )
    simpler = candidates[candidates["n_parameters"] < best["n_parameters"]]
    if simpler.empty:
        nearest = gaps[candidates.iloc[1]["model"]]
        return (
            f"Take {best['model']}: none has fewer parameters. The next, {nearest.model}, is behind by "
            f"{format_gap(nearest.behind, nearest.standard_error, metric)} ({nearest.how})."
        )
    unknown = [gap.model for gap in gaps.values() if not np.isfinite(gap.standard_error)]
    nearest = gaps[simpler.iloc[0]["model"]] if simpler.iloc[0]["model"] in gaps else next(iter(gaps.values()))
    why = f"the nearest, {nearest.model}, is behind by {format_gap(nearest.behind, nearest.standard_error, metric)}"
    if unknown:
        return (
            f"Take {best['model']} for now: whether a simpler one is as good cannot be told, because of "
            f"{len(unknown)} models no error is known ({why}, {nearest.how}). Run more seeds, or evaluate again."
        )
    none = "none of the simpler ones that were tried" if left_out else "no simpler one"
    sure = ""
    if nearest.low <= 0:
        interval = format_interval(nearest.low, nearest.high, metric, " points")
        sure = f" That lead is not sure: its 95 % interval, {interval}, holds 0."
    return f"Take {best['model']}: {none} comes within one standard error; {why} ({nearest.how}).{sure}"


def _describe_limits(
    best: pd.Series, simplest: pd.Series, candidates: pd.DataFrame, gaps: dict[str, Gap], left_out: int
) -> list[str]:
    """Limits of the verdict that a reader must know."""
    lines = []
    if any(not gap.paired and np.isfinite(gap.standard_error) for gap in gaps.values()):
        lines.append(
            "Not all models could be paired event by event; an error without pairing is larger than it need be, which "
            "favours the simpler model."
        )
    blocks = [gap.n_blocks for gap in gaps.values() if gap.paired]
    trained = candidates[candidates["n_parameters"] != 0]
    if len(trained) and trained["n_seeds"].max() == 1:
        lines.append("Each model was trained with one seed: what another seed would give is not in these errors.")
    elif (trained["n_seeds"] == 1).any():
        alone = ", ".join(trained.loc[trained["n_seeds"] == 1, "model"].head(SHOWN))
        lines.append(f"Trained with one seed only, so that their scatter is not in the errors: {alone}.")
    if len(candidates) > 2:
        lines.append(
            f"The best of {len(candidates)} was picked on the data it is judged by: its value is a little high."
        )
    if blocks and min(blocks) < FEW_BLOCKS:
        known_to = 100 / np.sqrt(2 * (min(blocks) - 1))
        lines.append(
            f"Only {min(blocks)} blocks were resampled, so the errors themselves are known to {known_to:.0f} %."
        )
    lines += _describe_rates(candidates)
    for row in (best, simplest) if simplest["model"] != best["model"] else (best,):
        unfinished = [name for name in row["diagnoses"] if name.startswith(_UNFINISHED)]
        if unfinished:
            share = f" ({len(unfinished)} of {len(row['diagnoses'])} seeds)" if len(row["diagnoses"]) > 1 else ""
            lines.append(
                f"The learning curve of {row['model']} is {unfinished[0]!r}{share}: this compares trainings, not "
                "what the models could reach."
            )
    if left_out:
        lines.append(
            f"{left_out} simpler models that are further behind, but perhaps not by more than the error, were not "
            f"tried: the events of at most {MOST_PAIRED} are read."
        )
    return lines


def _describe_rates(candidates: pd.DataFrame) -> list[str]:
    """Warn of different rates of false alarms: completeness is comparable at one rate only."""
    rates = candidates.get("metrics.rate_per_hour", pd.Series(dtype=float)).dropna()
    if rates.empty or rates.max() <= (1 + _SAME_RATE) * rates.min():
        return []
    return [
        f"The models have different rates of false alarms ({rates.min():.3g} to {rates.max():.3g} per "
        "amplifier-hour): some raise too few for it."
    ]


def _describe_controls(models: pd.DataFrame, controls: pd.DataFrame) -> list[str]:
    """State for each model with controls whether true labels taught it something."""
    lines = []
    for control in controls.itertuples():
        twins = models[models["twin"] == control.twin]
        if twins.empty:
            lines.append(f"Control: {control.family} with shuffled labels; its twin with true ones is not among these.")
            continue
        twin = twins.iloc[0]
        names = FORCED_CHOICE, f"{FORCED_CHOICE}_error"
        share, error = (float(twin.get(f"metrics.{name}", np.nan)) for name in names)
        if not control.shares or not np.isfinite(share):
            lines.append(f"Control: {control.family} with shuffled labels; not all of its runs logged {FORCED_CHOICE}.")
            continue
        verdict = judge_labels(twin["model"], ForcedChoice(share, error), control.shares, int(twin["n_seeds"]))
        lines.append(f"Control: {verdict.text()}")
    return lines

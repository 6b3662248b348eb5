"""Group tracked runs to models: runs that differ only in the seed belong to one model."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from shutterless.workflows.tracking.record import DATA_HASH, FORCED_CHOICE, LEARNING_CURVE, MODEL_HASH

GROUPS = ("arch", "train")
# results and hardware of a training, not its settings
_OUTCOMES = ("params.train.seed", "params.train.best_epoch", "params.train.n_strips", "params.train.device",
             "params.arch.n_parameters", "params.train.shuffled_labels", "params.train.log_steps")  # fmt: skip
_SEED_NUMBER = re.compile(r"[ _.-]*(seed)?[ _.-]*\d+$")
_FAMILY = "params.arch.family"
_EPOCHS = "params.train.epochs"  # a control has fewer
HIGHER_IS_BETTER = ("completeness", "completeness_low", "completeness_high", "strips_per_second", "auc", "accuracy",
                    "forced_choice")  # fmt: skip


class CompareError(ValueError):
    """Runs that cannot be compared."""


def is_ascending(metric: str) -> bool:
    """Whether a smaller value of a metric is better."""
    return metric.rpartition(".")[2] not in HIGHER_IS_BETTER


def prepare_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Add to each run its model.

    Parameters
    ----------
    runs : DataFrame
        From `shutterless.workflows.tracking.tracking.fetch_runs`, newest first.

    Returns
    -------
    DataFrame
        With ``key`` (of the model, without its seed), ``twin`` (the same key for true and shuffled labels, and for any
        number of epochs), ``seed``, ``control`` (labels were shuffled), ``n_parameters`` and ``data`` (hash of the
        judged data).

    Notes
    -----
    The run that trained a model and the runs that evaluated it share the hash of the weights. What one of them
    logged holds for all.
    """
    runs = _share_by_weights(runs)
    family = _column(runs, _FAMILY).fillna(runs["name"])
    n_parameters = pd.to_numeric(_column(runs, "params.arch.n_parameters"), errors="coerce")
    control = _column(runs, "tags.shuffled").eq("true") | _column(runs, "params.train.shuffled_labels").eq("True")
    trained_on = _column(runs, "params.data.training_hash").fillna(_column(runs, "params.data.manifest_hash"))
    settings = _hyperparameter_columns(runs)
    known = runs[settings].notna().any(axis=1) if settings else pd.Series(False, index=runs.index)
    parts = [family, trained_on.where(n_parameters > 0), runs["name"].where(~known)]
    twin = _join([*parts, *(runs[name] for name in settings if name != _EPOCHS)])
    seed = _first_known(runs, "params.train.seed", "params.data.training_seed", "params.data.seed")
    seed = seed.where(n_parameters.ne(0))  # a detector without training has none
    prepared = runs.assign(
        family=family, twin=twin, key=_join([twin, _column(runs, _EPOCHS), control]), seed=seed.fillna("–"),
        control=control, n_parameters=n_parameters, data=_judged_on(runs),
    )  # fmt: skip
    siblings = prepared.groupby(["key", "seed"])["data"].transform("first")
    own = _column(runs, "params.data.manifest_hash")
    return prepared.assign(data=prepared["data"].fillna(siblings).fillna(own).fillna(""))


def _hyperparameter_columns(runs: pd.DataFrame) -> list[str]:
    """Columns with the settings of a model and its training, without the seed."""
    return [
        name
        for name in runs
        if name.startswith(tuple(f"params.{group}." for group in GROUPS)) and name not in (*_OUTCOMES, _FAMILY)
    ]


def choose_data(prepared: pd.DataFrame, metric: str) -> str:
    """Hash of the data on which most of the selected models were judged; the newest of equals."""
    judged = prepared[prepared[f"metrics.{metric}"].notna() & ~prepared["control"]]
    if judged.empty:
        raise CompareError(f"all runs with {metric!r} are controls with shuffled labels: none can be chosen")
    counts = judged.groupby("data", sort=False)["key"].nunique()
    return str(counts.idxmax())


def group_models(prepared: pd.DataFrame, metric: str, data: str) -> pd.DataFrame:
    """One row per model that was judged on some data, the best first; controls with shuffled labels are none.

    Parameters
    ----------
    prepared : DataFrame
        From `prepare_runs`.
    metric : str
    data : str
        Runs judged on other data are left out.

    Returns
    -------
    DataFrame
        ``model`` (its name here), ``n_parameters``, ``n_seeds``, ``mean`` and ``spread`` (standard deviation over
        seeds; NaN for one) of the metric, means of all other metrics as ``metrics.*``, hyperparameters, ``key``,
        ``twin``, ``run_ids`` (of the judged runs), ``curve_ids`` (of runs with a learning curve) and ``diagnoses`` (of
        the learning curves, in words).

    Notes
    -----
    Of several runs with the same model and seed the newest counts: a repetition is no further seed.
    """
    column = f"metrics.{metric}"
    own = prepared[(prepared["data"] == data) & ~prepared["control"]].assign(
        judged_id=prepared["run_id"].where(prepared[column].notna()),
        curve_id=prepared["run_id"].where(_column(prepared, "metrics.validation.loss").notna()),
        diagnoses=_column(prepared, f"tags.{LEARNING_CURVE}"),
    )
    seeds = own.groupby(["key", "seed"], sort=False).first().reset_index()
    seeds = seeds[seeds[column].notna()]
    by_key = seeds.groupby("key", sort=False)
    metrics = [name for name in seeds if name.startswith("metrics.")]
    settings = _hyperparameter_columns(seeds)
    models = by_key[["name", "family", "twin", "n_parameters", *settings]].first()
    models["name"] = by_key["name"].agg(_common_name)
    models = models.join(by_key[metrics].mean(numeric_only=True))
    models["n_seeds"] = by_key.size()
    models["mean"], models["spread"] = by_key[column].mean(), by_key[column].std()
    for plural, single in (("run_ids", "judged_id"), ("curve_ids", "curve_id"), ("diagnoses", "diagnoses")):
        models[plural] = by_key[single].agg(lambda values: list(values.dropna()))
    models = models.reset_index().sort_values(["mean", "name"], ascending=[is_ascending(metric), True])
    models.insert(0, "model", _label_models(models))
    return models.reset_index(drop=True)


def group_controls(prepared: pd.DataFrame) -> pd.DataFrame:
    """Trainings with shuffled labels, one row for each model that they are controls of.

    Returns
    -------
    DataFrame
        ``twin``, ``family``, ``shares`` (of right choices, of each seed that logged one).
    """
    controls = prepared[prepared["control"]].assign(share=_column(prepared, f"metrics.{FORCED_CHOICE}"))
    seeds = controls.groupby(["twin", "seed"], sort=False).first().reset_index()
    by_twin = seeds.groupby("twin", sort=False)
    shares = by_twin["share"].agg(lambda values: list(values.dropna().astype(float)))
    return by_twin[["family"]].first().assign(shares=shares).reset_index()


def _label_models(models: pd.DataFrame) -> list[str]:
    """Names that distinguish models: the run's name, the family, or the hyperparameters that differ."""
    for name in ("name", "family"):
        if models[name].is_unique:
            return list(models[name])
    labels = pd.Series("", index=models.index)
    for family, part in models.groupby("family", sort=False):
        differing = [column for column in _hyperparameter_columns(part) if part[column].nunique(dropna=False) > 1]
        for position, row in part[differing].iterrows():
            known = row.dropna().index[:3]
            described = ", ".join(f"{column.rpartition('.')[2]} {row[column]}" for column in known)
            labels[position] = f"{family} {described}".strip()
    repeated = labels.groupby(labels).cumcount()
    return [f"{label} ({count + 1})" if count else label for label, count in zip(labels, repeated, strict=True)]


def differing_hyperparameters(models: pd.DataFrame, group: str) -> tuple[pd.DataFrame, list[str]]:
    """Tabulate the hyperparameters that differ between models.

    Parameters
    ----------
    models : DataFrame
        From `group_models`.
    group : str
        One of `GROUPS`.

    Returns
    -------
    table : DataFrame
        A row for each hyperparameter that has at least two values among the models that have it; a column per model.
    single : list of str
        Hyperparameters of a single family, which cannot be compared.
    """
    columns = [name for name in _hyperparameter_columns(models) if name.startswith(f"params.{group}.")]
    compared = [name for name in columns if models[name].nunique() > 1]
    owners = {name: models.loc[models[name].notna(), "family"].unique() for name in columns}
    single = [
        f"{_short(name)} ({owners[name][0]})" for name in columns if name not in compared and len(owners[name]) == 1
    ]
    table = models.set_index("model")[compared].T.rename(index=_short)
    return table, single if models["family"].nunique() > 1 else []


def _common_name(names: pd.Series) -> str:
    """Name of a model with runs ``cnn-1``, ``cnn-2``, …: without the number of the seed."""
    bare = {_SEED_NUMBER.sub("", name) for name in names}
    return bare.pop() if names.nunique() > 1 and len(bare) == 1 else str(names.iloc[0])


def _short(column: str) -> str:
    return column.split(".", 2)[2]


def _share_by_weights(runs: pd.DataFrame) -> pd.DataFrame:
    logged = [name for name in runs if name.startswith(("params.arch.", "params.train.", f"tags.{LEARNING_CURVE}"))]
    logged += [name for name in ("params.data.training_hash", "params.data.training_seed") if name in runs]
    weights = _column(runs, f"tags.{MODEL_HASH}")
    if weights.isna().all() or not logged:
        return runs
    shared = runs[logged].groupby(weights).transform("first").reindex(runs.index)
    return runs.assign(**runs[logged].fillna(shared))


def _judged_on(runs: pd.DataFrame) -> pd.Series:
    """Hash of the data behind a run's metrics; unknown for a run without an evaluation."""
    evaluated = _column(runs, "metrics.completeness").notna()
    known = _column(runs, f"tags.{DATA_HASH}")
    return known.where(known.notna() | evaluated.eq(False), _column(runs, "params.data.manifest_hash"))


def _first_known(runs: pd.DataFrame, *columns: str) -> pd.Series:
    found = _column(runs, columns[0])
    for name in columns[1:]:
        found = found.fillna(_column(runs, name))
    return found


def _column(runs: pd.DataFrame, name: str) -> pd.Series:
    return runs[name] if name in runs else pd.Series(np.nan, index=runs.index, dtype=object)


def _join(parts: Iterable[pd.Series]) -> pd.Series:
    texts = [part.astype("string").fillna("") for part in parts]
    return texts[0].str.cat(texts[1:], sep="\x1f")

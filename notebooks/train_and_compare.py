# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train and compare
#
# Three families of networks read the same strips: an MLP that takes all pixels at once, a CNN whose kernels run along
# time, and a transformer that reads the strip as a sequence of patches. They compete with the template bank, which has
# no trained parameters and is nearly optimal for its own shapes. This notebook trains the three on a few simulated
# frames (some minutes on two cores), and compares them.
#
# **All frames here are simulated**, and few. `make run` makes the full comparison, with its results in the
# [README](../README.md). Further reading: [docs/experiments.md](../docs/experiments.md).
#
# Run: `python notebooks/train_and_compare.py`, or open it in Jupyter with jupytext.

# %%
import json

import matplotlib.pyplot as plt
import pandas as pd
from workspace import open_notebook, simulate_night

from shutterless.workflows.comparison.evaluate import evaluate_detectors
from shutterless.workflows.pages.figures import (
    plot_comparison,
    plot_completeness,
    plot_learning_curves,
    plot_reliability,
)
from shutterless.workflows.settings.settings import load_settings
from shutterless.workflows.training.train import TrainTask, draw_training_set, fit_detector

notebook = open_notebook("train_and_compare")
FAMILIES = ("mlp", "cnn", "transformer")

# %% [markdown]
# ## Training frames and held-out frames
#
# A detector must never be tested on stars it was trained on, because it could remember them. So the training frames
# are one sequence of one CCD, and the held-out frames are others with other seeds: one sequence without events, on
# which false alarms are counted, and one with events of known truth.

# %%
rows = notebook.choose(9000, 2000)
training = simulate_night(
    notebook.folder / "training", {"training": {"seed": 101, "ccds": (1,), "rows": rows, "events": 0}}
)
held_out = simulate_night(
    notebook.folder / "held_out",
    {
        "quiet": {"seed": 303, "ccds": (4,), "rows": rows, "files": notebook.choose(2, 1), "events": 0},
        "events": {"seed": 404, "ccds": (5,), "rows": rows, "events": notebook.choose(40, 10), "rho": (4.0, 20.0)},
    },
)
events = pd.read_parquet(held_out.truth).query("is_event")
print(f"{len(events)} held-out events: {events['kind'].value_counts().to_dict()}")

# %% [markdown]
# ## Injected examples
#
# Events and cosmic rays are *injected* into the event-free training frames, and strips are cut where the template bank
# triggers. So the networks are trained on the same kind of strips that they score in a search.

# %%
n_examples = notebook.choose(6000, 300)
settings = load_settings(
    overrides=[f"train.n_examples={n_examples}", f"train.epochs={notebook.choose(3, 1)}", "train.batch_size=64"]
)
examples = draw_training_set(training.store, settings.train)
print(
    f"{len(examples)} strips, {100 * examples.labels.is_event.mean():.0f} % with an event, "
    f"{examples.grid.n_tokens} patches of {examples.grid.n_columns} columns × {examples.grid.patch_rows} binned rows"
)

# %% [markdown]
# ## Training
#
# The blue line is the training loss, the red one the validation loss on amplifiers with other stars. If both fall, the
# network is still learning. If red rises while blue falls, it is over-fitting. Blue may lie *above* red, because
# dropout disturbs the network only while it trains.

# %%
summaries = {}
figure, all_axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained", sharey=True)
for family, axes in zip(FAMILIES, all_axes, strict=True):
    folder = notebook.folder / "models" / family
    summaries[family] = fit_detector(TrainTask(family, family), examples, settings.train_for(family), folder)
    plot_learning_curves(pd.read_parquet(folder / "history.parquet"), axes, legend=family == FAMILIES[0])
    axes.set_title(f"{family}: {summaries[family]['n_parameters']:,} parameters")
notebook.keep(figure, "learning_curves")
pd.DataFrame(summaries).loc[["n_parameters", "train_seconds", "best_epoch"]].T

# %% [markdown]
# ## All detectors on the same held-out frames
#
# Every detector gets the threshold at which it has a given number of false alarms on the frames without events. Then
# the events that it finds are counted. ρ is the S/N of an event in a filter of its exact shape, and the grey curve is
# the completeness of that filter, which no detector exceeds except by chance.

# %%
folders = [str(notebook.folder / "models" / family) for family in FAMILIES]
evaluation = evaluate_detectors(
    held_out.store,
    references=[*folders, "template-bank"],
    truth=held_out.truth,
    out=notebook.folder / "evaluation",
    settings=settings.evaluate,
)
print(evaluation.text())

# %%
completeness = evaluation.completeness
pooled = completeness[completeness["kind"] == "all"]
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
eta = json.loads((notebook.folder / "evaluation" / "eta.json").read_text())["eta"]
plot_completeness(pooled, axes, eta=eta)
notebook.keep(figure, "completeness")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
plot_comparison(evaluation.summary, left)
plot_reliability(evaluation.reliability, right)
notebook.keep(figure, "comparison")

# %% [markdown]
# ## What to conclude
#
# The bars are 95 % intervals over the same few events. Two detectors whose bars overlap widely are **equal within the
# errors of these frames**. Then the simpler one is the better choice, because it is faster and has fewer parts that
# can fail. So ask in this order:
#
# 1. Is any network better than the template bank by more than the error? If not, use the bank: it needs no training
#    and does not depend on simulations.
# 2. Which of the networks that are equal to the best has the fewest parameters?
# 3. Are its probabilities calibrated (right: points on the diagonal)?
#
# `shutterless compare` answers the same questions with several seeds, a paired bootstrap and learning curves over all
# tracked runs.

# %%
summary = evaluation.summary.set_index("detector")
best = summary["completeness"].idxmax()
equal = summary[summary["completeness_high"] >= summary.loc[best, "completeness"]]
simplest = equal["n_parameters"].fillna(0).idxmin()
bank = "is" if "template-bank" in equal.index else "is not"
print(
    f"best here: {best} ({100 * summary.loc[best, 'completeness']:.0f} %); the simplest whose interval reaches that: "
    f"{simplest}; the template bank {bank} among them"
)

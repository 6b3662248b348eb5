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
# # Pretraining without labels
#
# A language model learns by predicting hidden words. The same works on frames: half of the patches of a strip are
# hidden, and the transformer's encoder learns to predict them from the rest. It needs only frames, no labels and no
# injected events.
#
# White noise cannot be predicted: the best prediction is 0. So every error is given as a ratio to that of predicting
# 0, and **1.00 is the floor for noise**, not a failure. The ratio falls below 1 where the rest of a strip determines a
# patch: a long event, a star that moves, pickup.
#
# **The frames are simulated.** Run: `python notebooks/pretraining.py`, or open it in Jupyter with jupytext. Further
# reading: [docs/explore.md](../docs/explore.md); the command is `shutterless pretrain`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from workspace import open_notebook, simulate_night

from shutterless.models.pretraining.masked_patches import load_masked_model
from shutterless.models.pretraining.plots import plot_pretraining, plot_reconstruction
from shutterless.models.pretraining.reconstruction import reconstruct
from shutterless.workflows.pages.figures import plot_learning_curves
from shutterless.workflows.settings.settings import load_settings
from shutterless.workflows.training.pretrain import pretrain_model
from shutterless.workflows.training.train import TrainTask, draw_training_set, fit_detector
from shutterless.workflows.training.unlabelled import draw_unlabelled

notebook = open_notebook("pretraining")

# %% [markdown]
# ## Frames with structure to predict
#
# Residuals in perfectly still air hold only noise and rare events. So these frames have a moving atmosphere and faults
# of the detector, which leave structure in the residual.

# %%
scene = {"seed": 21, "rows": notebook.choose(12000, 2000), "events": notebook.choose(20, 6), "rho": (8.0, 40.0)}
night = simulate_night(notebook.folder / "night", {"night": {**scene, "atmosphere": True, "detector": True}})
settings = load_settings(
    overrides=[
        f"pretrain.n_strips={notebook.choose(8000, 200)}",
        f"pretrain.epochs={notebook.choose(8, 1)}",
        f"train.n_examples={notebook.choose(1000, 160)}",
        f"train.epochs={notebook.choose(4, 1)}",
        "train.batch_size=64",
    ]
)
train = settings.train_for("transformer")

# %%
folder = notebook.folder / "pretrained"
summary = pretrain_model(night.store, settings=settings.pretrain, train=train, out=folder)
history = pd.read_parquet(folder / "history.parquet")
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
plot_pretraining(history, axes)
notebook.keep(figure, "learning_curve")

# %% [markdown]
# Each dashed line is for the validation strips of one source: cut anywhere, at a star, or at a trigger of the template
# bank. A line that stays at 1 is a source whose patches cannot be predicted from the rest of the strip.
#
# ## What it predicts
#
# The four panels of one strip are the strip, its visible patches in one of the turns, the prediction of every patch
# while it was hidden, and the difference. Shown is the strip that was predicted best. Most strips look empty in the
# third panel, because the best prediction of noise is 0.

# %%
model = load_masked_model(folder)
drawn = draw_unlabelled(night.store, settings.pretrain, train)
judged = np.flatnonzero(drawn.for_validation)[: notebook.choose(600, 60)]
found = reconstruct(model, drawn.strips[judged], grid=drawn.grid)
best = int(np.nanargmin(found.strip_ratio))
figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
plot_reconstruction(found, best, axes)
notebook.keep(figure, "reconstruction")
print(f"this strip was cut at: {drawn.sources[judged[best]]}; ratio over all {len(judged)} strips {found.ratio:.3f}")

# %% [markdown]
# ## Fine-tuning against training from scratch
#
# The same detector is trained twice on the same few examples: once from random weights, once with the pretrained
# encoder and a new head. Events are injected; triggers of the template bank in the moving air are added as examples
# without event. Compare the **validation** curves (red). This is one pair of trainings with one seed, so a difference
# of a few hundredths is chance.

# %%
quiet = simulate_night(
    notebook.folder / "quiet",
    {
        "quiet": {
            "seed": 22,
            "ccds": (2,),
            "rows": notebook.choose(9000, 2000),
            "events": 0,
            "atmosphere": True,
            "detector": True,
        }
    },
)
examples = draw_training_set(quiet.store, train)
starts = {"from scratch": None, "pretrained": folder}
figure, all_axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
rows = {}
for (name, init), axes in zip(starts.items(), all_axes, strict=True):
    out = notebook.folder / name.replace(" ", "_")
    fit_detector(TrainTask(name, "transformer"), examples, train, out, init=init)
    curve = pd.read_parquet(out / "history.parquet")
    plot_learning_curves(curve, axes)
    axes.set_title(f"{name}, {len(examples)} strips")
    validation = curve[curve["split"] == "validation"]
    rows[name] = {"best validation loss": validation["loss"].min(), "best validation AUC": validation["auc"].max()}
notebook.keep(figure, "fine_tuning")
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## What to conclude
#
# * Does the ratio fall below 1 for any source? Then the frames hold structure beyond noise; the third panel shows it.
# * Does fine-tuning start lower and end no worse? Then pretraining helps **for so few labels**; with thousands of
#   injected events, which cost nothing, expect equal results.
# * A strip that the model cannot predict is odd: the reconstruction error of every trigger of a night is used in [the
#   embedding of a night](embedding_of_a_night.py).

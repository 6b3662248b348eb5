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
# # The embedding of a night
#
# A detector knows only the kinds of events it was trained on. What else is in a night? Here every trigger becomes a
# point: the summary vector that the model's heads read. Strips that look alike to the model have neighbouring points;
# isolated points are worth a closer look. **No label is used** to find clusters and outliers. The night is simulated,
# so the truth is known; it is used only afterwards, to name the clusters.
#
# Run: `python notebooks/embedding_of_a_night.py`, or open it in Jupyter with jupytext. Further reading:
# [docs/explore.md](../docs/explore.md).

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from workspace import open_notebook, simulate_night

from shutterless.models.explain.embedding import embed_night, map_embedding, name_clusters, true_kinds
from shutterless.models.explain.embedding_plots import plot_embedding, plot_outlier_scores
from shutterless.models.explain.plots import plot_gallery
from shutterless.models.families import load_model
from shutterless.models.pretraining.masked_patches import load_masked_model
from shutterless.models.pretraining.reconstruction import reconstruct
from shutterless.pipeline.store.store import read_manifest
from shutterless.pipeline.tokens import unpatchify
from shutterless.workflows.settings.settings import load_settings
from shutterless.workflows.tracking.tracking import bundled_folder
from shutterless.workflows.training.pretrain import pretrain_model

notebook = open_notebook("embedding_of_a_night")

# %% [markdown]
# ## A night with everything in it
#
# Moving air, faults of the detector, satellites and meteors, cosmic rays, pickup, and events of four kinds.

# %%
scene = {"seed": 31, "rows": notebook.choose(12000, 2000), "events": notebook.choose(25, 10), "rho": (7.0, 25.0)}
nuisances = {"atmosphere": True, "detector": True, "sky_lights": True}
night = simulate_night(notebook.folder / "night", {"night": {**scene, **nuisances}})
model = load_model(bundled_folder() / "transformer")
found = embed_night(night.store, model)
print(f"{len(found)} triggers of {len(read_manifest(night.store))} amplifiers, {found.summaries.shape[1]} numbers each")

# %% [markdown]
# ## What a pretrained model cannot predict
#
# A small encoder is pretrained on the same night to predict hidden patches ([pretraining](pretraining.py)). Where it
# fails, the strip holds something unusual for the night. This second measure matters here: the bundled transformer
# normalizes each token, so its summary hardly depends on the *amplitude* of something odd.

# %%
settings = load_settings(
    overrides=[f"pretrain.n_strips={notebook.choose(6000, 200)}", f"pretrain.epochs={notebook.choose(5, 1)}"]
)
pretrain_model(
    night.store, settings=settings.pretrain, train=settings.train_for("transformer"), out=notebook.folder / "pretrained"
)
error = reconstruct(load_masked_model(notebook.folder / "pretrained"), found.strips).strip_error

# %% [markdown]
# ## The map
#
# The axes are the two directions in which the summaries differ most. Clusters are found by HDBSCAN; their names in the
# legend are from the truth. "Not injected" is noise, the effect of the atmosphere on bright stars, and faults that the
# truth table does not list. Rings mark the ten oddest triggers.

# %%
mapped = map_embedding(found.summaries, reconstruction_error=error)
kinds = true_kinds(found.triggers, pd.read_parquet(night.truth), read_manifest(night.store))
names = name_clusters(mapped.points["cluster"], kinds)
figure, axes = plt.subplots(figsize=(8.5, 6.5), layout="constrained")
plot_embedding(mapped.points, axes, explained=mapped.explained, names=names, n_outliers=10)
notebook.keep(figure, "map")
pd.crosstab(mapped.points["cluster"], pd.Series(kinds, name="truth"))

# %% [markdown]
# ## The oddest triggers
#
# Scores are in robust standard deviations, in falling order. The odd triggers are those before the bend of the curve;
# there is no natural threshold.

# %%
figure, axes = plt.subplots(figsize=(8.5, 4), layout="constrained")
plot_outlier_scores(mapped.points, axes, kinds=kinds)
notebook.keep(figure, "outlier_scores")

# %%
oddest = np.argsort(-mapped.points["outlier_score"].to_numpy())[:8]
strips = unpatchify(found.strips.patches[oddest], model.grid)[:, 0]
titles = [f"{i + 1}: {kinds[k]}, S/N {found.triggers['snr'].iloc[k]:+.0f}" for i, k in enumerate(oddest)]
figure, axes = plt.subplots(figsize=(10, 4.4), layout="constrained")
plot_gallery(strips, axes, titles=titles, limit=8)
axes.set_title("The eight oddest strips: time rightward, columns upward")
notebook.keep(figure, "oddest")

# %% [markdown]
# ## What to conclude
#
# * Inspect the oddest strips, not only their scores: every night has an oddest trigger. Expect those of the first 10 s
#   on top: while streaks still begin, the motion of the air cannot be removed from bright stars
#   ([docs/calibration.md](../docs/calibration.md)).
# * A cluster named "cosmic ray" or "not injected" is the same cause many times: a veto or a repair of the calibration
#   is worth more than a threshold.
# * Events that lie among noise in this plane need not be lost: it shows two directions of many, and the event decision
#   uses others.
# * Real frames have no truth: name clusters after inspecting a few strips of each.

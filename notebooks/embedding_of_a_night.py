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
# A detector knows the kinds of things it was taught. What else is in a night? Here every trigger becomes a point: the
# summary vector that the model's heads read. Points that lie together are strips that look alike to the model; points
# that lie alone are worth a look, whatever they are. **No label is used** to find clusters and outliers. Since the
# night is simulated, the truth is known, and used afterwards to say what the clusters hold.
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
model = load_model(bundled_folder())
found = embed_night(night.store, model)
print(f"{len(found)} triggers of {len(read_manifest(night.store))} amplifiers, {found.summaries.shape[1]} numbers each")

# %% [markdown]
# ## What a model of the frames cannot fill in
#
# A second voice: a small encoder is pretrained on the same night to fill in hidden patches
# ([pretraining](pretraining.py)). Where it fails, there is something in the strip that the night does not usually
# hold. It matters here: the bundled transformer normalizes each token, so by its summary alone it hardly sees how
# *much* of something odd there is.

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
# The two directions in which the summaries differ most. Clusters are HDBSCAN's; their names are the truth's, in the
# legend only. "Not injected" is noise, what the atmosphere does to bright stars, and faults that the truth table does
# not list. Rings: the ten oddest.

# %%
mapped = map_embedding(found.summaries, reconstruction_error=error)
kinds = true_kinds(found.triggers, pd.read_parquet(night.truth), read_manifest(night.store))
names = name_clusters(mapped.points["cluster"], kinds)
figure, axes = plt.subplots(figsize=(8.5, 6.5), layout="constrained")
plot_embedding(mapped.points, axes, explained=mapped.explained, names=names, n_outliers=10)
notebook.keep(figure, "map")
pd.crosstab(mapped.points["cluster"], pd.Series(kinds, name="truth"))

# %% [markdown]
# ## Who is odd?
#
# Scores in robust standard deviations, in falling order. Where the curve bends is where the odd ones end; there is no
# threshold that means anything by itself.

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
# * Look at the oddest strips, not at their scores: every night has a most odd trigger. Expect those of the first 10 s
#   on top: while streaks still begin, the air's motion cannot be taken out of bright stars
#   ([docs/calibration.md](../docs/calibration.md)).
# * A cluster that the truth names "cosmic ray" or "not injected" is one cause seen many times: a veto or a repair of
#   the calibration is worth more than a threshold.
# * Events that lie among noise in this plane need not be lost: it shows two directions of many, and not those the
#   event decision is read from.
# * On real frames there is no truth: name clusters by looking at a few strips of each.

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
# # A candidate under the lamp
#
# A detector says "event, 99 %". Why? This notebook takes one candidate and asks the models: where did the transformer
# look, which pixels and numbers moved its decision, and what do the kernels of a CNN wait for?
#
# **The frame is simulated**, so it is known what the candidate is. None of these pictures proves that a decision is
# right: they show whether it rests on the light of the star or on something it should not rest on.
#
# Run: `python notebooks/candidate_under_the_lamp.py`, or open it in Jupyter with jupytext. `SHUTTERLESS_CNN` may name
# the folder of a trained CNN (for example `runs/quickstart/models/cnn`); without it a small one is trained here.
# Further reading: [docs/explore.md](../docs/explore.md).

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from workspace import open_notebook, plot_trigger, simulate_night

from shutterless.models.explain.activation import maximise_activation, receptive_rows, strongest_kernels
from shutterless.models.explain.attention import attend
from shutterless.models.explain.embedding import true_kinds
from shutterless.models.explain.plots import (
    plot_attention,
    plot_attribution,
    plot_contributions,
    plot_gallery,
    plot_rollout,
)
from shutterless.models.explain.saliency import gradient_saliency, integrated_gradients
from shutterless.models.families import load_model
from shutterless.models.scoring import score_strips
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.examples.strips import choose_bins, cut_strips, strip_first_rows
from shutterless.pipeline.plots.frames import plot_strip
from shutterless.pipeline.store.store import open_amplifier, read_manifest
from shutterless.pipeline.tokens import unpatchify
from shutterless.workflows.settings.settings import load_settings
from shutterless.workflows.tracking.tracking import bundled_folder
from shutterless.workflows.training.train import TrainTask, draw_training_set, fit_detector

notebook = open_notebook("candidate_under_the_lamp")

# %% [markdown]
# ## One candidate
#
# A simulated amplifier with events; of the triggers that lie on one, the bundled transformer's surest between 8 and
# 15 σ: strong enough to be seen by eye, weak enough to be interesting.

# %%
scene = {"seed": 12, "rows": notebook.choose(9000, 3000), "events": notebook.choose(20, 12), "rho": (8.0, 18.0)}
night = simulate_night(notebook.folder / "night", {"lamp": scene})
entry = read_manifest(night.store)["entry"].iloc[0]
amplifier = open_amplifier(night.store, entry)
transformer = load_model(bundled_folder())
triggers = find_triggers(amplifier).assign(entry=entry)
triggers["truth"] = true_kinds(triggers, pd.read_parquet(night.truth), read_manifest(night.store))
scores = score_strips(transformer, cut_strips(amplifier, triggers, transformer.grid))
triggers = pd.concat([triggers, scores[["event_logit", "probability", "kind", "kind_probability"]]], axis=1)
likely = triggers[
    triggers["snr"].abs().between(8, 15) & triggers["truth"].isin(["flare", "burst", "glint", "occultation"])
]
candidate = likely.nlargest(1, "event_logit").iloc[0]
print(
    f"truth: {candidate['truth']}; the transformer says {candidate['kind']}, "
    f"and that it is an event with a probability of {candidate['probability']:.3f}"
)
figure = plt.figure(figsize=(9, 5), layout="constrained")
plot_trigger(amplifier, candidate, figure)
figure.suptitle(f"The candidate: a simulated {candidate['truth']}, S/N {candidate['snr']:+.1f}")
notebook.keep(figure, "candidate")

# %% [markdown]
# ## Where the transformer looked
#
# The strip is cut into patches of 8 binned rows; token 0 is the static profile with the numbers of stage 1.
# *Attention rollout* follows attention through the layers (Abnar & Zuidema 2020). Above the dashed line a row got
# more than an even share. Looking at a patch is not the same as taking it for an event: quiet patches are looked at
# too, to know what quiet is.

# %%
table = triggers.loc[[candidate.name]]
strip = cut_strips(amplifier, table, transformer.grid)
bins = int(choose_bins(table["width_rows"].to_numpy(), transformer.grid)[0])
first_row = int(strip_first_rows(table, np.array([bins]), transformer.grid)[0])
first_column = round(candidate["x"]) - transformer.grid.n_columns // 2
marked = (candidate["row_start"], candidate["row_stop"])
place = {"first_row": first_row, "rows_per_bin": bins, "marked_rows": marked}
residual = unpatchify(strip.patches, transformer.grid)[0, 0]
attention = attend(transformer, strip)

figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5.2), layout="constrained", sharex=True)
plot_strip(residual, above, first_column=first_column, **place)
plot_attention(attention.rows[0], below, **place)
above.set(xlabel="", title=f"The strip as the models get it, {bins} row{'s' * (bins > 1)} to a bin")
notebook.keep(figure, "attention")
print(f"{100 * attention.summary[0, 0]:.0f} % of the attention stays with token 0, the profile and the stage-1 numbers")

# %%
figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
plot_rollout(attention.rollout[0], axes)
axes.set_title("Rolled out through all layers")
notebook.keep(figure, "rollout")

# %% [markdown]
# ## What moved the decision
#
# *Integrated gradients* (Sundararajan et al. 2017) share out the event logit over pixels and numbers, against a strip
# in which nothing is to be seen; their sum is the difference of the two logits. The *gradient* says what a little
# more light would change. Purple speaks for an event, green against. A sound decision has its purple where the star's
# light is.
#
# The strip of nothing has no light but *average* stage-1 numbers, and half of the strips a model is trained on hold
# an event: by itself it may well be given a positive logit.

# %%
shares = integrated_gradients(transformer, strip)
gradient = gradient_saliency(transformer, strip)
figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5.2), layout="constrained", sharex=True)
plot_attribution(shares.strip(transformer.grid)[0, 0], above, first_column=first_column, **place)
plot_attribution(
    gradient.strip(transformer.grid)[0, 0], below, first_column=first_column, label="Gradient (logit per σ)", **place
)
above.set(xlabel="", title="Integrated gradients")
below.set_title("Gradient")
notebook.keep(figure, "saliency")
print(f"sum of the attributions less the difference of the logits: {shares.completeness_error[0]:+.5f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
totals = shares.by_input()
plot_contributions(
    [values[0] for values in totals.values()], ["pixels", "shared rows", "static profile", "stage-1 numbers"], left
)
plot_contributions(shares.features[0], transformer.config.feature_names, right)
left.set_title(f"Logit {shares.logit[0]:+.2f}, of a strip of nothing {shares.baseline_logit[0]:+.2f}")
right.set_title("The stage-1 numbers one by one")
notebook.keep(figure, "contributions")

# %% [markdown]
# ## What a CNN waits for
#
# Each kernel answers to some pattern most. *Activation maximisation* (Erhan et al. 2009) finds it by climbing from
# random starts, at a fixed norm: here 10, so a matched filter would see each of these patterns at S/N 10. Shown are
# the eight kernels of a layer that answer this candidate most.
#
# In the first layer a kernel's favourite is its own weights, and these still hold much of the random numbers they
# started as. Look at the last layer: a band in the middle columns is a star's place, red where the kernel waits for
# more light, blue for less (an occultation).

# %%
given = os.environ.get("SHUTTERLESS_CNN")
if not given:
    settings = load_settings(
        overrides=[f"train.n_examples={notebook.choose(8000, 400)}", f"train.epochs={notebook.choose(3, 1)}"]
    )
    quiet = simulate_night(
        notebook.folder / "quiet", {"quiet": {"seed": 55, "rows": notebook.choose(9000, 2000), "events": 0}}
    )
    given = notebook.folder / "cnn"
    fit_detector(
        TrainTask("cnn", "cnn"), draw_training_set(quiet.store, settings.train), settings.train_for("cnn"), given
    )
cnn = load_model(given)
cnn_strip = cut_strips(amplifier, table, cnn.grid)
print(f"the CNN gives this candidate {score_strips(cnn, cnn_strip)['probability'].iloc[0]:.3f}")

# %%
for layer in (0, len(cnn.convolutions) - 1):
    kernels = strongest_kernels(cnn, cnn_strip, layer)
    found = maximise_activation(cnn, layer, kernels, n_steps=notebook.choose(200, 60))
    titles = [
        f"kernel {kernel}, cosine {cosine:.2f}" for kernel, cosine in zip(found.kernels, found.agreement, strict=True)
    ]
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    plot_gallery(found.best[:, 0], axes, titles=titles)
    axes.set_title(
        f"Convolution {layer + 1}: preferred inputs ({receptive_rows(cnn, layer)} binned rows rightward, columns up)"
    )
    notebook.keep(figure, f"kernels_{layer + 1}")

# %% [markdown]
# ## What to conclude
#
# * Do the attributions lie on the star's columns, in the event's rows? Then the decision rests on its light. If they
#   lie elsewhere, in a neighbour's streak or in the row context, look again before you believe it.
# * How much came from the stage-1 numbers alone? Much of the event logit may: the S/N is an input, and a good one.
# * The cosine says whether every start ended in the same pattern: near 1 it is *the* favourite, otherwise one of
#   several. Columns that work together in the middle look like a star; single pixels look like the cosmic rays the
#   CNN must tell apart.
# * How such strips lie among all those of a night: [the embedding of a night](embedding_of_a_night.py).

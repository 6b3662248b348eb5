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
# # Explain a candidate
#
# A detector calls a candidate an event with 99 % probability. Why? This notebook takes one candidate and shows which
# rows the transformer attends to, which pixels and features determine its score, and to which patterns the kernels of
# a CNN respond.
#
# **The frame is simulated**, so the true kind of the candidate is known. None of these pictures proves that a decision
# is right. They show whether it depends on the light of the star or on something else.
#
# Run: `python notebooks/explain_a_candidate.py`, or open it in Jupyter with jupytext. `SHUTTERLESS_CNN` may name
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

notebook = open_notebook("explain_a_candidate")

# %% [markdown]
# ## One candidate
#
# The amplifier is simulated, with events. The candidate is the trigger on an event, between 8 and 15 σ, to which the
# bundled transformer gives the highest probability: bright enough for the eye, faint enough to be interesting.

# %%
scene = {"seed": 12, "rows": notebook.choose(9000, 3000), "events": notebook.choose(20, 12), "rho": (8.0, 18.0)}
night = simulate_night(notebook.folder / "night", {"lamp": scene})
entry = read_manifest(night.store)["entry"].iloc[0]
amplifier = open_amplifier(night.store, entry)
transformer = load_model(bundled_folder() / "transformer")
triggers = find_triggers(amplifier).assign(entry=entry)
triggers["truth"] = true_kinds(triggers, pd.read_parquet(night.truth), read_manifest(night.store))
scores = score_strips(transformer, cut_strips(amplifier, triggers, transformer.grid))
triggers = pd.concat([triggers, scores[["event_logit", "probability", "kind", "kind_probability"]]], axis=1)
likely = triggers[
    triggers["snr"].abs().between(8, 15) & triggers["truth"].isin(["flare", "burst", "glint", "occultation"])
]
candidate = likely.nlargest(1, "event_logit").iloc[0]
print(
    f"truth: {candidate['truth']}; the transformer classifies it as {candidate['kind']} "
    f"and gives an event the probability {candidate['probability']:.3f}"
)
figure = plt.figure(figsize=(9, 5), layout="constrained")
plot_trigger(amplifier, candidate, figure)
figure.suptitle(f"The candidate: a simulated {candidate['truth']}, S/N {candidate['snr']:+.1f}")
notebook.keep(figure, "candidate")

# %% [markdown]
# ## Attention of the transformer
#
# The strip is cut into patches of 8 binned rows; token 0 is the static profile with the stage-1 features.
# *Attention rollout* combines the attention of all layers (Abnar & Zuidema 2020). Above the dashed line, a row has
# more than an even share. High attention does not mean that a patch looks like an event: the model also attends to
# patches of noise, to compare with them.

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
above.set(xlabel="", title=f"The strip as input of the models, {bins} row{'s' * (bins > 1)} to a bin")
notebook.keep(figure, "attention")
print(
    f"{100 * attention.summary[0, 0]:.0f} % of the attention stays with token 0, the profile and the stage-1 features"
)

# %%
figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
plot_rollout(attention.rollout[0], axes)
axes.set_title("Rolled out through all layers")
notebook.keep(figure, "rollout")

# %% [markdown]
# ## Contributions to the score
#
# *Integrated gradients* (Sundararajan et al. 2017) distribute the event logit over pixels and features, relative to an
# empty strip; their sum is the difference of the two logits. The *gradient* is the effect of a little more light.
# Purple favours an event, green does not. In a sound decision, the purple pixels are those with the star's light.
#
# The empty strip has residuals of 0 but *average* stage-1 features, and half of the training strips hold an event.
# Its logit may therefore be positive.

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
print(f"sum of the attributions minus the difference of the logits: {shares.completeness_error[0]:+.5f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
totals = shares.by_input()
plot_contributions(
    [values[0] for values in totals.values()], ["pixels", "shared rows", "static profile", "stage-1 numbers"], left
)
plot_contributions(shares.features[0], transformer.config.feature_names, right)
left.set_title(f"Logit {shares.logit[0]:+.2f}, of an empty strip {shares.baseline_logit[0]:+.2f}")
right.set_title("Each stage-1 feature")
notebook.keep(figure, "contributions")

# %% [markdown]
# ## Patterns of a CNN's kernels
#
# *Activation maximisation* (Erhan et al. 2009) finds the input that activates a kernel most, by gradient ascent from
# random starts at a fixed norm. The norm here is 10, so each pattern has S/N 10 in a matched filter. Shown are the
# eight kernels of a layer with the largest activations on this candidate.
#
# In the first layer the pattern of a kernel is its own weights, which still resemble their random start. Patterns of
# the last layer are easier to read: a band in the middle columns is the position of the star, red where the kernel
# responds to more light, blue where it responds to less (an occultation).

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
# * Do the attributions lie on the star's columns, in the event's rows? Then the decision depends on its light. If they
#   lie elsewhere, in a neighbour's streak or in the row context, check the candidate before you believe it.
# * How much of the logit comes from the stage-1 features? It may be much: the S/N is one of them.
# * The cosine compares the patterns of all starts. Near 1 the kernel has a single optimum, otherwise several. A pattern
#   of several columns in the middle looks like a star; single pixels look like cosmic rays, which the CNN must
#   distinguish from events.
# * Such strips among all triggers of a night: [the embedding of a night](embedding_of_a_night.py).

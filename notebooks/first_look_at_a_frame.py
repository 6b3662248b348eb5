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
# # A first look at a frame
#
# In continuous readout the shutter stays open while the CCD is clocked row by row. A star does not move on the sky, so
# it is in the same column in every row: it becomes a **streak**, and the row axis of the image is **time**.
#
# This notebook reads one amplifier, calibrates it, and shows the residual. It simulates a frame; to use one of your
# own, set `SHUTTERLESS_FRAME` to its path. No continuous-readout frames are public, so **everything you see without
# that variable is simulated**.
#
# Run: `python notebooks/first_look_at_a_frame.py` (figures go to `runs/notebooks/`), or open it in Jupyter with
# jupytext. Further reading: [docs/calibration.md](../docs/calibration.md), [docs/simulator.md](../docs/simulator.md).

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from workspace import level_of_columns, open_notebook, plot_trigger, simulate_night

from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.plots.frames import plot_frame, plot_light_curve, plot_streaks
from shutterless.pipeline.reading.exposures import read_exposure, read_info
from shutterless.pipeline.results.lightcurves import fit_light_curves
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier

notebook = open_notebook("first_look_at_a_frame")

# %%
given = os.environ.get("SHUTTERLESS_FRAME")
if given:
    path = Path(given)
else:
    scene = {"seed": 7, "rows": notebook.choose(6000, 3600), "events": 8, "rho": (8.0, 25.0)}
    path = simulate_night(notebook.folder, {"simulated": scene}).files[0]

info = read_info(path)
quadrant, readout = next(iter(info.readouts.items()))
print(
    f"{path.name}: {info.profile.name}, {info.n_rows} rows of {info.n_columns} columns, quadrants {list(info.readouts)}"
)
print(f"{readout.row_rate_hz:g} rows a second, one row every {1000 / readout.row_rate_hz:.2f} ms")

# %% [markdown]
# ## The raw frame
#
# `read_exposure` turns the raw quadrant into *read order*: row 0 was read first, column 0 of a row was read first.
# Time runs down. If the shutter opened with the first row, you see the **ramp**: the first rows were exposed for a
# short time only, so the background rises, and each streak begins at its own row, the star's distance from the
# register.

# %%
frame = read_exposure(path, quadrant)
n_rows = min(len(frame.pixels_adu), 3600)
figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
plot_frame(frame.pixels_adu[:n_rows:4, :600], axes, row_step=4)
axes.set_title("Raw pixels of the first 600 columns, every fourth row")
notebook.keep(figure, "raw_pixels")

# %% [markdown]
# ## The stars
#
# The mean over time is a profile over columns, whose peaks are the stars. `ingest_amplifier` calibrates the amplifier
# into a store and lists the streaks with position, magnitude and, where it was measured, the first row of each.

# %%
entry = ingest_amplifier(path, quadrant, notebook.folder / "one", resume=True)["entry"]
amplifier = open_amplifier(notebook.folder / "one", entry)
figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
plot_streaks(level_of_columns(amplifier), amplifier.streaks, axes)
notebook.keep(figure, "streaks")
amplifier.streaks.sort_values("mag")[["streak_id", "x", "mag", "y0"]].head()

# %% [markdown]
# ## The residual
#
# Sky, streaks and the signal shared by all columns are subtracted. The rest, divided by its noise, is the **residual**,
# in units of σ. If the calibration is right, it is white noise of width 1, and any excess is an event, a cosmic ray,
# or a fault. The short dark spots below are mostly cosmic rays. Masked pixels are grey; in the ramp these are the rows
# in which a streak begins.

# %%
first_row = max(0, amplifier.n_rows - 900)
residual = np.asarray(amplifier.residual[0, :600, first_row:], np.float32)
figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
plot_frame(residual.T, axes, first_row=first_row, limit_sigma=6)
axes.set_title("Residual of the same columns, the last 900 rows")
notebook.keep(figure, "residual")
whole = np.asarray(amplifier.residual[0], np.float32)
width = (np.nanpercentile(whole, 84.13) - np.nanpercentile(whole, 15.87)) / 2
print(f"width of the middle 68 %: {width:.3f} σ (1 for pure noise); masked: {100 * np.isnan(whole).mean():.2f} %")

# %% [markdown]
# ## The light of one star
#
# All streaks are fitted together in every row, so that the light of blended stars is divided by their profiles. Shown
# is the brightest star whose streak is present in a third of the rows, with 0.2 s per point. In simulated still air a
# star varies only by photon noise; real stars scintillate. Nothing is drawn before the streak begins.

# %%
rows_per_point = round(0.2 * readout.row_rate_hz)
curves = fit_light_curves(amplifier, bin_rows=rows_per_point)
known = np.isfinite(curves.flux_e_row).mean(axis=1) > 0.3
star = int(np.argmin(np.where(known, curves.streaks["mag"].fillna(99), 99)))
flux, error = curves.flux_e_row[star], curves.error_e_row[star]
figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
plot_light_curve(curves.time_s, (flux - np.nanmedian(flux)) / error, axes)
axes.set(
    title=f"Star {curves.streaks['streak_id'].iloc[star]}, magnitude {curves.streaks['mag'].iloc[star]:.2f}: "
    f"flux about its median, {rows_per_point} rows a point",
    xlabel="Read time since the shutter opened (s)",
)
notebook.keep(figure, "light_curve")

# %% [markdown]
# ## Triggers
#
# The template bank moves boxes of one row to 3.4 s along every column and reports triggers above 5 σ. `veto` gives the
# reason why a trigger is probably no event: `sharp` is a cosmic ray (narrower than a star can be). For the classical
# detector, triggers without a veto are events.

# %%
triggers = find_triggers(amplifier)
print(triggers["veto"].replace("", "none").value_counts().to_string())
kept = triggers[triggers["veto"] == ""].assign(strength=lambda table: table["snr"].abs())
strongest = kept.nlargest(1, "strength")
for _, trigger in strongest.iterrows():
    figure = plt.figure(figsize=(9, 5), layout="constrained")
    plot_trigger(amplifier, trigger, figure)
    figure.suptitle(f"Strongest trigger without a veto: S/N {trigger['snr']:+.1f}, column {trigger['x']:.1f}")
    notebook.keep(figure, "strongest_trigger")
kept[["x", "row_start", "row_stop", "width_rows", "snr", "amplitude_e"]].head(10)

# %% [markdown]
# ## What to conclude
#
# * If the width of the residual is 1.00 ± 0.02, its units are σ. If not, read the report on calibration quality first:
#   `shutterless report STORE`.
# * A trigger is not yet a discovery: at 5 σ, noise alone makes several in each amplifier. The next notebook counts the
#   false alarms of detectors: [train and compare](train_and_compare.py).
# * One trigger in detail: [explain a candidate](explain_a_candidate.py).

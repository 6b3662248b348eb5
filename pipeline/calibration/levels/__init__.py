"""Fit the level of every column over time: baseline, the ramp after the shutter opens, onsets of streaks."""

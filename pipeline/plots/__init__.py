"""Figures of pixels, streaks and events. Data and Axes in, Axes out."""

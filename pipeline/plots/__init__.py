"""Figures of pixels, streaks and events. Functions take data and Axes and return the Axes."""

"""Boosted trees on the numbers of a trigger and its context; no pixels, no torch."""

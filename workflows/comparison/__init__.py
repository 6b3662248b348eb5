"""Comparison of detectors on the same frames, and of tracked runs, with a verdict in words."""

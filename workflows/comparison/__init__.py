"""Comparison: detectors on the same frames, and tracked runs side by side with a verdict in words."""

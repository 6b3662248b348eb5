"""Tracked runs side by side: means over seeds, paired differences, curves, and a verdict in words."""

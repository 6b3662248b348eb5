"""Pretraining without labels: a transformer learns to fill in patches that are hidden from it."""

"""Evaluation: false alarms, completeness, loss and calibrated probabilities."""

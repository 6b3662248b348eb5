"""Learned detectors: transformer, CNN and MLP with one input contract and one output type."""

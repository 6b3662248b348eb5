"""Sweeps of hyperparameters: search spaces, trials, pruning, the same budget for every family."""

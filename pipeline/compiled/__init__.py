"""Compiled loops that several stages share: pure numerics without astronomy."""

"""Instrument profiles that ship with the package."""

"""Streaks and candidates to right ascension and declination."""

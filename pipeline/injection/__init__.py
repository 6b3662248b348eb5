"""Injection of events of known strength into real data: into amplifiers in memory, and into copies of files."""

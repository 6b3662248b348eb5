"""Frames that never were: stars, air, events, artefacts and camera in the true file format, with the truth beside."""

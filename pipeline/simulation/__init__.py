"""Simulation of frames with stars, air, events, artefacts and a camera, in the true file format, with their truth."""

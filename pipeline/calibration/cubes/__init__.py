"""Calibration of image cubes: stars that drift, slow trends, cosmic rays."""

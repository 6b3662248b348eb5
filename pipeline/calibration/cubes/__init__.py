"""Calibrate image cubes: drifting stars, slow trends, cosmic rays."""

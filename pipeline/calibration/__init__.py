"""Calibrate exposures: ADU to residuals in units of their own noise. Start with `exposure`."""

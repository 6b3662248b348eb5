"""Make or convert frames: simulate, inject, ingest, lightcurve."""

"""Commands that make or convert frames: simulate, inject, ingest, lightcurve."""

"""From FITS frames to candidates: read, calibrate, store, tokenize and search, without any learned model."""

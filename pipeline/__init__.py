"""From FITS frames to candidates: reading, calibrating, storing, tokenizing and searching, without any learned model."""

"""Search: FITS files to candidates, one segment of rows at a time."""

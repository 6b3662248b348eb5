"""Read FITS files into rows in read order, with the times of each row."""

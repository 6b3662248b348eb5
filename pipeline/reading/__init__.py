"""Reading: FITS files to rows in read order, with what the clocks say of each row."""

"""Image motion, focus and transparency: measured on all stars together and subtracted from each streak."""

"""Reports of runs, searches and stores, one HTML file each."""

"""The report of a run, a search or a store: one HTML file."""

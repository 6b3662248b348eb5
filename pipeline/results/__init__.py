"""Results: triggers to tables with times and names, and light curves of stars."""

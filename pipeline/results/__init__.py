"""Results: tables of candidates with times and names, and light curves of stars."""

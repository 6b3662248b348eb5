"""Rates of events on the sky, or upper limits, from searches and their measured completeness."""

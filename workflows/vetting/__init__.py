"""Vetting: a page on which people label candidates, among them injected events that measure the people."""

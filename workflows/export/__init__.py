"""Candidates to where people work: tables of the Virtual Observatory, regions, pages and alerts."""

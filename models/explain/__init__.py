"""Explain the decisions of a model, and map the triggers of a night by its summaries."""

"""Registered models: cards, gates, promotion, rollback and their history."""

"""Training: from labelled strips to a model that keeps its best epoch."""

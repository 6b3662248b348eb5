"""Training of models: from stores to folders with weights."""

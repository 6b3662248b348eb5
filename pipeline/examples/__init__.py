"""Training examples: strips around triggers, labelled by injected events."""

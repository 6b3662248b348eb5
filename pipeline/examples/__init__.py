"""What models learn from: strips around triggers, labelled where events were injected."""

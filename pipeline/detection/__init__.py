"""Detection: residuals to triggers, with the vetoes of the classical detector."""

"""Detection: from residuals to triggers, and the vetoes of the classical detector."""

"""The commands. Each parses its arguments, calls one function of `shutterless.workflows` and prints the result."""

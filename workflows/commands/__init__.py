"""The commands, each of which parses, calls one function of `shutterless.workflows` and prints its result."""

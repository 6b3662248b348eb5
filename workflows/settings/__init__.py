"""Settings of all commands, and the configuration files that ship with the package."""

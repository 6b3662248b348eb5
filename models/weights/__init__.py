"""The model that ships with the package: the default of `search`."""

"""The model that ships with the package: what `search` uses unless told otherwise."""

"""HTML pages: their parts, tables and figures, and the folders that they are read from."""

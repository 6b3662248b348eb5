"""What HTML pages are made of: tables, figures, and the folders they are read from."""

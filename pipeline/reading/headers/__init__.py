"""Read headers as people write them: mend cards, find the end of a file, understand dates."""

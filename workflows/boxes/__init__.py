"""Boxes on images: labels that people drew, a detector trained on them, and what it finds."""

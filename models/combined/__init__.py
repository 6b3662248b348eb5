"""A forest and networks that judge the same triggers together."""

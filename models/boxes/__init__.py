"""A one-stage detector with attention that boxes what an image shows: light echoes, trails, ghosts, artefacts."""

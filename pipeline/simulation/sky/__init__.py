"""What the simulator puts into the sky: stars, air, ghosts, and lights that move."""

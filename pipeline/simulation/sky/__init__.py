"""The simulated sky: counts of stars, air, ghosts, moving lights and examples of events."""

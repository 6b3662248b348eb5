"""Find the streaks of an amplifier and fit their positions, fluxes and widths."""

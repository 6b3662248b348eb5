"""Which star stands where: positions, fluxes and widths of streaks."""

"""Events of known strength put into real data: into amplifiers in memory, and into copies of files."""

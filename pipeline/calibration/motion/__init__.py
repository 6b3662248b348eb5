"""What the air does to streaks, measured on all stars together and taken out of each."""

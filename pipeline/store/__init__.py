"""Store calibrated amplifiers on disk, written whole or not at all."""

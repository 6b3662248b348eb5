"""What the simulator's camera adds: photon noise, faults of the detector, cosmic rays."""

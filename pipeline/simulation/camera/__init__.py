"""The simulated camera: photon noise, faults of the detector, cosmic rays and pickup."""

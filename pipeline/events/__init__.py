"""What an event looks like: its class, its light curve, and the best S/N that is possible."""

"""Where work runs: in this process, on local workers, on a cluster."""

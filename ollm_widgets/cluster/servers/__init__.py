"""What Ray Serve runs: the registry, and a host for each node."""

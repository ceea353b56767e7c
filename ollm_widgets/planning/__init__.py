"""What would run, whether it fits and how fast: decided without loading anything."""

"""What this machine is, what speaks against running models on it, and how to mend that."""

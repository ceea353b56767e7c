"""Backends: each builds and runs an unmodified transformers model in its own way."""

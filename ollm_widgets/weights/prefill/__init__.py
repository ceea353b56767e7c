"""Prompts that pass each layer once, in chunks."""

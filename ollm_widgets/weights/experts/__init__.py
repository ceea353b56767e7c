"""Mixtures of experts that move only the experts which were chosen."""

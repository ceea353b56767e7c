"""Quantized weights that move as their checkpoint stores them, and are expanded where they run."""

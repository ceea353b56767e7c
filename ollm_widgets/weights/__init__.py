"""Weights: where each tensor lies on disk, how a layer is read, and where layers live."""

"""Buffers through which streamed layers pass."""

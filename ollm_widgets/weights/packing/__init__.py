"""Lossless packing of bfloat16 weights."""

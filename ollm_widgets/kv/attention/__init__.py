"""Decode attention that reads keys and values where they are: on the device or beside it."""

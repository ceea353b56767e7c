"""Prefixes of conversations that a later kernel finds again on disk."""

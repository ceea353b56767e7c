"""Runtimes that stay in memory: handed out, kept, made room for, given back."""

"""Runtimes: loading a model by a plan, generating with it, keeping several of them."""

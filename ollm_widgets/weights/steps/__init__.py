"""Single tokens: one pass over a cache of fixed addresses, captured where it can be."""

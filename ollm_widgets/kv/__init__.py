"""KV caches: what a strategy name means, and the transformers cache that keeps it."""

"""The widgets: each a thin view over a session."""

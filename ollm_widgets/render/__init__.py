"""Typed objects as HTML cards, Markdown and text: pure functions, no IPython."""

"""Keys and values of full attention over a hot tail, pages in host memory, and pages on disk."""

"""Where the bytes of a model are on disk, and how its tensors come from them."""

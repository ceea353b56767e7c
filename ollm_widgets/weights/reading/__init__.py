"""Reading tensors into buffers, on threads of their own."""

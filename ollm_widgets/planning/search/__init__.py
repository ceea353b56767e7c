"""Where layers go and through which buffers the others stream: the fastest that fits."""

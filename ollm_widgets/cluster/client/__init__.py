"""How a notebook reaches a cluster: the connection, its calls, and the loader over them."""

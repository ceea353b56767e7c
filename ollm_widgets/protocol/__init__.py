"""Messages between kernel and page: their schema, their codec, views of a session."""

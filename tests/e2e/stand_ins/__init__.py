"""Small programs that keep a real child's promises to the supervisor, and can break them."""

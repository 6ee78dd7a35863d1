"""The data plane: sockets, and one request's way from a caller to a provider and back."""

"""The control plane: a process and a port of its own, so that it can never slow a request."""

"""Traces: the record of a request, the store that keeps it, and the questions it answers."""

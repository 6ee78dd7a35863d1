"""The process that starts, watches, restarts and ends all others; it publishes the snapshot."""

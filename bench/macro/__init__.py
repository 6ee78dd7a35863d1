"""Whole processes over loopback, side by side in one run."""

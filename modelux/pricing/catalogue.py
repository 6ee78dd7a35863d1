"""The price catalogue as bytes for the native module."""


def catalogue_bytes() -> bytes:
    """Return the catalogue's data file; empty where there is none."""
    return b""

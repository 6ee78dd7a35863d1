"""modelux: a self-hosted control plane for LLM traffic."""

from typing import Final

__version__: Final = "0.1.0"

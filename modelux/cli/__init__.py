"""The command line: one module a word, each with `configure` and `run`."""

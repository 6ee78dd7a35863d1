"""From `modelux.toml` to the snapshot that workers serve from; versions and audit between."""

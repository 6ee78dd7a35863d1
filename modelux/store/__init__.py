"""What is shared between processes in `state_dir`: the LMDB map, its stamps and its places."""

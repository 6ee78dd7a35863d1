"""What the gateway costs, measured beside nginx and a direct call; never imported by it."""

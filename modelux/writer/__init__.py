"""The trace writer: the process that takes traces out of the workers' rings and stores them."""

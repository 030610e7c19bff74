"""The memory-mapped data set."""

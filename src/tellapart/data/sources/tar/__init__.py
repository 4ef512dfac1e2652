"""WebDataset tar shards, on a disk or behind an address: their index, their samples, and how they are read."""

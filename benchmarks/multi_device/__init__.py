"""Several devices: what they send, and times of sharded convolutions."""

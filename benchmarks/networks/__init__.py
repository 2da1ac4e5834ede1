"""Training steps and inference of whole networks."""

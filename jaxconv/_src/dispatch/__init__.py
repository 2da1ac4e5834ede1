"""Which implementation computes an operator, and why not the others."""

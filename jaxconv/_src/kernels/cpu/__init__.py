"""The three operators by the C++ engine."""

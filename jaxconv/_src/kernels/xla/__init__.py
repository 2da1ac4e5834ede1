"""The three operators in plain XLA, on every platform."""

"""The CPU engine, operator by operator."""

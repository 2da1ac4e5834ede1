"""One operator on many devices."""

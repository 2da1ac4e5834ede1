"""Convolutions for JAX: every kind, to any order, as fast as the machine allows."""

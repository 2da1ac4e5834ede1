"""Existing programs, computed by jaxconv's primitives: lax's convolutions, and whole networks."""

"""lax's own convolutions, computed by jaxconv's primitives."""

"""The three primitives: differentiation, batching, sharding types, and how functions call them."""

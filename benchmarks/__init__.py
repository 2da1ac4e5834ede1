"""Benchmarks, run as modules: ``python -m benchmarks.cpu.run``."""

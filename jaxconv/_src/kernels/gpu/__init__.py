"""Depthwise operators in Pallas for NVIDIA GPUs."""

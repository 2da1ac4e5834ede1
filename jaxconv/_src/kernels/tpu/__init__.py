"""Depthwise operators in Pallas for TPUs."""

"""The TPU kernels, compiled for devices that are not there."""
